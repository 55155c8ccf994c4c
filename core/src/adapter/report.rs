//! What of an adapter is applied to a component, and what is not.

use std::collections::BTreeMap;

use super::error::sample;

/// The full report. Names are sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdapterReport {
    /// The adapter, as its user named it.
    pub adapter: String,
    /// The component.
    pub component: String,
    /// Layers that are changed.
    pub applied: Vec<String>,
    /// Changes of layers that the component does not have, or that adapters do not change: names without prefixes.
    pub without_target: Vec<String>,
    /// Keys whose partner is not there.
    pub without_partner: Vec<String>,
    /// Keys that say that they are for another component.
    pub other_component: Vec<String>,
    /// Keys of kinds that are not applied, by kind.
    pub unsupported: BTreeMap<String, Vec<String>>,
    /// Keys that are no adapter's.
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
        let left_out = self.left_out();
        if !left_out.is_empty() {
            said.push_str("; not applied: ");
            said.push_str(&left_out.join(", "));
        }
        if !self.other_component.is_empty() {
            let keys = counted(self.other_component.len(), "key", "keys");
            said.push_str(&format!("; for another component: {keys}"));
        }
        for remark in &self.remarks {
            said.push_str("; ");
            said.push_str(remark);
        }
        said
    }

    fn left_out(&self) -> Vec<String> {
        let of_kind = |keys: &Vec<String>, kind: &str| format!("{} of {kind}", counted(keys.len(), "key", "keys"));
        let kinds = self.unsupported.iter().map(|(kind, keys)| (of_kind(keys, kind), keys));
        let targets = counted(self.without_target.len(), "change without a target", "changes without a target");
        let partners = counted(self.without_partner.len(), "key without its partner", "keys without their partners");
        let unknown = counted(self.unknown.len(), "unknown key", "unknown keys");
        [(targets, &self.without_target), (partners, &self.without_partner), (unknown, &self.unknown)]
            .into_iter()
            .chain(kinds)
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what} ({})", sample(names)))
            .collect()
    }
}

fn counted(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}
