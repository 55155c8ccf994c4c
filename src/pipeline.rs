//! The road from a model's name to a component, in one function: [`load`]. `ARCHITECTURE.md` draws it.
//!
//! Stages never call each other. `load` calls them in order; the cache decides whether to call `load`, and keeps the
//! component. [`look`] uses the same stages for audits, which lend nothing.

mod adapters;
mod bare;
mod desk;
mod error;
mod find;
mod lend;
pub mod look;
mod pin;
mod plan;
mod prepared;
mod request;
mod tools;
mod trip;

use std::{sync::Arc, time::Duration};

use weightsd_core::derive::Alignment;

pub use self::{
    desk::{Desk, Progress, Shared},
    error::{AcquireError, LoadError},
    find::{fetch, snapshot},
    look::Audited,
    pin::{pinned, pinned_here},
    prepared::Prepared,
    request::{FloatWish, Pinned, Request, Treatment, Verification},
    tools::Tools,
    trip::Trip,
};
use crate::{
    derive::{ComputeFailed, Image},
    lanes::MayBlock,
};

/// Names the first half of a load in errors.
const FINDING: &str = "finding the model";

/// Loads the component that `request` means, and lends it to the request that stands at `desk`.
///
/// # Errors
/// When a stage fails or takes too long, and when the daemon stops.
pub async fn load<D: Desk>(request: &Request, desk: &D, progress: Progress<'_>) -> Result<D::Lent, AcquireError> {
    let tools = Arc::clone(desk.tools());
    let trip = tools.trip(request.models.iter().map(|(_, selector)| selector)).await?;
    // Ingredients<Selector> -> Ingredients<Pinned>
    let addresses = pin::resolve(&request.models, &trip, &tools).await?;
    let pinned = addresses.map(|_, address| pin::pin(address, &tools)).join().await?;
    // Ingredients<Pinned> -> Ingredients<ComponentFiles>: what is missing is fetched.
    let prepared = find::list_and_fetch(request, &pinned, &trip, &tools, progress).await?;
    if request.verification == Verification::Before {
        desk.verify(&prepared).await?;
    }
    // The id is known now, so requests for the same component meet here.
    desk.share(prepared, |prepared, shared| async move {
        // Ingredients<ComponentFiles> -> Ingredients<Checkpoint> -> Plan
        let (mut prepared, mut plan) = open(prepared, &tools, &shared, tools.alignment).await?;
        // Plan -> Component
        let mut image = derive(&plan, &tools, &shared).await;
        if let Some(problem) = image.as_ref().err().and_then(|failed| plan.does_without_copies(failed)) {
            (prepared, plan) = open(prepared, &tools, &shared, Alignment::AsStored).await?;
            plan.remark(problem);
            image = derive(&plan, &tools, &shared).await;
        }
        let image = image.map_err(|failed| LoadError::computing(prepared.component(), failed))?;
        Ok(lend::lend(&prepared, plan, image))
    })
    .await
}

/// Opens the files of a component, and plans what is lent from where.
async fn open(
    mut prepared: Prepared,
    tools: &Arc<Tools>,
    shared: &Shared,
    alignment: Alignment,
) -> Result<(Prepared, plan::Plan), AcquireError> {
    let watcher = Arc::clone(&shared.watcher);
    let trip = Arc::clone(&prepared.trip);
    let opening = move |tools: &Tools, may: &MayBlock<'_>| -> Result<_, LoadError> {
        let opened = plan::open(&prepared.files, &tools.pool, &*watcher, may)?;
        prepared.open.clear();
        let assembled = plan::assemble(&prepared, &opened)?;
        plan::audit(&assembled.report, &prepared.request)?;
        let placed = plan::place(&prepared, &assembled)?;
        let plan = plan::plan(&prepared, opened, assembled, placed, alignment, may)?;
        plan::met(&plan, &prepared.request)?;
        Ok((prepared, plan))
    };
    Ok(tools.stage(&trip, "the load", opening).await??)
}

/// The image that a plan asks for, if any, and how long it took to compute it.
async fn derive(plan: &plan::Plan, tools: &Tools, shared: &Shared) -> Result<Option<(Image, Duration)>, ComputeFailed> {
    match &plan.image {
        Some(wanted) => tools.maker.image(wanted, &*shared.watcher, &shared.make_room).await.map(Some),
        None => Ok(None),
    }
}
