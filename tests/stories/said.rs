//! An answer says what was done, where that is not what a caller may expect.

use std::{fs, path::Path};

use serde_json::json;
use weightsd_client::{Component, Layout};

use crate::harness::Home;

/// Writes a weight file of one F32 kernel and one norm, whose header is `padding` bytes longer than it must be.
fn write_odd(path: &Path, padding: usize) -> u64 {
    let header = json!({
        "conv.weight": {"dtype": "F32", "shape": [4, 3, 3, 3], "data_offsets": [0, 432]},
        "norm.weight": {"dtype": "F32", "shape": [4], "data_offsets": [432, 448]},
    });
    let mut json = header.to_string();
    // From here on the data begins at a multiple of 8, plus the padding.
    json.push_str(&" ".repeat(json.len().next_multiple_of(8) - json.len() + padding));
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.extend((0..448).map(|number| number as u8));
    fs::write(path, bytes).unwrap();
    448
}

fn remarks(component: &Component) -> Vec<String> {
    component.audit().unwrap().remarks.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_catalogue_comes_in_layout_source_and_says_so() {
    let home = Home::new();
    let file = home.path().join("model.safetensors");
    write_odd(&file, 0);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let load =
        async |layout| client.load(home.request(file.to_str().unwrap(), "model").layout(layout), |_| ()).await.unwrap();
    let component = load(Layout::Mlx).await;
    assert_eq!(component.info().layout(), Layout::Source);
    let kernel = component.tensors().find(|tensor| tensor.name() == "conv.weight").unwrap();
    assert_eq!(kernel.shape(), [4, 3, 3, 3]);
    assert!(remarks(&component).iter().any(|remark| remark.contains("layout SOURCE")), "{:?}", remarks(&component));
    let asked = load(Layout::Source).await;
    assert!(!remarks(&asked).iter().any(|remark| remark.contains("layout SOURCE")), "{:?}", remarks(&asked));
}

/// Whether a client can make an array of every tensor where it lies.
fn is_aligned(component: &Component) -> bool {
    component.tensors().all(|tensor| (tensor.bytes().as_ptr() as usize).is_multiple_of(4))
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_clients_copy_are_counted() {
    let home = Home::new();
    let (padded, odd) = (home.path().join("padded.safetensors"), home.path().join("odd.safetensors"));
    write_odd(&padded, 0);
    let bytes = write_odd(&odd, 3);
    let daemon = home.daemon_with(&["--align-images", "false"]);
    let client = daemon.client().await;
    for (file, is_copied) in [(&padded, false), (&odd, true)] {
        let component = client.load(home.request(file.to_str().unwrap(), "model"), |_| ()).await.unwrap();
        let said = remarks(&component);
        let says_so = said.iter().any(|remark| remark.contains(&format!("copies {bytes} bytes")));
        assert_eq!(says_so, is_copied, "{}: {said:?}", file.display());
        assert_eq!((is_aligned(&component), component.info().computed_bytes), (!is_copied, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn misaligned_tensors_are_lent_from_an_aligned_copy_made_once_and_without_mlx() {
    let home = Home::new();
    let odd = home.path().join("odd.safetensors");
    let bytes = write_odd(&odd, 3);
    let content = fs::read(&odd).unwrap();
    let start = || {
        let mut command = home.command();
        command.arg("serve").env("WEIGHTSD_MLX", home.path().join("nowhere"));
        home.ready(home.start(command))
    };
    let daemon = start();
    let client = daemon.client().await;
    let request = || home.request(odd.to_str().unwrap(), "model");
    let component = client.load(request(), |_| ()).await.unwrap();
    assert!(is_aligned(&component) && component.info().computed_bytes == bytes, "{:?}", component.info());
    let said = remarks(&component);
    assert!(said.iter().any(|remark| remark.contains(&format!("2 tensors of {bytes} bytes"))), "{said:?}");
    assert!(!said.iter().any(|remark| remark.contains("copies")), "{said:?}");
    let data = |name: &str| component.tensor(name).unwrap().bytes().to_vec();
    assert_eq!([data("conv.weight"), data("norm.weight")].concat(), content[content.len() - 448..]);
    // Another client, and another daemon, have the same file; in layout SOURCE the published one is lent.
    let image = component.info().image.as_ref().unwrap().path.clone();
    let again = client.load(request(), |_| ()).await.unwrap();
    assert_eq!(again.info().image.as_ref().unwrap().path, image);
    let source = client.load(request().layout(Layout::Source), |_| ()).await.unwrap();
    assert!(source.info().image.is_none() && !is_aligned(&source));
    drop((component, again, source));
    assert!(daemon.terminate().success());
    let daemon = start();
    let found = daemon.client().await.load(request(), |_| ()).await.unwrap();
    assert_eq!(found.info().image.as_ref().unwrap().path, image);
    assert!(found.info().timings.as_ref().unwrap().derive.is_none_or(|took| took.seconds == 0 && took.nanos == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_an_aligned_copy_tensors_are_lent_from_where_they_lie() {
    let home = Home::new();
    let odd = home.path().join("odd.safetensors");
    let bytes = write_odd(&odd, 3);
    let daemon = home.daemon_with(&["--image-budget", "1kB"]);
    let client = daemon.client().await;
    let component = client.load(home.request(odd.to_str().unwrap(), "model"), |_| ()).await.unwrap();
    let said = remarks(&component);
    assert_eq!((component.info().computed_bytes, is_aligned(&component)), (0, false), "{said:?}");
    assert!(said.iter().any(|remark| remark.contains("no aligned copy of them, because")), "{said:?}");
    assert!(said.iter().any(|remark| remark.contains(&format!("copies {bytes} bytes"))), "{said:?}");
}
