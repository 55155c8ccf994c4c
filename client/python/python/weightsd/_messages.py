"""Messages of the interface. Written by `generate_messages.py` from `proto/`; change those."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ._message import Choice, Message


class Phase(Choice):
    """The phase of a load."""

    #: Not set.
    UNSPECIFIED = "UNSPECIFIED"
    #: Finding the model and its files.
    RESOLVE = "RESOLVE"
    #: Opening shards and reading their headers.
    OPEN = "OPEN"
    #: Planning and auditing.
    AUDIT = "AUDIT"
    #: Downloading what is missing.
    DOWNLOAD = "DOWNLOAD"
    #: Comparing files with their hashes.
    VERIFY = "VERIFY"
    #: Computing tensors that the checkpoint lacks in the wanted form.
    DERIVE = "DERIVE"
    #: Bringing a component that is lent already into memory.
    PREFETCH = "PREFETCH"
    #: Copying tensors into the memory of a card.
    UPLOAD = "UPLOAD"


class FileState(Choice):
    """The phase of one file's download."""

    #: Not set.
    UNSPECIFIED = "UNSPECIFIED"
    #: It waits for its turn.
    WAITING = "WAITING"
    #: Another program downloads it into the same cache.
    ELSEWHERE = "ELSEWHERE"
    #: The daemon hashes the bytes of an earlier attempt before it asks for the rest.
    CHECKING = "CHECKING"
    #: Bytes arrive.
    DOWNLOADING = "DOWNLOADING"
    #: The connection broke; the daemon tries another one soon.
    RETRYING = "RETRYING"


@dataclass(frozen=True)
class FileProgress(Message):
    """How far the download of a file is."""

    #: Path below the model's directory.
    path: str = ""
    #: What is being done.
    state: FileState = FileState.UNSPECIFIED
    #: Bytes on the disk.
    bytes_done: int = 0
    #: Its length in bytes.
    bytes_total: int = 0


@dataclass(frozen=True)
class Progress(Message):
    """Progress of a load."""

    #: What is being done.
    phase: Phase = Phase.UNSPECIFIED
    #: Path of the current file, below the model's directory.
    file: str = ""
    #: Files done.
    files_done: int = 0
    #: Files in all; 0 while unknown.
    files_total: int = 0
    #: Bytes done in this phase.
    bytes_done: int = 0
    #: Bytes in all in this phase; 0 while unknown.
    bytes_total: int = 0
    #: Requests that wait for this load, this one included.
    sharers: int = 0
    #: Bytes a second, over the last seconds; 0 while unknown.
    bytes_per_second: int = 0
    #: Remaining time at that rate; unset while unknown.
    remaining: timedelta | None = None
    #: Files being downloaded; only the first ones when there are many.
    files: tuple[FileProgress, ...] = ()


@dataclass(frozen=True)
class RunningLoad(Message):
    """A load that is under way."""

    #: Component's name.
    component: str = ""
    #: The spec of the request.
    spec: str = ""
    #: How far it is.
    progress: Progress | None = None


@dataclass(frozen=True)
class Limits(Message):
    """Limits of the daemon."""

    #: The keep-alive for requests that name none. The shortest possible one is zero.
    keep_alive_default: timedelta | None = None
    #: The longest keep-alive that is granted.
    keep_alive_max: timedelta | None = None
    #: Connections at once.
    connections: int = 0
    #: Bytes of a safetensors header.
    header_bytes: int = 0
    #: How long one load may take, downloads not counted.
    load_deadline: timedelta | None = None
    #: Bytes that downloads and derived images leave free on the disk.
    free_space_floor: int = 0
    #: Bytes that derived images may take together.
    image_budget: int = 0
    #: Bytes that they take.
    image_bytes: int = 0


@dataclass(frozen=True)
class RunningDownload(Message):
    """A download that is under way."""

    #: What it downloads: components, repository and revision.
    what: str = ""
    #: How far it is, and how many requests wait for it.
    progress: Progress | None = None


@dataclass(frozen=True)
class DepartedComponent(Message):
    """A component that was dropped while processes had it mapped. Its memory is free when the last of them lets go, or
    ends.
    """

    #: Id.
    id: str = ""
    #: Name.
    name: str = ""
    #: Bytes of its memory.
    bytes: int = 0


@dataclass(frozen=True)
class CardStatus(Message):
    """The memory of a card, as far as weightsd uses it."""

    #: The card's UUID.
    device: str = ""
    #: Bytes of components that are loaded or held.
    loaded_bytes: int = 0
    #: Bytes that components may take together (`vram_budget`); unset when only the card's memory bounds them.
    budget: int = 0
    #: Leases on components in it.
    leases: int = 0
    #: Components that were dropped, and whose memory processes keep because they have it mapped.
    departed: tuple[DepartedComponent, ...] = ()


@dataclass(frozen=True)
class Status(Message):
    """The daemon's state."""

    #: Version of the program.
    version: str = ""
    #: Process id.
    pid: int = 0
    #: Path of the socket.
    socket: str = ""
    #: When it started.
    started: datetime | None = None
    #: Components in the cache.
    components: int = 0
    #: Leases held.
    leases: int = 0
    #: Bytes of tensors that are lent or warm.
    tensor_bytes: int = 0
    #: Physical memory of the daemon itself, in bytes.
    memory_bytes: int = 0
    #: Loads under way.
    loads: tuple[RunningLoad, ...] = ()
    #: Connections open.
    connections: int = 0
    #: Limits of the daemon.
    limits: Limits | None = None
    #: The Hugging Face cache used when a request names none.
    hub_cache: str = ""
    #: Downloads under way.
    downloads: tuple[RunningDownload, ...] = ()
    #: Address of the hub.
    hub_endpoint: str = ""
    #: Whether the daemon never asks the hub.
    offline: bool = False
    #: Number of this interface. It changes when an older client would misread an answer, and with nothing else: a
    #: client compares it with its own and refuses a daemon that has another one. 0 is a daemon from before there
    #: were numbers.
    protocol: int = 0
    #: Whether the daemon finds a token for the hub now. It never sends the token.
    has_hub_token: bool = False
    #: Lines of the daemon's log that were lost, because nobody read them or they could not be written.
    log_lines_lost: int = 0
    #: When the image was last used that would go first; unset when there is no image.
    oldest_image_used: datetime | None = None
    #: Bytes that are locked in memory for holders who wished it.
    pinned_bytes: int = 0
    #: Cards that components are on, or were.
    cards: tuple[CardStatus, ...] = ()


class ModelKind(Choice):
    """The kind of place that a model lies in."""

    #: Not set.
    UNSPECIFIED = "UNSPECIFIED"
    #: A directory named by path.
    DIRECTORY = "DIRECTORY"
    #: One `.safetensors` or `.gguf` file named by path.
    FILE = "FILE"
    #: A snapshot in a Hugging Face cache.
    HUB = "HUB"


@dataclass(frozen=True)
class ResolvedModel(Message):
    """A model with its revision pinned."""

    #: Directory, file, or hub snapshot.
    kind: ModelKind = ModelKind.UNSPECIFIED
    #: Where the files lie: the directory, the file, or the snapshot's folder.
    path: str = ""
    #: `org/repo`; empty unless kind is HUB.
    repo: str = ""
    #: The revision that was asked for, as given or `main`; empty unless kind is HUB.
    revision: str = ""
    #: The 40-digit commit that the revision means; empty unless kind is HUB.
    commit: str = ""
    #: The Hugging Face cache that was used; empty unless kind is HUB.
    hub_cache: str = ""
    #: What the caller should know, such as that the hub could not be asked for a newer commit; mostly empty.
    warning: str = ""


@dataclass(frozen=True)
class ModelFile(Message):
    """One file that a component is made of."""

    #: Path below the model's directory, with `/` between parts.
    path: str = ""
    #: Length in bytes; 0 when the file is absent.
    length: int = 0
    #: Whether the file is on this machine.
    present: bool = False
    #: The blob's name in the Hugging Face cache (its sha-256 or git-sha1); empty elsewhere.
    blob: str = ""


@dataclass(frozen=True)
class ComponentFiles(Message):
    """A component of a model, before any of its files is opened."""

    #: `transformer`, `text_encoder`, `vae`, ...
    name: str = ""
    #: Its weight files, in shard order.
    files: tuple[ModelFile, ...] = ()
    #: Sum of the lengths of `files`.
    bytes: int = 0
    #: The obstacle to opening the component; empty when there is none.
    problem: str = ""
    #: Prefix of its tensors in a file that holds several components; empty elsewhere.
    prefix: str = ""


@dataclass(frozen=True)
class ModelConfig(Message):
    """A configuration of a model, as its family parsed it."""

    #: `transformer`, `text_encoder`, `vae`, `scheduler`, ...
    name: str = ""
    #: Written as JSON.
    json: str = ""


class KnownBy(Choice):
    """The sign by which a family names a model."""

    #: Not set.
    UNSPECIFIED = "UNSPECIFIED"
    #: Its id on the hub.
    ID = "ID"
    #: A value in one of its configs.
    CONFIG = "CONFIG"
    #: Words in its name.
    NAME = "NAME"
    #: No sign: the family assumes its most common model.
    ASSUMPTION = "ASSUMPTION"


@dataclass(frozen=True)
class KnownModel(Message):
    """A known model: a published model that its family has a preset for."""

    #: Its name, such as `z-image-turbo`.
    name: str = ""
    #: The sign that names it.
    known_by: KnownBy = KnownBy.UNSPECIFIED
    #: The same in words, with names and values.
    evidence: str = ""
    #: Its preset, as a JSON object. The family decides the keys: Z-Image has `width`, `height`, `steps`, `guidance`
    #: and `max_sequence_length`.
    preset_json: str = ""


class FileKind(Choice):
    """Which share of a model a file holds."""

    #: Not set.
    UNSPECIFIED = "UNSPECIFIED"
    #: Every component that needs weights.
    ALL_IN_ONE = "ALL_IN_ONE"
    #: Several components, and not all.
    SEVERAL_COMPONENTS = "SEVERAL_COMPONENTS"
    #: One component.
    ONE_COMPONENT = "ONE_COMPONENT"
    #: Tensors that no family knows.
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class FileInspection(Message):
    """What the daemon found in a file of unknown content."""

    #: Which share of a model it is.
    kind: FileKind = FileKind.UNSPECIFIED
    #: Why other components are not in it, and the limits of those that are.
    problems: tuple[str, ...] = ()
    #: Tensors that belong to no component.
    unassigned: int = 0
    #: Some of their names.
    unassigned_sample: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resolution(Message):
    """The meaning of a spec."""

    #: The model, its revision pinned.
    model: ResolvedModel | None = None
    #: Family that recognises it.
    family: str = ""
    #: Its components.
    components: tuple[ComponentFiles, ...] = ()
    #: The configurations that the family can read.
    configs: tuple[ModelConfig, ...] = ()
    #: The known model; unset when its family does not know this one.
    known: KnownModel | None = None
    #: The content of the file; only when the model is one file.
    inspection: FileInspection | None = None


@dataclass(frozen=True)
class TensorMismatch(Message):
    """A tensor whose shape or dtype is not the expected one."""

    #: Name in the checkpoint.
    name: str = ""
    #: What the family's catalogue says.
    expected: str = ""
    #: What the checkpoint holds.
    found: str = ""


@dataclass(frozen=True)
class DtypeCount(Message):
    """How many tensors have one dtype."""

    #: The safetensors name, such as `BF16`; of blocks in GGUF files the name of ggml, such as `Q4_K`.
    dtype: str = ""
    #: Number of tensors.
    tensors: int = 0
    #: Their bytes.
    bytes: int = 0


@dataclass(frozen=True)
class ShapeCount(Message):
    """How many tensors have one shape."""

    #: Dimensions; empty for a scalar.
    shape: tuple[int, ...] = ()
    #: Number of tensors.
    tensors: int = 0
    #: Their bytes.
    bytes: int = 0


@dataclass(frozen=True)
class SchemeCount(Message):
    """How many layers are quantised in one way."""

    #: Mode, bits and group size, such as `affine 4-bit g64`.
    scheme: str = ""
    #: Number of layers.
    layers: int = 0
    #: Bytes of their tensors.
    bytes: int = 0


@dataclass(frozen=True)
class OriginCount(Message):
    """How the tensors of one file are lent."""

    #: Number of the file among those that the component is made from. Segments have numbers of their own.
    source: int = 0
    #: Tensors that are lent as they are.
    as_they_are: int = 0
    #: Tensors that have another name.
    renamed: int = 0
    #: Tensors that have another shape.
    reshaped: int = 0
    #: Lent tensors that are some rows of a tensor of the file.
    rows: int = 0
    #: Path of the file below its model's directory; for an overlay, the path of the overlay.
    file: str = ""


@dataclass(frozen=True)
class AuditReport(Message):
    """A checkpoint compared with what its family says it must hold. Lists are samples, bounded in number and size; the
    counts are exact.
    """

    #: Component that was audited.
    component: str = ""
    #: Tensors in the catalogue; 0 when the family has none for this component: see `unchecked`.
    expected: int = 0
    #: Expected tensors that are there with the expected shape and a usable dtype.
    matched: int = 0
    #: Expected tensors that are absent.
    missing: int = 0
    #: Tensors that the catalogue does not have; 0 when there is no catalogue.
    extra: int = 0
    #: Expected tensors that are there with another shape.
    wrong_shape: int = 0
    #: Expected tensors that are there with a dtype that cannot be used.
    wrong_dtype: int = 0
    #: Some missing names.
    missing_sample: tuple[str, ...] = ()
    #: Some extra names.
    extra_sample: tuple[str, ...] = ()
    #: Some shape mismatches.
    wrong_shape_sample: tuple[TensorMismatch, ...] = ()
    #: Some dtype mismatches.
    wrong_dtype_sample: tuple[TensorMismatch, ...] = ()
    #: Dtypes found among all tensors.
    dtypes: tuple[DtypeCount, ...] = ()
    #: Bytes of all tensors found.
    tensor_bytes: int = 0
    #: Remarks that refuse nothing: a wrong total in the index, tensors the index does not list, mixed dtypes.
    remarks: tuple[str, ...] = ()
    #: Whether STRICT lends this component.
    clean: bool = False
    #: Share of the catalogue that is there as expected, from 0 to 1; 0 when there is no catalogue.
    coverage: float = 0.0
    #: Shapes found, the most frequent ones first.
    shapes: tuple[ShapeCount, ...] = ()
    #: How quantised layers are quantised.
    schemes: tuple[SchemeCount, ...] = ()
    #: For each file: how its tensors are lent.
    origins: tuple[OriginCount, ...] = ()
    #: Tensors of another component that this one takes by reference.
    borrowed: tuple[str, ...] = ()
    #: Tensors of the checkpoint that belong to no module and do no harm.
    tolerated: tuple[str, ...] = ()
    #: Assumptions about facts that neither configs nor weights state.
    assumptions: tuple[str, ...] = ()
    #: Tensors that are taken as they are and compared with nothing, since there is no catalogue; 0 when there is
    #: one.
    unchecked: int = 0


@dataclass(frozen=True)
class Audit(Message):
    """The audits."""

    #: The model.
    model: ResolvedModel | None = None
    #: Family that recognises it.
    family: str = ""
    #: One report a component.
    reports: tuple[AuditReport, ...] = ()


class Layout(Choice):
    """Names and memory order in which tensors are lent."""

    #: Same as MLX.
    UNSPECIFIED = "UNSPECIFIED"
    #: Module names of the family's MLX modules; convolution kernels in OHWI order.
    MLX = "MLX"
    #: Names and shapes of the family's published checkpoints (for Z-Image those of diffusers), in the order of the
    #: file.
    SOURCE = "SOURCE"
    #: Names of the modules of mflux; convolution kernels in OHWI order. Only of families that say what mflux calls
    #: them.
    MFLUX = "MFLUX"


@dataclass(frozen=True)
class Holder(Message):
    """A holder of a component."""

    #: Number of the lease.
    lease: int = 0
    #: Process id of the peer when it connected; 0 when unknown.
    pid: int = 0
    #: The name the client gave itself.
    name: str = ""
    #: Since when.
    since: datetime | None = None


@dataclass(frozen=True)
class FileIdentity(Message):
    """Identity of a file. Compare all fields before you trust a path that you opened."""

    #: Device number.
    device: int = 0
    #: Inode number.
    inode: int = 0
    #: Length in bytes.
    length: int = 0
    #: Time of the last change of content, in nanoseconds since 1970.
    modified_ns: int = 0
    #: Time of the last change of content or attributes, in nanoseconds since 1970.
    changed_ns: int = 0


class SegmentKind(Choice):
    """Where a segment's bytes come from."""

    #: Not set.
    UNSPECIFIED = "UNSPECIFIED"
    #: The checkpoint's own file.
    CHECKPOINT = "CHECKPOINT"
    #: A derived image: a file that the daemon computed. Every tensor in it begins at a page.
    DERIVED = "DERIVED"
    #: Memory of a card.
    CARD = "CARD"


@dataclass(frozen=True)
class CardMemory(Message):
    """One allocation in the memory of a card. The hand-off gives two descriptors for it: that of the memory, which
    CUDA imports (CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR), and one that the holder keeps open for as long as it
    has the memory mapped, by which the daemon knows. Map it for reading: CUDA does not keep an importer from
    writing.
    """

    #: The card's UUID.
    device: str = ""
    #: Length in bytes.
    bytes: int = 0
    #: The card gives memory in multiples of this, in bytes.
    granularity: int = 0


@dataclass(frozen=True)
class Segment(Message):
    """A file that holds lent tensors, or memory of a card. Map it whole, shared and read-only."""

    #: Absolute path, for clients that cannot receive descriptors.
    path: str = ""
    #: Identity of the descriptor's file, which is also what `path` named when the daemon opened it, unless the
    #: request takes clones.
    identity: FileIdentity | None = None
    #: Where its bytes come from.
    kind: SegmentKind = SegmentKind.UNSPECIFIED
    #: The memory of a card that it is; only when `kind` is CARD. It then has neither path nor identity.
    card: CardMemory | None = None


@dataclass(frozen=True)
class DerivedImage(Message):
    """A file of computed tensors, kept for later requests of the same kind."""

    #: Absolute path. A safetensors file; tensors whose names begin with `__weightsd_room__.` are room between the
    #: others.
    path: str = ""
    #: Length in bytes.
    bytes: int = 0
    #: The component it is for.
    component_id: str = ""
    #: The component's name.
    component: str = ""
    #: The model, its overlay and its adapters.
    made_from: str = ""
    #: The conversion, in words.
    conversion: str = ""
    #: When it was made.
    made: datetime | None = None
    #: When a request last used it.
    used: datetime | None = None
    #: Whether a loaded component uses it.
    loaded: bool = False


@dataclass(frozen=True)
class LoadedComponent(Message):
    """A component in the cache."""

    #: Component.id.
    id: str = ""
    #: Component.name.
    name: str = ""
    #: Family.
    family: str = ""
    #: Layout.
    layout: Layout = Layout.UNSPECIFIED
    #: The model under which it was first loaded.
    model: ResolvedModel | None = None
    #: Number of tensors.
    tensor_count: int = 0
    #: Sum of the tensors' lengths in bytes.
    tensor_bytes: int = 0
    #: Bytes of its segments that are in memory now; only when the request asked for residency.
    resident_bytes: int = 0
    #: Who holds it.
    holders: tuple[Holder, ...] = ()
    #: When it was loaded.
    loaded: datetime | None = None
    #: When the daemon will drop it if no request comes; unset while it is held.
    expires: datetime | None = None
    #: Its files.
    segments: tuple[Segment, ...] = ()
    #: Number of requests for it.
    requests: int = 0
    #: The image that holds the computed tensors; unset when everything is lent in place.
    image: DerivedImage | None = None
    #: The memory of a card that it lies in; unset for a component in files. The same component may be listed once in
    #: files, and once for each card.
    card: CardMemory | None = None


@dataclass(frozen=True)
class Listing(Message):
    """The list."""

    #: Components, by model and name.
    components: tuple[LoadedComponent, ...] = ()
    #: Derived images on disk, the last used first; only when the request asked for them.
    images: tuple[DerivedImage, ...] = ()


@dataclass(frozen=True)
class ComponentDetails(Message):
    """The component."""

    #: The component, residency measured.
    component: LoadedComponent | None = None
    #: Its audit.
    audit: AuditReport | None = None
    #: Its configuration as JSON.
    config_json: str = ""


@dataclass(frozen=True)
class EvictOutcome(Message):
    """One component that was, or would be, dropped or kept."""

    #: Id.
    id: str = ""
    #: Name.
    name: str = ""
    #: Whether it was, or would be, dropped.
    evicted: bool = False
    #: Why.
    reason: str = ""
    #: Bytes of its tensors.
    tensor_bytes: int = 0
    #: The UUID of the card in whose memory it was, or is; empty for a component in files.
    device: str = ""


@dataclass(frozen=True)
class Eviction(Message):
    """The result of an eviction."""

    #: One outcome a component.
    outcomes: tuple[EvictOutcome, ...] = ()
    #: The images that were, or would be, deleted.
    images: tuple[DerivedImage, ...] = ()


class EventKind(Choice):
    """What happened."""

    #: Not set.
    UNSPECIFIED = "UNSPECIFIED"
    #: A component became ready.
    LOADED = "LOADED"
    #: A load failed.
    LOAD_FAILED = "LOAD_FAILED"
    #: A lease began.
    LEASED = "LEASED"
    #: A lease ended.
    RELEASED = "RELEASED"
    #: A component was dropped from the cache.
    EVICTED = "EVICTED"
    #: A file under a component changed.
    FILE_CHANGED = "FILE_CHANGED"
    #: A connection was refused.
    REFUSED = "REFUSED"
    #: The daemon is stopping.
    SHUTTING_DOWN = "SHUTTING_DOWN"
    #: A download began.
    DOWNLOAD_BEGAN = "DOWNLOAD_BEGAN"
    #: A download ended well.
    DOWNLOADED = "DOWNLOADED"
    #: A download failed.
    DOWNLOAD_FAILED = "DOWNLOAD_FAILED"
    #: A file did not have its hash, and was moved aside.
    QUARANTINED = "QUARANTINED"
    #: A component's files have their hashes.
    VERIFIED = "VERIFIED"
    #: The worker computed a component's tensors.
    DERIVED = "DERIVED"
    #: A derived image was deleted.
    IMAGE_DELETED = "IMAGE_DELETED"
    #: The daemon read its configuration anew, and took over what may change or left everything as it was.
    SETTINGS_READ = "SETTINGS_READ"
    #: A holder came back that had its lease from an earlier daemon.
    LEASED_AGAIN = "LEASED_AGAIN"


@dataclass(frozen=True)
class Event(Message):
    """One event, with its reason."""

    #: Counts up by one from 1; a gap means that events were skipped.
    sequence: int = 0
    #: When.
    time: datetime | None = None
    #: What.
    kind: EventKind = EventKind.UNSPECIFIED
    #: Id of the component concerned; empty when none is.
    component_id: str = ""
    #: What happened and why, in words.
    message: str = ""


@dataclass(frozen=True)
class WatchedEvent(Message):
    """One event."""

    #: The event.
    event: Event | None = None
    #: Events that were dropped before this one because the reader was slow or asked late.
    skipped: int = 0


@dataclass(frozen=True)
class PullReport(Message):
    """The result of a pull."""

    #: The model, its revision pinned.
    model: ResolvedModel | None = None
    #: The files, verified.
    files: tuple[ModelFile, ...] = ()
    #: Their bytes.
    bytes: int = 0
    #: Bytes that the network carried.
    bytes_fetched: int = 0
    #: How long it took.
    took: timedelta | None = None


class FileFinding(Choice):
    """The result of hashing a file."""

    #: Not set.
    UNSPECIFIED = "UNSPECIFIED"
    #: It has the hash in its name.
    GOOD = "GOOD"
    #: It is not on this machine.
    MISSING = "MISSING"
    #: There is no hash to compare it with.
    UNVERIFIABLE = "UNVERIFIABLE"
    #: It has another hash, and was moved aside.
    CORRUPT = "CORRUPT"


@dataclass(frozen=True)
class FileVerdict(Message):
    """A file with its finding."""

    #: The file.
    file: ModelFile | None = None
    #: The finding.
    finding: FileFinding = FileFinding.UNSPECIFIED
    #: The hash of its content; only when it is CORRUPT.
    found: str = ""
    #: Where it was moved; only when it is CORRUPT.
    moved_to: str = ""


@dataclass(frozen=True)
class VerifyReport(Message):
    """All verdicts."""

    #: The model.
    model: ResolvedModel | None = None
    #: One verdict a file; at most some thousands, the bad ones first.
    verdicts: tuple[FileVerdict, ...] = ()
    #: Whether no file is missing or corrupt.
    clean: bool = False
    #: How long it took.
    took: timedelta | None = None


@dataclass(frozen=True)
class Lease(Message):
    """The right to hold a component."""

    #: Number of the lease; 0 when the hold is NONE.
    id: int = 0
    #: How long the component stays warm after the last lease, as granted.
    keep_alive: timedelta | None = None


@dataclass(frozen=True)
class Timings(Message):
    """How long each phase of a load took."""

    #: Finding the model, its files and its configs.
    resolve: timedelta | None = None
    #: Opening shards and parsing headers; zero when the component was warm.
    open: timedelta | None = None
    #: Planning and auditing; zero when the component was warm.
    audit: timedelta | None = None
    #: Computing; zero when there was nothing to compute or the image existed.
    derive: timedelta | None = None
    #: Copying into the memory of a card; zero when it was there.
    upload: timedelta | None = None


class VerificationState(Choice):
    """Whether a component's files were compared with their hashes."""

    #: Not set.
    UNSPECIFIED = "UNSPECIFIED"
    #: No hash to compare with: files outside a Hugging Face cache.
    UNVERIFIABLE = "UNVERIFIABLE"
    #: Its files have not been compared with their hashes yet.
    PENDING = "PENDING"
    #: The hash of each file is the one in its name.
    VERIFIED = "VERIFIED"


@dataclass(frozen=True)
class Attestation(Message):
    """The state of a component's verification, and since when it holds."""

    #: The state.
    state: VerificationState = VerificationState.UNSPECIFIED
    #: When the first of its files passed; only when the state is VERIFIED.
    time: datetime | None = None


class AdapterStrengthSource(Choice):
    """The source of an adapter's strength."""

    #: Not set.
    UNSPECIFIED = "UNSPECIFIED"
    #: Alpha tensors in the file.
    ALPHA_TENSOR = "ALPHA_TENSOR"
    #: `adapter_config.json` beside the file.
    CONFIG = "CONFIG"
    #: The metadata in the file's header.
    METADATA = "METADATA"
    #: None: the changes are added as they are.
    NOTHING = "NOTHING"


@dataclass(frozen=True)
class AdapterStrength(Message):
    """The changes that have one strength."""

    #: The source of the strength.
    source: AdapterStrengthSource = AdapterStrengthSource.UNSPECIFIED
    #: The factor: alpha through rank, or a number in its place. 1 when no source states a strength.
    strength: float = 0.0
    #: How many layers.
    layers: int = 0
    #: Some of them.
    layers_sample: tuple[str, ...] = ()


@dataclass(frozen=True)
class AdapterReport(Message):
    """What an adapter changed. Lists are samples; the counts are exact."""

    #: The adapter's path or id.
    adapter: str = ""
    #: The scale of the request.
    scale: float = 0.0
    #: Layers that it changes.
    layers: int = 0
    #: Changes of layers that the component does not have.
    without_target: int = 0
    #: Some of them.
    without_target_sample: tuple[str, ...] = ()
    #: Keys of other components.
    other_component: int = 0
    #: Other changes that were left out, in words.
    remarks: tuple[str, ...] = ()
    #: All strengths of its changes, without the scale, each with its source.
    strengths: tuple[AdapterStrength, ...] = ()
    #: Some of the keys of other components.
    other_component_sample: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComponentInfo(Message):
    """A component, ready to be mapped. Its tensors follow in pages."""

    #: 64 hex digits: a hash of everything that determines the content.
    id: str = ""
    #: `transformer`, `text_encoder`, `vae`, ...
    name: str = ""
    #: Family of the model.
    family: str = ""
    #: Layout of the tensors.
    layout: Layout = Layout.UNSPECIFIED
    #: The model it belongs to.
    model: ResolvedModel | None = None
    #: The component's configuration as the family parsed it, as JSON; empty when it has none.
    config_json: str = ""
    #: The files to map.
    segments: tuple[Segment, ...] = ()
    #: Number of tensors, in the pages that follow or in the sheet.
    tensor_count: int = 0
    #: Sum of the tensors' lengths in bytes.
    tensor_bytes: int = 0
    #: The audit of the checkpoint.
    audit: AuditReport | None = None
    #: The lease.
    lease: Lease | None = None
    #: Bytes of the tensors that were computed; 0 when everything is lent in place.
    computed_bytes: int = 0
    #: Whether the component was loaded before this request.
    warm: bool = False
    #: Leases on the component, this one included.
    leases: int = 0
    #: How long each phase of the load took.
    timings: Timings | None = None
    #: Whether its files were compared with their hashes.
    attestation: Attestation | None = None
    #: Assumptions about facts that neither configs nor weights state.
    assumptions: tuple[str, ...] = ()
    #: The image that holds the computed tensors; unset when everything is lent in place.
    image: DerivedImage | None = None
    #: What adapters changed, in the order in which they were asked for.
    adapters: tuple[AdapterReport, ...] = ()
    #: Length of the sheet in bytes, a sealed file that is handed over after those of the segments and that
    #: `core/src/sheet.rs` describes; no page follows then. 0 when the pages have the tensors.
    sheet_bytes: int = 0


class NoticeKind(Choice):
    """Something a holder should know."""

    #: Not set.
    UNSPECIFIED = "UNSPECIFIED"
    #: The daemon stops; what is mapped stays readable.
    SHUTTING_DOWN = "SHUTTING_DOWN"
    #: Somebody changed a file under the component; its bytes can no longer be trusted.
    FILE_CHANGED = "FILE_CHANGED"
    #: A file under the component does not have its hash; its bytes cannot be trusted.
    CORRUPT = "CORRUPT"
    #: A file under the component was deleted, moved or replaced. What is mapped keeps its bytes; the next load finds
    #: what is there now. Holders of clones are told the same of a file that was written to. NOTICE_KIND_FILE_CHANGED
    #: may follow.
    FILE_GONE = "FILE_GONE"
    #: The holder has a lease again, on the same component, from the daemon that serves now. The client's library
    #: says so; no daemon does.
    LEASED_AGAIN = "LEASED_AGAIN"
    #: The holder has no lease any more, and why. What is mapped stays readable, and nobody tells of changes to its
    #: files. The client's library says so; no daemon does.
    LEASE_LOST = "LEASE_LOST"
    #: The component's bytes are not, or not all, locked in memory, and why.
    NOT_PINNED = "NOT_PINNED"


@dataclass(frozen=True)
class Notice(Message):
    """Something a holder should know."""

    #: What happened.
    kind: NoticeKind = NoticeKind.UNSPECIFIED
    #: The same in words.
    message: str = ""
