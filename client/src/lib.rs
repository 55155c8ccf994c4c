//! Client of weightsd: model weights as typed, read-only slices over pages that all processes share.
//!
//! ```no_run
//! use weightsd_client::{Client, ConnectOptions, Layout, LoadRequest, half::bf16};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ConnectOptions::default()).await?;
//! let request = LoadRequest::new("Tongyi-MAI/Z-Image-Turbo", "vae").layout(Layout::Source);
//! let vae = client.load(request, |progress| println!("{}", progress.file)).await?;
//! let kernel = vae.tensor("decoder.conv_in.weight").ok_or("no such tensor")?;
//! println!("{} {:?} {:?}", kernel.dtype(), kernel.shape(), kernel.as_slice::<bf16>()?.first());
//! let tree = vae.unflatten()?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Component`] holds its lease until it is dropped. Its [`Tensors`] are mappings of files and outlive both lease
//! and daemon.
//!
//! If somebody truncates a file that is mapped, touching a byte beyond its new end ends this process with SIGBUS; if somebody
//! writes to it in place, the bytes change. The daemon tells of both ([`Component::next_notice`]) within two seconds. A file
//! that is deleted or replaced keeps its bytes for those who have it mapped. See [`weightsd_segment::View`].
//!
//! With feature `cuda`, `CardComponent::map` gives the addresses of tensors in the memory of a card, where all processes have
//! them in common.
//!
//! With feature `mlx`, `Component::arrays` gives the tensors as arrays of mlx-rs over the same pages.

#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little endian, and this client lends their bytes as they are");

#[cfg(feature = "mlx")]
mod arrays;
#[cfg(feature = "cuda")]
mod card_tensors;
mod client;
mod component;
mod connect;
mod deadline;
mod element;
mod error;
mod folder_error;
mod handoff;
mod holding;
mod incoming;
mod layers;
mod load;
mod model_folder;
mod on_card;
mod request;
mod successor;
mod table;
mod tensor;
mod tensors;
mod tree;

#[cfg(feature = "mlx")]
pub use arrays::{AdoptionReport, Arrays, ArraysError, Copied, CopyReason};
#[cfg(feature = "cuda")]
pub use card_tensors::{CardTensors, card};
pub use client::{Client, Events};
pub use component::Component;
pub use connect::{ConnectError, ConnectOptions};
pub use element::Element;
pub use error::{ClientError, DaemonError};
pub use folder_error::{FolderError, FolderFormat};
pub use half;
pub use handoff::HandoffFailure;
pub use holding::{LeaseState, LeaseWatch};
pub use layers::QuantisedLayer;
pub use model_folder::{FolderRequest, ModelFolder};
pub use on_card::{CardComponent, CardTensor};
pub use request::{Files, Handoff, LoadRequest, beside, selector};
pub use safetensors::Dtype;
pub use table::ProtocolError;
pub use tensor::{Tensor, ViewError};
pub use tensors::Tensors;
pub use tree::{Tree, UnflattenError};
#[cfg(feature = "mlx")]
pub use weightsd_arrays::{ArrayError, mlx_rs, release_unused};
#[cfg(feature = "cuda")]
pub use weightsd_gpu::{Card, GpuError};
pub use weightsd_proto::v1 as proto;
pub use weightsd_proto::v1::{
    AuditPolicy, AuditReport, ErrorReason, FloatType, Hold, Layout, MergedLayers, Notice, Phase, Progress,
    Quantisation, QuantisationMode, Residency, Verification,
};
