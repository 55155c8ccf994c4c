//! What weights that no family takes look like: an adapter, or a component that a family knows, but for a few tensors.

use crate::{
    adapter::{AdapterKey, Kind, Unsupported},
    audit::Sample,
    family::{self, Family},
    parts::{PartSign, is_quantised, prefixes},
    rewrite::canonical,
    table::Table,
    tool::Tool,
};

/// Most tensors that a near miss may lack. What lacks more is another model.
const LACKING_MAX: usize = 8;
/// Most tensors under a prefix for each one of the published component: a packed layer has several. A file of a million
/// tensors is nearly nothing, and is not copied to find that out.
const EXCESS_MAX: usize = 8;
/// PEFT's name of a layer that it wraps; its own weights are there, so the file is a model.
const WRAPPED: &str = ".base_layer.";

/// What the weights look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resemblance {
    /// An adapter.
    Adapter {
        /// One of its keys.
        sample: String,
    },
    /// A published component without a few of its tensors.
    NearMiss {
        /// The family.
        family: &'static str,
        /// What people call the component.
        title: &'static str,
        /// How many tensors it should have.
        total: usize,
        /// The missing tensors, by their names in the published model.
        lacking: Vec<String>,
    },
}

impl Resemblance {
    /// What these tensors look like; `None` when they look like nothing that is known. Only asked of weights that no
    /// family takes.
    #[must_use]
    pub fn of(table: &Table) -> Option<Self> {
        adapter(table).or_else(|| near_miss(table))
    }

    /// The finding as a sentence about the weights at `path`.
    #[must_use]
    pub fn told(&self, path: &str) -> String {
        match self {
            Self::Adapter { sample } => format!(
                "these weights are an adapter and no model (`{sample}`): `weightsd load BASE COMPONENT --adapter {path}` \
                 applies it to a component of the model that it was trained on"
            ),
            Self::NearMiss { family, title, total, lacking } => {
                format!(
                    "these weights have {} of the {total} tensors of {family}'s {title} and lack {}, so they are \
                     not taken for one",
                    total - lacking.len(),
                    Sample::of(lacking, LACKING_MAX)
                )
            }
        }
    }

    /// What can help somebody who wants a component of a model.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Adapter { .. } => {
                "name the model that the adapter was trained on, and the adapter with `--adapter` (`adapters`)"
            }
            Self::NearMiss { .. } => "the file is cut short or was saved in part: fetch it again, or save it whole",
        }
    }
}

/// An adapter: pairs of matrices or other factors, and little else.
fn adapter(table: &Table) -> Option<Resemblance> {
    let names = || table.tensors().iter().map(|tensor| &*tensor.info.name);
    if names().any(|name| name.contains(WRAPPED)) {
        return None;
    }
    let marked = || names().filter_map(|name| Some((name, AdapterKey::parse(name)?)));
    let is_factor = |key: &AdapterKey<'_>| {
        !matches!(
            key.kind,
            Ok(Kind::Alpha | Kind::Difference | Kind::BiasDifference)
                | Err(Unsupported::Method(_) | Unsupported::PairBias | Unsupported::FirstCore)
        )
    };
    let is_most = 2 * marked().count() > table.tensors().len();
    let (sample, _) = marked().find(|(_, key)| is_factor(key)).filter(|_| is_most)?;
    Some(Resemblance::Adapter { sample: sample.to_owned() })
}

/// The published component that the tensors lack least of.
fn near_miss(table: &Table) -> Option<Resemblance> {
    let signs = family::all().flat_map(|family| family.parts().iter().map(move |sign| (family, sign)));
    let found = signs.flat_map(|(family, sign)| {
        prefixes(table, sign).into_iter().filter_map(move |prefix| {
            let (total, lacking) = lacking(table, family, sign, &prefix)?;
            Some(Resemblance::NearMiss { family: family.id(), title: sign.title, total, lacking })
        })
    });
    found.min_by_key(|found| match found {
        Resemblance::NearMiss { lacking, .. } => lacking.len(),
        Resemblance::Adapter { .. } => 0,
    })
}

/// How many tensors a published component has, and those of them that are not under `prefix`. `None` when too many are
/// not, or when one that is there has another number of elements: it is another model's.
fn lacking(table: &Table, family: &dyn Family, sign: &PartSign, prefix: &str) -> Option<(usize, Vec<String>)> {
    let published = family.published(sign.component)?;
    let total = published.tensors().len();
    if !(total / EXCESS_MAX..=total * EXCESS_MAX).contains(&table.under(prefix).len()) {
        return None;
    }
    let tensors = table.under(prefix).iter().map(|tensor| (&tensor.info.name[prefix.len()..], tensor));
    let found = canonical(tensors, &family.rules(sign.component, Tool::Unknown)).ok()?.table;
    let mut lacking = Vec::new();
    for expected in published.tensors() {
        match found.get(&expected.name) {
            None => lacking.push(expected.name.clone()),
            Some(tensor) => {
                let elements = |shape: &[u64]| shape.iter().product::<u64>();
                if elements(&tensor.info.shape) != elements(&expected.shape) && !is_quantised(&found, &expected.name) {
                    return None;
                }
            }
        }
        if lacking.len() > LACKING_MAX {
            return None;
        }
    }
    (!lacking.is_empty()).then_some((total, lacking))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::header::{Dtype, Header, TensorInfo, byte_length};

    fn table<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [u64])>) -> Table {
        let info = |(name, shape): (&str, &[u64])| TensorInfo {
            name: name.into(),
            dtype: Dtype::BF16,
            shape: shape.to_vec(),
            range: 0..byte_length(Dtype::BF16, shape).unwrap(),
            encoding: None,
        };
        let mut tensors: Vec<_> = tensors.into_iter().map(info).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Table::of_file(Header { data_start: 8, file_length: 8, tensors, metadata: BTreeMap::new() })
    }

    /// A published component without those tensors, under a prefix.
    fn without(component: &str, prefix: &str, lacking: &[&str]) -> Table {
        let catalogue = family::z_image::ZImage.published(component).unwrap();
        let kept = catalogue.tensors().iter().filter(|tensor| !lacking.contains(&&*tensor.name));
        let named: Vec<_> = kept.map(|tensor| (format!("{prefix}{}", tensor.name), tensor.shape.clone())).collect();
        table(named.iter().map(|(name, shape)| (&**name, &**shape)))
    }

    #[test]
    fn a_component_that_lacks_a_few_tensors_is_told_with_their_names() {
        let cases = [
            ("transformer", "", &["cap_embedder.0.weight"][..], "transformer"),
            ("transformer", "diffusion_model.", &["cap_embedder.0.weight", "layers.3.ffn_norm1.weight"], "transformer"),
            ("text_encoder", "", &["model.layers.0.self_attn.q_norm.weight"], "text encoder"),
            ("vae", "", &["decoder.conv_in.weight", "decoder.conv_out.weight"], "VAE"),
        ];
        for (component, prefix, names, title) in cases {
            let table = without(component, prefix, names);
            assert!(family::locate(&table).is_none(), "{component}");
            let said = Resemblance::of(&table).unwrap_or_else(|| panic!("{component}")).told("/m");
            assert!(said.contains("z-image") && said.contains(title), "{said}");
            assert!(names.iter().all(|name| said.contains(name)), "{said}");
        }
    }

    #[test]
    fn other_models_are_no_near_misses() {
        // As many names as there are, of another width.
        let wider = family::z_image::ZImage.published("text_encoder").unwrap();
        let shapes: Vec<_> = wider
            .tensors()
            .iter()
            .map(|tensor| (&*tensor.name, tensor.shape.iter().map(|side| side * 2).collect::<Vec<_>>()))
            .collect();
        let others = shapes.iter().skip(1).map(|(name, shape)| (*name, &**shape));
        assert_eq!(Resemblance::of(&table(others)), None);
        let catalogue = family::z_image::ZImage.published("transformer").unwrap();
        let names: Vec<&str> = catalogue.tensors().iter().map(|tensor| &*tensor.name).take(20).collect();
        assert_eq!(Resemblance::of(&without("transformer", "", &names)), None);
        assert_eq!(Resemblance::of(&table([("a.weight", &[2, 3][..])])), None);
    }

    #[test]
    fn adapters_are_told_from_models_that_carry_one() {
        let shape = &[4, 4][..];
        let adapters = [
            &["layers.0.q.lora_A.weight", "layers.0.q.lora_B.weight"][..],
            &["base_model.model.q.lora_A.default.weight", "base_model.model.q.lora_B.default.weight", "norm.weight"],
            &["model.layers.0.q.lora_a", "model.layers.0.q.lora_b"],
            &["lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight", "lora_unet_q.alpha"],
            &["q.lokr_w1", "q.lokr_w2"],
        ];
        for names in adapters {
            let found = Resemblance::of(&table(names.iter().map(|name| (*name, shape))));
            let Some(found @ Resemblance::Adapter { .. }) = found else { panic!("{names:?}: {found:?}") };
            assert!(found.told("/x.st").contains("weightsd load BASE COMPONENT --adapter /x.st"), "{found:?}");
        }
        let models = [
            &["q.base_layer.weight", "q.lora_A.default.weight", "q.lora_B.default.weight"][..],
            &["q.weight", "k.weight", "v.weight", "o.lora_A.weight", "o.lora_B.weight", "o.weight"],
            &["block.alpha", "other.alpha"],
        ];
        for names in models {
            let found = Resemblance::of(&table(names.iter().map(|name| (*name, shape))));
            assert_eq!(found, None, "{names:?}");
        }
    }
}
