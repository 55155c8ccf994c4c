//! A checkpoint compared with what its family says it must hold.

use std::collections::BTreeMap;

use crate::{family::Catalogue, header::Dtype, plan::Table};

/// Dtypes that a float parameter may have on disk.
pub const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// A tensor whose shape or dtype is not the expected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Name in the checkpoint.
    pub name: String,
    /// What the catalogue says.
    pub expected: String,
    /// What the checkpoint holds.
    pub found: String,
}

/// Number and bytes of the tensors of one dtype.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DtypeTotal {
    /// Tensors.
    pub tensors: u32,
    /// Their bytes.
    pub bytes: u64,
}

/// The full report. Expected names come in the order of the catalogue, extra ones sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// Component that was audited.
    pub component: String,
    /// Size of the catalogue; `None` when the family has none for this component.
    pub expected: Option<usize>,
    /// Expected tensors that are there as expected.
    pub matched: usize,
    /// Expected tensors that are absent.
    pub missing: Vec<String>,
    /// Tensors that nothing expects.
    pub extra: Vec<String>,
    /// Expected tensors with another shape.
    pub wrong_shape: Vec<Mismatch>,
    /// Expected tensors with an unusable dtype.
    pub wrong_dtype: Vec<Mismatch>,
    /// Dtypes of all tensors found, by name.
    pub dtypes: BTreeMap<String, DtypeTotal>,
    /// Bytes of all tensors found.
    pub tensor_bytes: u64,
    /// What is untidy and refuses nothing.
    pub remarks: Vec<String>,
}

impl AuditReport {
    /// Whether a strict caller is given the component: nothing missing, no wrong shape, no unusable dtype. Extra
    /// tensors are reported and refuse nothing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.wrong_shape.is_empty() && self.wrong_dtype.is_empty()
    }

    /// The verdict in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let Some(expected) = self.expected else {
            return format!("no catalogue: {} tensors taken as they are", self.extra.len());
        };
        format!(
            "{} of {expected} tensors match, {} missing, {} of wrong shape, {} of wrong dtype, {} extra",
            self.matched,
            self.missing.len(),
            self.wrong_shape.len(),
            self.wrong_dtype.len(),
            self.extra.len(),
        )
    }
}

/// Compares `table` with `catalogue`. `remarks` come from reading the checkpoint.
#[must_use]
pub fn audit(component: &str, table: &Table, catalogue: Option<&Catalogue>, mut remarks: Vec<String>) -> AuditReport {
    let mut dtypes: BTreeMap<String, DtypeTotal> = BTreeMap::new();
    for tensor in table.tensors() {
        let total = dtypes.entry(tensor.info.dtype.to_string()).or_default();
        total.tensors += 1;
        total.bytes += tensor.info.bytes();
    }
    if catalogue.is_some() && dtypes.len() > 1 {
        let kinds: Vec<&str> = dtypes.keys().map(String::as_str).collect();
        remarks.push(format!("the tensors have several dtypes: {}", kinds.join(", ")));
    }
    let mut report = AuditReport {
        component: component.to_owned(),
        expected: catalogue.map(|catalogue| catalogue.tensors().len()),
        matched: 0,
        missing: Vec::new(),
        extra: Vec::new(),
        wrong_shape: Vec::new(),
        wrong_dtype: Vec::new(),
        dtypes,
        tensor_bytes: table.tensor_bytes(),
        remarks,
    };
    for expected in catalogue.iter().flat_map(|catalogue| catalogue.tensors()) {
        let Some(found) = table.get(&expected.name).map(|found| &found.info) else {
            report.missing.push(expected.name.clone());
            continue;
        };
        let mismatch = |expected_text, found| Mismatch { name: expected.name.clone(), expected: expected_text, found };
        if found.shape != expected.shape {
            let text = |shape: &[u64]| format!("{shape:?}");
            report.wrong_shape.push(mismatch(text(&expected.shape), text(&found.shape)));
        } else if !FLOATS.contains(&found.dtype) {
            report.wrong_dtype.push(mismatch("F32, F16 or BF16".to_owned(), found.dtype.to_string()));
        } else {
            report.matched += 1;
        }
    }
    let known = |name: &str| catalogue.is_some_and(|catalogue| catalogue.contains(name));
    report.extra =
        table.tensors().iter().filter(|tensor| !known(&tensor.info.name)).map(|t| t.info.name.to_string()).collect();
    report
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        family::{Expected, Role},
        header::{Header, TensorInfo},
    };

    fn table(tensors: &[(String, Vec<u64>, Dtype)]) -> Table {
        let mut infos: Vec<TensorInfo> = tensors
            .iter()
            .map(|(name, shape, dtype)| TensorInfo {
                name: name.as_str().into(),
                dtype: *dtype,
                shape: shape.clone(),
                range: 0..crate::header::byte_length(*dtype, shape).unwrap(),
            })
            .collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        let header = Header { data_start: 8, file_length: 8, tensors: infos, metadata: BTreeMap::new() };
        Table::merge(vec![("x", header)]).unwrap()
    }

    proptest! {
        #[test]
        fn exactly_what_is_wrong_is_reported(kinds in proptest::collection::vec(0u8..5, 0..40)) {
            let name = |index: usize| format!("t{index:02}");
            let expected = |index| Expected { name: name(index), shape: vec![2, 3], role: Role::Plain };
            let catalogue = Catalogue::new((0..kinds.len()).map(expected).collect());
            let mut found = Vec::new();
            let mut count = [0usize; 5];
            for (index, &kind) in kinds.iter().enumerate() {
                count[kind as usize] += 1;
                match kind {
                    0 => found.push((name(index), vec![2, 3], Dtype::BF16)),
                    1 => {}
                    2 => found.push((name(index), vec![3, 2], Dtype::BF16)),
                    3 => found.push((name(index), vec![2, 3], Dtype::U8)),
                    _ => {
                        found.push((name(index), vec![2, 3], Dtype::F32));
                        found.push((format!("extra{index}"), vec![1], Dtype::F32));
                    }
                }
            }
            let report = audit("c", &table(&found), Some(&catalogue), vec![]);
            prop_assert_eq!(report.matched, count[0] + count[4]);
            prop_assert_eq!(report.missing.len(), count[1]);
            prop_assert_eq!(report.wrong_shape.len(), count[2]);
            prop_assert_eq!(report.wrong_dtype.len(), count[3]);
            prop_assert_eq!(report.extra.len(), count[4]);
            prop_assert_eq!(report.is_clean(), count[1] + count[2] + count[3] == 0);
        }
    }
}
