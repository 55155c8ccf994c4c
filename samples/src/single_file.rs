//! A checkpoint, or a part of it, in one file.

use std::path::Path;

use crate::{
    Checkpoint, FixtureError, Tensor, Written, directory, other_layout,
    plan::{Body, FilePlan, Wanted, weights},
};

/// Whose names tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Those of diffusers and transformers.
    Diffusers,
    /// Those of the original code and of ComfyUI, with fused attention and LDM's autoencoder.
    Original,
    /// Those of llama.cpp, for a language model with norms of heads, such as Qwen3.
    LlamaCpp,
}

/// A component in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePart<'a> {
    /// The component.
    pub component: &'a str,
    /// What stands before its names.
    pub prefix: &'a str,
    /// Whose names it has.
    pub names: Names,
}

impl FilePart<'static> {
    /// An all-in-one file as ComfyUI saves it.
    pub const COMFY: [Self; 3] = [
        Self { component: "transformer", prefix: "model.diffusion_model.", names: Names::Original },
        Self { component: "text_encoder", prefix: "text_encoders.qwen3_4b.transformer.", names: Names::Original },
        Self { component: "vae", prefix: "vae.", names: Names::Original },
    ];
}

impl Checkpoint {
    /// Writes components into one file, with the bytes that they have in a directory. Keeps other files of `root`.
    ///
    /// # Errors
    /// When the system refuses to write.
    ///
    /// # Panics
    /// When there is no such component.
    pub fn write_single_file(
        &self,
        root: impl AsRef<Path>,
        name: &str,
        parts: &[FilePart<'_>],
    ) -> Result<Written, FixtureError> {
        let weights = weights(&[("format".to_owned(), "pt".to_owned())].into(), self.in_parts(parts));
        let plan = FilePlan { path: name.to_owned(), body: Body::Weights(weights) };
        directory::write(&[plan], self.contents, root.as_ref())
    }

    /// The tensors of these parts.
    pub(crate) fn in_parts(&self, parts: &[FilePart<'_>]) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for part in parts {
            let component = self.component(part.component);
            let prefixed =
                |tensor: &Tensor| Tensor { name: format!("{}{}", part.prefix, tensor.name), ..tensor.clone() };
            let mut push = |tensor: &Tensor, pieces: Vec<Tensor>| {
                wanted.push(Wanted { component: part.component.to_owned(), tensor: prefixed(tensor), pieces });
            };
            match part.names {
                Names::Diffusers => {
                    component.tensors().iter().for_each(|tensor| push(tensor, vec![tensor.clone()]));
                }
                Names::LlamaCpp => {
                    for other in other_layout::of_llama_cpp(component.tensors()) {
                        push(&other.tensor, other.pieces);
                    }
                }
                Names::Original => {
                    for other in other_layout::of(part.component, component.tensors()) {
                        push(&other.tensor, other.pieces);
                    }
                }
            }
        }
        wanted
    }
}
