"""Model weights that all processes of a machine share.

    import weightsd

    with weightsd.load("Tongyi-MAI/Z-Image-Turbo", "vae") as vae:
        state = vae.torch()  # or numpy(), mlx(), tree()

The daemon (`weightsd serve`) opens a checkpoint once, checks it once, converts it once if need be, and lends it as shared
memory. Arrays lie in the same physical pages in every process.
"""

from . import aio
from ._calls import Adapter, audit, events, evict, get, load, ls, pull, resolve, status, verify
from ._card import CardComponent, CardTensor
from ._component import Component, QuantisedLayer, Report, Scheme
from ._errors import (
    Cancelled,
    CannotConnect,
    CannotView,
    Disconnected,
    NotRunning,
    Refused,
    TookTooLong,
    WeightsdError,
)
from ._folder import ModelFolder, path
from ._messages import (
    Audit,
    AuditReport,
    ComponentInfo,
    Eviction,
    Listing,
    Notice,
    Progress,
    PullReport,
    Resolution,
    Status,
    VerifyReport,
    WatchedEvent,
)
from ._native import VERSION as __version__
from ._pages import Copied
from ._patch import patch, unpatch
from ._tensor import Tensor

__all__ = [
    "Adapter",
    "Audit",
    "AuditReport",
    "Cancelled",
    "CannotConnect",
    "CannotView",
    "CardComponent",
    "CardTensor",
    "Component",
    "ComponentInfo",
    "Copied",
    "Disconnected",
    "Eviction",
    "Listing",
    "ModelFolder",
    "NotRunning",
    "Notice",
    "Progress",
    "PullReport",
    "QuantisedLayer",
    "Refused",
    "Report",
    "Resolution",
    "Scheme",
    "Status",
    "Tensor",
    "TookTooLong",
    "VerifyReport",
    "WatchedEvent",
    "WeightsdError",
    "__version__",
    "aio",
    "audit",
    "events",
    "evict",
    "get",
    "load",
    "ls",
    "patch",
    "path",
    "pull",
    "resolve",
    "status",
    "unpatch",
    "verify",
]
