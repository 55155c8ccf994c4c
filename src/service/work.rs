//! `Pull` and `Verify`: long work that leases nothing. It reports its progress, and ends with a report.

use std::{sync::Arc, time::Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weightsd_core::listing::Listed;
use weightsd_proto::v1::{
    self, FileFinding, FileVerdict, PullReport, PullRequest, PullResponse, VerifyReport, VerifyRequest, VerifyResponse,
    pull_response, verify_response,
};

use super::{Context, Failure, guest, messages, request};
use crate::{
    cache::{AcquireError, Cache},
    guests::Peer,
    lanes::MayBlock,
    pipeline::{self, LoadError, Tools, look},
    progress::Step,
    resolve::{Address, RepoAddress, ResolvedModel, Selector, WithoutVariant},
    snapshot::{Extent, FetchReport, Finding, HashCandidate, OwnFiles, Scope, Verdict, Want},
};

/// Messages that wait for a slow client. Progress beyond that is dropped: a later message says more.
const QUEUE: usize = 16;
/// Verdicts that a report lists; a message has its limit.
const VERDICTS_MAX: usize = 2000;

/// The stream of a pull.
pub(super) type PullStream = ReceiverStream<Result<PullResponse, Status>>;
/// The stream of a verification.
pub(super) type VerifyStream = ReceiverStream<Result<VerifyResponse, Status>>;

pub(super) fn pull(context: &Context, peer: Peer, request: PullRequest) -> Result<PullStream, Failure> {
    let mut selector = request::selector(request.model)?;
    let components = request::components(request.components)?;
    let extent = if request.whole_repository { Extent::Everything } else { Extent::Components };
    if components.is_empty() {
        selector.choice.without_variant = WithoutVariant::Plain;
    }
    let want = Want { components, extent, choice: selector.choice.clone() };
    let event = |event| PullResponse { event: Some(event) };
    Ok(run(
        (context, peer),
        move |step, sharers| event(pull_response::Event::Progress(messages::progress(step, sharers))),
        move |cache, progress| async move {
            let report = pull_and_verify(&cache, &selector, want, progress).await?;
            Ok(event(pull_response::Event::Report(guest::told(peer, report))))
        },
    ))
}

pub(super) fn verify(context: &Context, peer: Peer, request: VerifyRequest) -> Result<VerifyStream, Failure> {
    let selector = request::selector(request.model)?;
    let components = request::components(request.components)?;
    let event = |event| VerifyResponse { event: Some(event) };
    Ok(run(
        (context, peer),
        move |step, sharers| event(verify_response::Event::Progress(messages::progress(step, sharers))),
        move |cache, progress| async move {
            let report = verify_all(&cache, selector, components, progress).await?;
            Ok(event(verify_response::Event::Report(guest::told(peer, report))))
        },
    ))
}

/// Passes on the progress of the work. Any thread may call it.
type Progress = Arc<dyn Fn(&Step, usize) + Send + Sync>;

/// Does work in a task that ends when the client hangs up.
fn run<R, F>(
    (context, peer): (&Context, Peer),
    message: impl Fn(&Step, usize) -> R + Send + Sync + 'static,
    work: impl FnOnce(Arc<Cache>, Progress) -> F + Send + 'static,
) -> ReceiverStream<Result<R, Status>>
where
    R: Send + 'static,
    F: Future<Output = Result<R, AcquireError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let cache = Arc::clone(&context.cache);
    let teller = sender.clone();
    let progress: Progress = Arc::new(move |step, sharers| drop(teller.try_send(Ok(message(step, sharers)))));
    context.daemon.tasks().spawn("work", async move {
        let daemon = cache.daemon().clone();
        let result = tokio::select! {
            result = work(cache, progress) => result,
            () = sender.closed() => return,
            () = daemon.stopping().cancelled() => Err(AcquireError::Stopping),
        };
        let _ = sender.send(result.map_err(|error| Failure::from(&error).to(peer).refuse(daemon.metrics()))).await;
    });
    ReceiverStream::new(receiver)
}

async fn pull_and_verify(
    cache: &Arc<Cache>,
    selector: &Selector,
    want: Want,
    progress: Progress,
) -> Result<PullReport, AcquireError> {
    let started = Instant::now();
    let asked = selector.clone();
    let trip = cache.tools().trip([selector]).await?;
    let look = move |tools: &Tools, may: &MayBlock<'_>| pipeline::pinned_here(&asked, &tools.places, may);
    let found = cache.tools().stage(&trip, "finding the model", look).await??;
    let Address::Repo(RepoAddress { source, .. }) = &*found.address else {
        return Err(LoadError::NotDownloadable { spec: selector.spec.clone() }.into());
    };
    cache.tools().allow(selector.network, &**source, format!("the files of `{}`", selector.spec))?;
    // What a branch means is asked anew: a pull is for the newest commit.
    cache.look_up_again(selector).await?;
    let mut fetched = 0;
    let mut repaired = false;
    loop {
        let trip = cache.tools().trip([selector]).await?;
        let pinned = pipeline::pinned(selector, &trip, cache.tools()).await?;
        let report = match pipeline::fetch(&pinned, want.clone(), cache.tools(), &*progress).await {
            // A small file that is damaged, or edited so that it cannot be used, is fetched anew like any other.
            Err(error) if !repaired && cache.is_mended_in(selector, &error).await => {
                repaired = true;
                continue;
            }
            report => report?,
        };
        let (Address::Repo(address), Some(pin), Some(report)) = (&*pinned.address, &pinned.pin, report) else {
            return Err(LoadError::NotDownloadable { spec: selector.spec.clone() }.into());
        };
        fetched += report.bytes_fetched;
        let model = address.at(pin);
        let candidate = |(path, listed): &(String, Listed)| HashCandidate {
            name: path.clone(),
            path: model.path.join(path),
            blob: Some(listed.blob.clone()),
        };
        let candidates = report.files.iter().map(candidate).collect();
        let check = (Scope::Unattested, OwnFiles::SetAside);
        let found = cache.hash(&trip, (&Arc::new(model.clone()), candidates), check, &*progress).await?;
        match found.fault.clone().map_or(Ok(()), Err) {
            Ok(()) => return Ok(pull_report(&model, &report, fetched, started)),
            // The files that were moved aside are fetched again, once. A second time means that the disk, or another
            // program, damages them as they come.
            Err(error) if repaired => return Err(AcquireError::Load(error)),
            Err(_) => repaired = true,
        }
    }
}

fn pull_report(model: &ResolvedModel, report: &FetchReport, bytes_fetched: u64, started: Instant) -> PullReport {
    let mut message = messages::model(model);
    if !report.skipped.is_empty() {
        let left_out = format!("left out: {}", report.skipped.join("; "));
        message.warning = match message.warning.as_str() {
            "" => left_out,
            warning => format!("{warning}; {left_out}"),
        };
    }
    PullReport {
        model: Some(message),
        files: report.files.iter().map(|(path, listed)| messages::listed_file(path, listed, true)).collect(),
        bytes: report.files.iter().map(|(_, listed)| listed.bytes).sum(),
        bytes_fetched,
        took: messages::duration(started.elapsed()),
    }
}

async fn verify_all(
    cache: &Arc<Cache>,
    selector: Selector,
    components: Vec<String>,
    progress: Progress,
) -> Result<VerifyReport, AcquireError> {
    let started = Instant::now();
    let trip = cache.tools().trip([&selector]).await?;
    let list = move |tools: &Tools, may: &MayBlock<'_>| -> Result<_, LoadError> {
        let pinned = pipeline::pinned_here(&selector, &tools.places, may)?;
        let snapshot = pipeline::snapshot(&pinned, None, &tools.pool, may)?;
        Ok((Arc::clone(&snapshot.model), look::candidates(&snapshot, &components, may)?))
    };
    let (model, candidates) = cache.tools().stage(&trip, "finding the model", list).await??;
    let check = (Scope::All, OwnFiles::Leave);
    let mut verdicts = cache.hash(&trip, (&model, candidates), check, &*progress).await?.verdicts.clone();
    let is_bad = |verdict: &Verdict| verdict.finding.is_other() || verdict.finding == Finding::Missing;
    verdicts.sort_by_key(|verdict| !is_bad(verdict));
    Ok(VerifyReport {
        model: Some(messages::model(&model)),
        clean: !verdicts.iter().any(is_bad),
        verdicts: verdicts.iter().take(VERDICTS_MAX).map(verdict).collect(),
        took: messages::duration(started.elapsed()),
    })
}

fn verdict(verdict: &Verdict) -> FileVerdict {
    let blob = verdict.blob.as_ref().map(ToString::to_string).unwrap_or_default();
    let present = verdict.finding != Finding::Missing;
    let file = v1::ModelFile { path: verdict.name.clone(), length: verdict.bytes, present, blob };
    let mut message = FileVerdict { file: Some(file), ..FileVerdict::default() };
    match &verdict.finding {
        Finding::Good(_) => message.set_finding(FileFinding::Good),
        Finding::Missing => message.set_finding(FileFinding::Missing),
        Finding::Unnamed => message.set_finding(FileFinding::Unverifiable),
        Finding::Bad { found, aside } => {
            message.set_finding(FileFinding::Corrupt);
            message.found.clone_from(found);
            message.moved_to = aside.as_deref().map(messages::path).unwrap_or_default();
        }
        Finding::Differs { found } => {
            message.set_finding(FileFinding::Corrupt);
            message.found.clone_from(found);
        }
    }
    message
}
