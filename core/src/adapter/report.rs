//! What of an adapter is applied to a component, how strongly, and what is left out.

use std::collections::BTreeMap;

use super::{StrengthSource, error::sample};

/// Changes of one strength.
#[derive(Debug, Clone, PartialEq)]
pub struct AppliedStrength {
    /// Who says it.
    pub source: StrengthSource,
    /// What the changes are multiplied by, beside the scale that was asked for.
    pub strength: f64,
    /// The layers, sorted.
    pub layers: Vec<String>,
}

/// The full report. Names are sorted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdapterReport {
    /// The adapter, as its user named it.
    pub adapter: String,
    /// The component.
    pub component: String,
    /// Layers that are changed.
    pub applied: Vec<String>,
    /// How strongly, by source and number. A layer with changes of its weight and its bias may be in two of them.
    pub strengths: Vec<AppliedStrength>,
    /// Changes of layers that the component does not have: names without prefixes.
    pub without_target: Vec<String>,
    /// Keys whose partner is not there.
    pub without_partner: Vec<String>,
    /// Keys that say that they are for another component.
    pub other_component: Vec<String>,
    /// Keys of kinds that are not applied, by kind.
    pub unsupported: BTreeMap<String, Vec<String>>,
    /// Keys of no form that is known.
    pub unknown: Vec<String>,
    /// What is untidy and refuses nothing.
    pub remarks: Vec<String>,
}

impl AdapterReport {
    /// Whether something that is not another component's is left out.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.left_out().is_empty()
    }

    /// One sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut said = format!(
            "adapter `{}` changes {} of `{}`",
            self.adapter,
            counted(self.applied.len(), "layer", "layers"),
            self.component
        );
        for strength in &self.strengths {
            said.push_str("; ");
            said.push_str(&strength.to_string());
        }
        let left_out = self.left_out();
        if !left_out.is_empty() {
            said.push_str("; not applied: ");
            said.push_str(&left_out.join(", "));
        }
        if !self.other_component.is_empty() {
            let keys = counted(self.other_component.len(), "key", "keys");
            said.push_str(&format!("; for another component: {keys} ({})", sample(&self.other_component)));
        }
        for remark in &self.remarks {
            said.push_str("; ");
            said.push_str(remark);
        }
        said
    }

    /// What is left out, with counts and names.
    #[must_use]
    pub fn left_out(&self) -> Vec<String> {
        let of_kind = |keys: &Vec<String>, kind: &str| format!("{} of {kind}", counted(keys.len(), "key", "keys"));
        let kinds = self.unsupported.iter().map(|(kind, keys)| (of_kind(keys, kind), keys));
        let targets = counted(self.without_target.len(), "change without a target", "changes without a target");
        let partners = counted(self.without_partner.len(), "key without its partner", "keys without their partners");
        let unknown = counted(self.unknown.len(), "key of no known form", "keys of no known form");
        [(targets, &self.without_target), (partners, &self.without_partner), (unknown, &self.unknown)]
            .into_iter()
            .chain(kinds)
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what} ({})", sample(names)))
            .collect()
    }
}

impl std::fmt::Display for AppliedStrength {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layers = counted(self.layers.len(), "layer", "layers");
        match self.source {
            StrengthSource::Nothing => write!(f, "{layers} as they are, since nothing says a strength"),
            source => write!(f, "{layers} by {} ({source})", self.strength),
        }
    }
}

fn counted(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}
