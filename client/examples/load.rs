//! Loads a component and prints its tensors: `cargo run -p weightsd-client --example load -- org/repo vae`.

use weightsd_client::{Client, ClientError, ConnectOptions, LoadRequest};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ClientError> {
    let mut arguments = std::env::args().skip(1);
    let [spec, component] = [(); 2].map(|()| arguments.next().expect("usage: load MODEL COMPONENT"));
    let client = Client::connect(ConnectOptions::default()).await?;
    let component = client.load(LoadRequest::new(spec, component), |step| eprintln!("{:?}", step.phase())).await?;
    component.tensors().for_each(|tensor| println!("{} {} {:?}", tensor.name(), tensor.dtype(), tensor.shape()));
    Ok(())
}
