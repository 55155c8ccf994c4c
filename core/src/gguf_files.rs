//! Which GGUF files of a folder are meant. People publish a model in many quantisations side by side, and name them by
//! the end of the files' names: `model-Q4_K_M.gguf`.

use std::collections::BTreeSet;

use crate::weight_name::{self, Format};

/// Words in the names of GGUF files that are no models: projectors of images, importance matrices.
const NO_MODELS: [&str; 2] = ["mmproj", "imatrix"];

/// Whether a set of files is in that quantisation, by its name. Case does not count.
#[must_use]
pub fn is_quantisation(set: &str, quantisation: &str) -> bool {
    let Some(at) = set.len().checked_sub(quantisation.len()).filter(|_| !quantisation.is_empty()) else { return false };
    let Some((before, found)) = set.split_at_checked(at) else { return false };
    found.eq_ignore_ascii_case(quantisation) && before.ends_with(['-', '.', '_'])
}

/// The folder whose weights a file belongs to, by its path. A folder that is called after the quantisation in it,
/// `Q8_0/m-Q8_0-00001-of-00002.gguf` or `m-Q8_0/m-Q8_0.gguf`, only keeps that quantisation's files together: they belong
/// to the folder above it, beside the other quantisations.
#[must_use]
pub fn folder_of(path: &str) -> &str {
    let (folder, file) = weight_name::split(path);
    let (above, name) = weight_name::split(folder);
    let set = weight_name::set_of(file).filter(|_| Format::of(file) == Format::Gguf);
    let is_its_own = |set: &str| set.eq_ignore_ascii_case(name) || is_quantisation(set, name);
    if set.is_some_and(is_its_own) { above } else { folder }
}

/// Parts of the names of quantisations, after the letter and the bits.
const PARTS: [&str; 10] = ["0", "1", "K", "S", "M", "L", "XL", "XS", "XXS", "NL"];

/// Whether a text is the name of a quantisation of llama.cpp, such as `Q4_K_M` or `UD-IQ2_XXS`. Those that are also names
/// of branches, such as `BF16`, are not.
#[must_use]
pub fn is_quantisation_name(text: &str) -> bool {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("UD-").unwrap_or(&name);
    let mut parts = name.split('_');
    let kind = parts.next().unwrap_or_default();
    let bits = ["IQ", "TQ", "Q"].iter().find_map(|letters| kind.strip_prefix(letters));
    let is_of_bits = bits.is_some_and(|bits| matches!(bits.as_bytes(), [b'1'..=b'8']));
    let parts: Vec<&str> = parts.collect();
    name == "MXFP4" || (is_of_bits && !parts.is_empty() && parts.iter().all(|part| PARTS.contains(part)))
}

/// A spec `org/repo:QUANTISATION` as the id and the quantisation, which chooses among the files of a repository as
/// llama.cpp's own spelling does. `None` for a path, and where a revision or nothing follows the id.
#[must_use]
pub fn with_quantisation(spec: &str) -> Option<(&str, &str)> {
    let (id, quantisation) = spec.trim().rsplit_once(':')?;
    let is_id = id.matches('/').count() == 1 && !id.starts_with(['/', '.', '~']) && !id.contains("://");
    (is_id && is_quantisation_name(quantisation)).then_some((id, quantisation))
}

/// The files of a model without the weights that are not meant: where there are safetensors, GGUF files count only if
/// `variant` is their quantisation and no variant of the safetensors; and files that are no models do not count beside
/// those that are.
#[must_use]
pub fn of_one_format(mut files: Vec<String>, variant: Option<&str>) -> Vec<String> {
    let is_gguf = |path: &str| Format::of(path) == Format::Gguf;
    let set = |path: &str| weight_name::set_of(weight_name::split(path).1).map(str::to_owned);
    let of_variant = |path: &str, variant: &str| match (set(path), is_gguf(path)) {
        (Some(set), true) => is_quantisation(&set, variant),
        (Some(set), false) => set.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(variant)),
        (None, _) => false,
    };
    let has = |wanted: &dyn Fn(&str) -> bool| files.iter().any(|path| wanted(path));
    let has_safetensors = has(&|path| !is_gguf(path) && weight_name::is_weights(path));
    let means_gguf = variant.is_some_and(|variant| {
        has(&|path| is_gguf(path) && of_variant(path, variant))
            && !has(&|path| !is_gguf(path) && of_variant(path, variant))
    });
    if has_safetensors {
        files.retain(|path| !weight_name::is_weights(path) || is_gguf(path) == means_gguf);
    }
    let is_model = |path: &str| !NO_MODELS.iter().any(|word| weight_name::split(path).1.contains(word));
    let folders: BTreeSet<String> =
        files.iter().filter(|path| is_gguf(path) && is_model(path)).map(|path| folder_of(path).to_owned()).collect();
    files.retain(|path| !is_gguf(path) || is_model(path) || !folders.contains(folder_of(path)));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantisation_is_the_end_of_a_name() {
        for (set, quantisation, is_it) in [
            ("gemma-3-270m-it-Q4_K_M", "q4_k_m", true),
            ("qwen3.Q8_0", "Q8_0", true),
            ("z_image_turbo_Q5_K_S", "Q5_K_S", true),
            ("m-Q4_K_M", "Q4_K", false),
            ("m-IQ4_XS", "Q4_XS", false),
            ("Q8_0", "Q8_0", false),
            ("m-Q8_0", "", false),
            ("m-\u{e9}", "\u{9}", false),
        ] {
            assert_eq!(is_quantisation(set, quantisation), is_it, "{set} {quantisation}");
        }
    }

    #[test]
    fn a_folder_of_one_quantisation_is_none_of_its_own() {
        for (path, folder) in [
            ("Q8_0/m-Q8_0-00001-of-00002.gguf", ""),
            ("m-q8_0/m-Q8_0.gguf", ""),
            ("gguf/UD-Q4_K_XL/m-UD-Q4_K_XL.gguf", "gguf"),
            ("BF16/m-BF16.gguf", ""),
            ("Q4_K_M/m-Q8_0.gguf", "Q4_K_M"),
            ("transformer/m-Q8_0.gguf", "transformer"),
            ("fp16/m-fp16.safetensors", "fp16"),
            ("m-Q8_0.gguf", ""),
        ] {
            assert_eq!(folder_of(path), folder, "{path}");
        }
    }

    #[test]
    fn a_quantisation_is_told_from_a_revision() {
        for name in ["Q4_K_M", "q8_0", "IQ2_XXS", "UD-Q4_K_XL", "TQ1_0", "MXFP4", "Q6_K"] {
            assert!(is_quantisation_name(name), "{name}");
            let spec = format!("org/repo:{name}");
            assert_eq!(with_quantisation(&spec), Some(("org/repo", name)));
        }
        for name in ["main", "fp16", "BF16", "F16", "Q4", "Q9_0", "Q4_K_M_x", "4bit", "", "v1.0", "IQ_S"] {
            assert!(!is_quantisation_name(name), "{name}");
        }
        for spec in ["./a:Q8_0", "/a/b:Q8_0", "~/b:Q8_0", "s3://a/b:Q8_0", "a:Q8_0", "a/b/c:Q8_0", "org/repo@Q8_0"] {
            assert_eq!(with_quantisation(spec), None, "{spec}");
        }
        assert_eq!(with_quantisation("org/repo@v1:Q8_0"), Some(("org/repo@v1", "Q8_0")));
    }

    #[test]
    fn safetensors_come_first_unless_the_variant_names_a_gguf() {
        let kept =
            |files: &[&str], variant| of_one_format(files.iter().map(|&file| file.to_owned()).collect(), variant);
        let both = ["config.json", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "model.safetensors", "model.fp16.safetensors"];
        assert_eq!(kept(&both, None), [both[0], both[3], both[4]]);
        assert_eq!(kept(&both, Some("fp16")), [both[0], both[3], both[4]]);
        assert_eq!(kept(&both, Some("Q8_0")), both[..3]);
        assert_eq!(kept(&both[..3], None), both[..3]);
        let beside = ["m-Q8_0.gguf", "mmproj-F16.gguf", "imatrix.gguf"];
        assert_eq!(kept(&beside, None), beside[..1]);
        assert_eq!(kept(&beside[1..2], None), beside[1..2]);
        let folders = ["Q8_0/m-Q8_0.gguf", "mmproj-F16.gguf"];
        assert_eq!(kept(&folders, None), folders[..1]);
    }
}
