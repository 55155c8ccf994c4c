//! A crowd asks for one cold component at once, and every shard is opened once.

use std::{collections::BTreeSet, fs};

use weightsd_client::proto::{EventKind, ListComponentsRequest};

use crate::{
    client_process::{ClientProcess, Job, Manner},
    harness::{Home, WITHOUT_VERIFYING, events},
    processes::descriptors_of,
};

const REPO: &str = "test/z-image";
const PROCESSES: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_processes_open_each_shard_once() {
    let home = Home::new();
    let hub = home.tiny(REPO);
    let shards = hub.written.weight_files_of("transformer");
    assert!(shards.len() > 1);
    let daemon = home.daemon_with(&WITHOUT_VERIFYING);
    let client = daemon.client().await;
    let job = Job { model: REPO.into(), component: "transformer".into(), source_layout: false };
    let manner = Manner { waits: true, ..Manner::default() };
    let mut crowd: Vec<_> = (0..PROCESSES).map(|_| ClientProcess::start_so(&home, &job, &manner)).collect();
    crowd.iter_mut().for_each(ClientProcess::connected);
    assert_eq!(client.status().await.unwrap().components, 0, "the component is cold");

    #[cfg(target_os = "linux")] // Which alone tells who opens a file.
    let opens = crate::opens::Opens::watch(&shards);
    crowd.iter_mut().for_each(ClientProcess::go);
    let held: Vec<_> = crowd.iter_mut().map(ClientProcess::held).collect();
    #[cfg(target_os = "linux")]
    assert_eq!(opens.count(), shards.iter().map(|shard| (shard.clone(), 1)).collect());

    assert!(held.iter().all(|held| held.error.is_none()), "{held:?}");
    assert_eq!(held.iter().map(|held| held.checksum).collect::<BTreeSet<_>>().len(), 1);
    let components = client.list(ListComponentsRequest::default()).await.unwrap().components;
    assert_eq!((components.len(), components[0].requests), (1, PROCESSES as u64));
    let holders: BTreeSet<u32> = components[0].holders.iter().map(|holder| holder.pid).collect();
    assert_eq!(holders, crowd.iter().map(ClientProcess::pid).collect());
    assert_eq!(events(&client, EventKind::Loaded).await.len(), 1);
    // The system's other word for it: one descriptor a shard.
    let descriptors = descriptors_of(daemon.pid());
    for shard in &shards {
        let file = fs::canonicalize(shard).unwrap();
        assert_eq!(descriptors.iter().filter(|descriptor| **descriptor == file).count(), 1, "{}", shard.display());
    }
}
