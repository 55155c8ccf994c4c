//! Headers made from catalogues, and the same tensors in other dialects.

use std::collections::BTreeMap;

use weightsd_core::{
    catalogue::Catalogue,
    family::{
        Description, Family, ModelFacts,
        z_image::{TextEncoderConfig, TransformerConfig, VaeConfig, ZImage, known},
    },
    header::{Dtype, Header, TensorInfo, byte_length},
    pattern::Pattern,
    rewrite::{Action, Rules},
    table::Table,
};

/// Name, dtype, shape.
pub(crate) type Entry = (String, Dtype, Vec<u64>);

/// The three configs of a model.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) transformer: TransformerConfig,
    pub(crate) text_encoder: TextEncoderConfig,
    pub(crate) vae: VaeConfig,
}

pub(crate) const COMPONENTS: [&str; 3] = ["transformer", "text_encoder", "vae"];

impl Model {
    /// `Tongyi-MAI/Z-Image`.
    pub(crate) fn real() -> Self {
        Self { transformer: known::transformer(), text_encoder: known::text_encoder(), vae: known::vae() }
    }

    pub(crate) fn facts(&self) -> ModelFacts {
        let documents = [
            ("transformer", serde_json::to_vec(&self.transformer)),
            ("text_encoder", serde_json::to_vec(&self.text_encoder)),
            ("vae", serde_json::to_vec(&self.vae)),
        ];
        let documents = documents.map(|(name, json)| (format!("{name}/config.json"), json.unwrap())).into();
        ModelFacts { files: Vec::new(), documents }
    }

    pub(crate) fn describe(&self, component: &str) -> Description {
        let facts = self.facts();
        let site = ZImage.components(&facts).into_iter().find(|site| site.name == component).unwrap();
        ZImage.describe(&site, &facts).unwrap()
    }

    pub(crate) fn catalogue(&self, component: &str) -> Catalogue {
        self.describe(component).catalogue.unwrap()
    }
}

/// The tensors of a catalogue.
pub(crate) fn entries(catalogue: &Catalogue, dtype: Dtype) -> Vec<Entry> {
    catalogue.tensors().iter().map(|expected| (expected.name.clone(), dtype, expected.shape.clone())).collect()
}

/// A header with these tensors one after the other.
pub(crate) fn header(entries: &[Entry]) -> Header {
    let mut begin = 1000;
    let mut tensors: Vec<TensorInfo> = entries
        .iter()
        .map(|(name, dtype, shape)| {
            let range = begin..begin + byte_length(*dtype, shape).unwrap();
            begin = range.end;
            TensorInfo { name: name.as_str().into(), dtype: *dtype, shape: shape.clone(), range, encoding: None }
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Header { data_start: 1000, file_length: begin, tensors, metadata: BTreeMap::new() }
}

pub(crate) fn table(entries: &[Entry]) -> Table {
    Table::of_file(header(entries))
}

/// Where a tensor of the catalogue comes from in a file of another dialect.
pub(crate) struct Origin {
    /// Name in that file, without prefix.
    pub(crate) name: String,
    /// Whether it is a share of a fused layer there.
    is_share: bool,
}

/// Names that mflux alone gives. Files of the publisher's dialect do not have them.
const ONLY_MFLUX: [&str; 2] = ["t_embedder.linear1.*", "t_embedder.linear2.*"];

/// The rules read backwards: where a tensor of the catalogue's `name` lies in a file of the publisher's dialect. `None`
/// when it has the same name there.
pub(crate) fn origin(rules: &Rules, name: &str) -> Option<Origin> {
    let count = rules.count.unwrap_or(0);
    rules.set.rules.iter().filter(|rule| !ONLY_MFLUX.contains(&rule.from)).find_map(|rule| {
        let from = Pattern(rule.from);
        let back = |to: &'static str| from.fill(&Pattern(to).matches(name)?, Pattern(to), count);
        let origin = match rule.action {
            Action::Rename(to) | Action::Squeeze(to) => Origin { name: back(to)?, is_share: false },
            Action::SplitRows(into) => Origin { name: into.iter().find_map(|&(to, _)| back(to))?, is_share: true },
            Action::Drop | Action::Row(_) | Action::FromOrder(..) | Action::StandsFor(_) => return None,
        };
        (origin.name != name).then_some(origin)
    })
}

/// The same tensors in the publisher's dialect.
pub(crate) fn backwards(entries: &[Entry], rules: &Rules) -> Vec<Entry> {
    let mut out: BTreeMap<String, (Dtype, Vec<u64>)> = BTreeMap::new();
    for (name, dtype, shape) in entries {
        let Some(origin) = origin(rules, name) else {
            out.insert(name.clone(), (*dtype, shape.clone()));
            continue;
        };
        let mut shape = shape.clone();
        if shape.len() == 2 && name.contains("mid_block.attentions") {
            shape.extend([1, 1]);
        }
        if origin.is_share {
            let whole = out.entry(origin.name).or_insert_with(|| (*dtype, [&[0], &shape[1..]].concat()));
            whole.1[0] += shape[0];
        } else {
            assert!(out.insert(origin.name, (*dtype, shape)).is_none(), "{name}");
        }
    }
    out.into_iter().map(|(name, (dtype, shape))| (name, dtype, shape)).collect()
}

/// The same tensors under a prefix.
pub(crate) fn under(prefix: &str, entries: &[Entry]) -> Vec<Entry> {
    entries.iter().map(|(name, dtype, shape)| (format!("{prefix}{name}"), *dtype, shape.clone())).collect()
}

/// An all-in-one file in ComfyUI's layout.
pub(crate) fn all_in_one(model: &Model) -> Vec<Entry> {
    let part = |prefix: &str, component: &str| {
        let description = model.describe(component);
        let own = entries(&description.catalogue.unwrap(), Dtype::BF16);
        // The text encoder's rules are for models saved without their head, which ComfyUI does not use.
        let theirs = if component == "text_encoder" { own } else { backwards(&own, &description.rules) };
        under(prefix, &theirs)
    };
    [
        part("model.diffusion_model.", "transformer"),
        part("text_encoders.qwen3_4b.transformer.", "text_encoder"),
        part("vae.", "vae"),
    ]
    .concat()
}

/// Names and shapes of a table.
pub(crate) fn shapes(table: &Table) -> BTreeMap<String, Vec<u64>> {
    table.tensors().iter().map(|tensor| (tensor.info.name.to_string(), tensor.info.shape.clone())).collect()
}
