//! Every process that holds a component has the same physical pages.

use weightsd_fixtures::{Checkpoint, Contents, Dims};

use crate::{
    client_process::{ClientProcess, Job, checksum},
    harness::Home,
};

/// What a client may have for itself besides page tables, its program included. Here that is the program of all stories, and the
/// system's loader writes to more than 1 MB of it.
const PRIVATE_MAX: u64 = 4 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_every_page() {
    let home = Home::new();
    let model = home.path().join("model");
    let mut checkpoint = Checkpoint::new(&Dims::demo(), Contents::Random { seed: 5 }).unwrap();
    for other in ["text_encoder", "vae"] {
        checkpoint.component_mut(other).retain(|_| false);
    }
    checkpoint.write_directory(&model).unwrap();
    let payload = checkpoint.component("transformer").payload_bytes();
    assert!(payload > 16 * PRIVATE_MAX, "{payload} bytes are too few to tell sharing from copying");
    let daemon = home.daemon();
    let job = Job { model: model.display().to_string(), component: "transformer".into(), source_layout: false };
    let mut clients: Vec<_> = (0..2).map(|_| ClientProcess::start(&home, &job)).collect();
    let expected = {
        let component = daemon.client().await.load(home.request(&job.model, &job.component), |_| ()).await.unwrap();
        checksum(component.tensors().map(|tensor| tensor.bytes()))
    };
    let held: Vec<_> = clients.iter_mut().map(ClientProcess::held).collect();
    for held in &held {
        assert_eq!((held.error.as_deref(), held.bytes), (None, payload));
        assert_eq!(held.tensors, checkpoint.component("transformer").tensors().len());
        assert_eq!(held.checksum, expected);
    }
    // The process of the test has let go: these two are the only ones that map the files.
    for client in &mut clients {
        let memory = client.memory();
        assert!(memory.shared >= payload, "{memory:?}, expected {payload} bytes shared");
        assert!(memory.private < PRIVATE_MAX, "{memory:?}, expected less than {PRIVATE_MAX} bytes private");
        // Eight bytes for each page, and what the program itself needs.
        assert!(memory.page_tables < payload / 4096 * 8 + (1 << 20), "{memory:?}");
    }
}
