//! Names that programs give to the files of adapters.

const SUFFIX: &str = ".safetensors";
/// The finished adapters of PEFT, mlx-lm and diffusers.
const FINISHED: [&str; 3] = ["adapter_model", "adapters", "pytorch_lora_weights"];

/// Whether a program that writes [`super::ADAPTER_CONFIG`] gives the adapter beside it this file name: PEFT's
/// `adapter_model`, mlx-lm's `adapters`, and its checkpoints.
#[must_use]
pub fn is_config_of(file: &str) -> bool {
    let stem = file.strip_suffix(SUFFIX);
    stem.is_some_and(|stem| matches!(stem, "adapter_model" | "adapters") || is_checkpoint(stem))
}

/// What may lie beside a finished adapter without a doubt about which file is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// mlx-lm's checkpoints of the same training.
    Checkpoints,
    /// Those, and the weights of a model.
    CheckpointsAndModels,
}

/// The finished adapter among the files of a folder, when all others are what may lie beside it. Files in folders below do
/// not count.
pub fn finished<'a>(files: impl IntoIterator<Item = &'a str>, beside: Beside) -> Option<&'a str> {
    let mut found = None;
    for file in files {
        let Some(stem) = file.strip_suffix(SUFFIX).filter(|stem| !stem.contains('/') && !stem.starts_with("._")) else {
            continue;
        };
        if FINISHED.contains(&stem) && found.replace(file).is_none() {
            continue;
        }
        if !is_checkpoint(stem) && (beside == Beside::Checkpoints || !is_model(stem)) {
            return None;
        }
    }
    found
}

/// `0000100_adapters`.
fn is_checkpoint(stem: &str) -> bool {
    let number = stem.strip_suffix("_adapters");
    number.is_some_and(|number| number.len() >= 7 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `model`, `model-00001-of-00002`, `diffusion_pytorch_model.fp16`.
fn is_model(stem: &str) -> bool {
    ["model", "diffusion_pytorch_model"].iter().any(|name| {
        let rest = stem.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_belong_to_the_names_of_their_writers() {
        for file in ["adapter_model.safetensors", "adapters.safetensors", "0000100_adapters.safetensors"] {
            assert!(is_config_of(file), "{file}");
        }
        for file in ["style.safetensors", "100_adapters.safetensors", "my_adapters.safetensors", "adapters.npz", "a"] {
            assert!(!is_config_of(file), "{file}");
        }
    }

    #[test]
    fn a_finished_adapter_is_found_among_its_checkpoints() {
        let mlx = ["0000100_adapters.safetensors", "adapters.safetensors", "adapter_config.json", "README.md"];
        let model =
            ["model-00001-of-00002.safetensors", "adapter_model.safetensors", "checkpoint-5/adapter_model.safetensors"];
        assert_eq!(finished(mlx, Beside::Checkpoints), Some("adapters.safetensors"));
        assert_eq!(finished(model, Beside::CheckpointsAndModels), Some("adapter_model.safetensors"));
        assert_eq!(finished(model, Beside::Checkpoints), None);
        for files in [
            &["style.safetensors", "adapter_model.safetensors"][..],
            &["adapter_model.safetensors", "adapters.safetensors"],
            &["0000100_adapters.safetensors", "0000200_adapters.safetensors"],
            &["modelled.safetensors", "adapters.safetensors"],
            &[],
        ] {
            assert_eq!(finished(files.iter().copied(), Beside::CheckpointsAndModels), None, "{files:?}");
        }
    }
}
