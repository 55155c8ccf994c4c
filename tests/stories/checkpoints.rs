//! What is wrong with a checkpoint is found and said; what is right gets the names of its modules.

use tonic::Code;
use weightsd_client::{AuditPolicy, Client, ClientError, ErrorReason, Layout, LoadRequest, Tree, proto::EventKind};
use weightsd_fixtures::{Dtype, damage};

use crate::harness::{Home, events, tiny};

const REPO: &str = "test/z-image";

async fn refused(client: &Client, request: LoadRequest) -> ClientError {
    let error = client.load(request, |_| ()).await.unwrap_err();
    let daemon = error.daemon().unwrap_or_else(|| panic!("{error:?}"));
    assert!(daemon.hint().is_some(), "{error}");
    assert_eq!(daemon.code() == Code::Unimplemented, daemon.reason() == Some(ErrorReason::CannotConvert));
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_shard_is_named() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let shards = hub.written.weight_files_of("transformer");
    // A blob that is gone, with its link still there, and a link that is gone: half a download either way.
    damage::remove_target(&shards[1]).unwrap();
    for removed in [false, true] {
        if removed {
            damage::remove(&shards[1]).unwrap();
        }
        let error = refused(&client, home.request(REPO, "transformer")).await;
        assert_eq!(error.reason(), Some(ErrorReason::SnapshotIncomplete), "{error}");
        assert!(error.to_string().contains(shards[1].file_name().unwrap().to_str().unwrap()), "{error}");
        assert!(!error.to_string().contains(shards[0].file_name().unwrap().to_str().unwrap()), "{error}");
    }
    // The others are not concerned.
    let _encoder = client.load(home.request(REPO, "text_encoder"), |_| ()).await.unwrap();
    let error = refused(&client, home.request(REPO, "unet")).await;
    assert_eq!(error.reason(), Some(ErrorReason::ComponentNotFound));
    assert!(error.to_string().contains("transformer, text_encoder, vae"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_refuses_and_its_report_travels_with_the_error() {
    let home = Home::new();
    let mut checkpoint = tiny(1);
    let transformer = checkpoint.component_mut("transformer");
    let names: Vec<String> = transformer.tensors().iter().map(|tensor| tensor.name.clone()).collect();
    let [missing, renamed, reshaped, retyped] = [10, 20, 30, 40].map(|at| names[at].as_str());
    transformer.remove(missing).rename(renamed, "surprise").reshape(reshaped, &[3, 3]).retype(retyped, Dtype::I32);
    let written = checkpoint.write_hub_cache(home.hub_cache(), REPO, "main").unwrap().written;
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = || home.request(REPO, "transformer");
    let error = refused(&client, request()).await;
    assert_eq!(
        (error.reason(), error.daemon().unwrap().code()),
        (Some(ErrorReason::AuditFailed), Code::FailedPrecondition)
    );
    assert!(error.hint().unwrap().contains("REPORT_ONLY"), "{error}");
    let report = error.audit().unwrap().clone();
    assert_eq!((report.missing, report.extra, report.wrong_shape, report.wrong_dtype), (2, 1, 1, 1), "{report:?}");
    assert_eq!((report.expected as usize, report.matched as usize), (names.len(), names.len() - 4));
    assert_eq!(report.missing_sample, [missing, renamed]);
    assert_eq!(report.extra_sample, ["surprise"]);
    assert_eq!((report.wrong_shape_sample[0].name.as_str(), report.clean), (reshaped, false));
    assert!(report.wrong_shape_sample[0].found.contains("[3, 3]"), "{report:?}");
    assert_eq!(report.wrong_dtype_sample[0].name, retyped);
    let failed = events(&client, EventKind::LoadFailed).await;
    assert!(failed.len() == 1 && failed[0].message.contains("2 missing"), "{failed:?}");

    let lent = client.load(request().audit_policy(AuditPolicy::ReportOnly), |_| ()).await.unwrap();
    // Which file is meant by the number of a segment is said of what is lent.
    let mut said = lent.audit().unwrap().clone();
    let files: Vec<_> = said.origins.iter_mut().map(|origin| std::mem::take(&mut origin.file)).collect();
    let written = written.weight_files_of("transformer");
    assert!(files.len() == written.len() && files.iter().zip(&written).all(|(file, path)| path.ends_with(file)));
    assert_eq!(said, report);
    let left_out = report.remarks.last().unwrap();
    assert!(left_out.contains("`surprise`") && left_out.contains("left out"), "{left_out}");
    // Modules refuse parameters they do not have; the checkpoint's own layout has everything.
    assert!(lent.tensor("surprise").is_none());
    let whole = request().audit_policy(AuditPolicy::ReportOnly).layout(Layout::Source);
    assert!(client.load(whole, |_| ()).await.unwrap().tensor("surprise").is_some());
    // A strict caller is not given what was let pass.
    let error = refused(&client, request()).await;
    assert_eq!(error.reason(), Some(ErrorReason::AuditFailed));

    // Of a component without a fault there are two as well: the policy is part of the identity.
    let strict = client.load(home.request(REPO, "text_encoder"), |_| ()).await.unwrap();
    let lax = home.request(REPO, "text_encoder").audit_policy(AuditPolicy::ReportOnly);
    let lax = client.load(lax, |_| ()).await.unwrap();
    assert_ne!(strict.id(), lax.id());
    assert!(lax.audit().unwrap().clean);
    assert_eq!(strict.info().segments, lax.info().segments);
}

#[tokio::test(flavor = "multi_thread")]
async fn mlx_modules_find_their_parameters() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let transformer = client.load(home.request(REPO, "transformer"), |_| ()).await.unwrap();
    let norm = transformer.tensor("capEmbedNorm.weight").unwrap();
    assert_eq!(norm.source_name(), "cap_embedder.0.weight");
    let written = hub.written.tensor("transformer", "cap_embedder.0.weight").unwrap();
    assert_eq!(norm.bytes(), hub.written.read(written).unwrap());
    assert!(transformer.tensor("capEmbedLinear.bias").is_some());
    assert!(!transformer.tensors().any(|tensor| tensor.name().starts_with("cap_embedder")));
    let tree = transformer.unflatten().unwrap();
    let Some(Tree::List(layers)) = tree.get("layers") else { panic!("layers are a list") };
    assert_eq!(layers.len(), 5);
    let found = ["layers", "4", "attention", "to_q", "weight"].iter().try_fold(&tree, |node, key| node.get(key));
    let found = found.and_then(Tree::as_tensor).unwrap();
    assert_eq!((found.name(), found.shape()), ("layers.4.attention.to_q.weight", &[24, 24][..]));

    let encoder = client.load(home.request(REPO, "text_encoder"), |_| ()).await.unwrap();
    let tensor = encoder.tensor("encoder.layers.0.self_attn.q_proj.weight").unwrap();
    assert_eq!(tensor.source_name(), "model.layers.0.self_attn.q_proj.weight");
    assert!(encoder.tensors().all(|tensor| tensor.name().starts_with("encoder.")));
    let tree = encoder.unflatten().unwrap();
    let Some(Tree::List(layers)) = tree.get("encoder").and_then(|node| node.get("layers")) else { panic!("no list") };
    assert_eq!(layers.len(), 3);

    // In the checkpoint's own layout the names are the checkpoint's own.
    let source = client.load(home.request(REPO, "transformer").layout(Layout::Source), |_| ()).await.unwrap();
    assert_eq!(source.tensor("cap_embedder.0.weight").unwrap().bytes(), norm.bytes());
    assert_ne!(source.id(), transformer.id());
}
