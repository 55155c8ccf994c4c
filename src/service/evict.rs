//! `Evict`: what the policy says, done or only told.

use std::collections::HashMap;

use tonic::{Code, Status};
use weightsd_core::policy::Wish;
use weightsd_proto::v1::{ErrorReason, EvictOutcome, EvictRequest, EvictResponse};

use super::{Context, Failure, status};

pub(super) fn evict(context: &Context, request: &EvictRequest) -> Result<EvictResponse, Status> {
    let cache = &context.cache;
    let known: HashMap<_, _> = cache.entries().into_iter().map(|entry| (entry.component.id, entry)).collect();
    let wish = match request.id.as_str() {
        "" => Wish::All,
        id => Wish::One(status::find(cache, id)?.component.id),
    };
    let decisions = if request.dry_run { cache.decide(wish) } else { cache.evict(wish) };
    if let (Wish::One(id), Some(decision)) = (wish, decisions.first().filter(|decision| !decision.evict)) {
        let message = format!("component {id} is not dropped: {}", decision.reason);
        let hint = "`weightsd ls` shows who holds it; it can be dropped when they have let go";
        let failure = Failure::new(Code::FailedPrecondition, ErrorReason::InUse, message, id.to_string(), hint);
        return Err(failure.into());
    }
    let outcome = |decision: weightsd_core::policy::Decision| {
        let component = known.get(&decision.id).map(|entry| &entry.component);
        EvictOutcome {
            id: decision.id.to_string(),
            name: component.map(|component| component.name.clone()).unwrap_or_default(),
            evicted: decision.evict,
            reason: decision.reason,
            tensor_bytes: component.map(|component| component.tensor_bytes()).unwrap_or_default(),
        }
    };
    Ok(EvictResponse { outcomes: decisions.into_iter().map(outcome).collect() })
}
