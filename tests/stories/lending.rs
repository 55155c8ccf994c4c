//! What is lent is what is on disk.

use weightsd_client::Layout;
use weightsd_fixtures::{Checkpoint, Contents, Dims};

use crate::harness::Home;

const REPO: &str = "test/z-image";

#[tokio::test(flavor = "multi_thread")]
async fn every_tensor_of_every_component_has_the_bytes_of_its_file() {
    let home = Home::new();
    let checkpoint = Checkpoint::new(&Dims::tiny(), Contents::Random { seed: 3 }).unwrap();
    let hub = checkpoint.write_hub_cache(home.hub_cache(), REPO, "main").unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    for (name, layout) in [("transformer", Layout::Mlx), ("text_encoder", Layout::Mlx), ("vae", Layout::Source)] {
        let component = client.load(home.request(REPO, name).layout(layout), |_| ()).await.unwrap();
        assert_eq!(component.model().unwrap().commit, hub.commit);
        assert_eq!(component.info().computed_bytes, 0);
        assert_eq!(component.tensors().len(), checkpoint.component(name).tensors().len());
        for tensor in component.tensors() {
            let written = hub.written.tensor(name, tensor.source_name()).unwrap();
            assert_eq!(tensor.shape(), written.shape);
            assert_eq!(tensor.bytes(), hub.written.read(written).unwrap(), "{name} {}", tensor.name());
        }
    }
    assert!(daemon.terminate().success());
}
