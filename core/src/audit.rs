//! Compares a checkpoint with the catalogue of its family. The report refuses nothing: its reader decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    catalogue::Catalogue,
    header::names,
    layer_name::layer_of,
    layers::{LayerProblem, Layers},
    origin::Operation,
    quantisation::{SlotRole, is_file_mark, is_harmless},
    rewrite::Unusable,
    source::SourceId,
    table::{DtypeTotal, Sourced, Table},
};

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

/// What was done to the tensors of one file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OriginTotal {
    /// Tensors that are lent as the file has them.
    pub as_they_are: u32,
    /// Tensors under another name.
    pub renamed: u32,
    /// Tensors in another shape.
    pub reshaped: u32,
    /// Tensors that are some rows of a tensor in the file.
    pub rows: u32,
}

impl OriginTotal {
    fn add(&mut self, tensor: &Sourced) {
        let count = match tensor.origin.as_ref().map(|origin| origin.operation) {
            None => &mut self.as_they_are,
            Some(Operation::Renamed) => &mut self.renamed,
            Some(Operation::Reshaped | Operation::Ordered(_)) => &mut self.reshaped,
            Some(Operation::Rows { .. }) => &mut self.rows,
        };
        *count += 1;
    }

    /// All tensors of the file that are in the component.
    #[must_use]
    pub fn tensors(&self) -> u32 {
        self.as_they_are + self.renamed + self.reshaped + self.rows
    }
}

/// The first names of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample<'a> {
    /// The names that are shown.
    pub names: &'a [String],
    /// Number of names that are not shown.
    pub more: usize,
}

impl<'a> Sample<'a> {
    /// At most `count` of `names`.
    #[must_use]
    pub fn of(names: &'a [String], count: usize) -> Self {
        let shown = names.len().min(count);
        Self { names: &names[..shown], more: names.len() - shown }
    }
}

impl fmt::Display for Sample<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(", "))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, ", … ({more} more)"),
        }
    }
}

/// The full report. Expected names come in the order of the catalogue, extra ones sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditReport {
    /// Component that was audited.
    pub component: String,
    /// Size of the catalogue; `None` when the family has none for this component.
    pub expected: Option<usize>,
    /// Expected tensors that are there as expected.
    pub matched: usize,
    /// Expected tensors that are absent.
    pub missing: Vec<String>,
    /// Tensors that the catalogue does not have; none without a catalogue, which expects nothing.
    pub extra: Vec<String>,
    /// Number of tensors that no catalogue was there to check; 0 when there is one.
    pub unchecked: usize,
    /// Expected tensors with another shape.
    pub wrong_shape: Vec<Mismatch>,
    /// Expected tensors with an unusable dtype.
    pub wrong_dtype: Vec<Mismatch>,
    /// Dtypes of all tensors found, by name.
    pub dtypes: BTreeMap<String, DtypeTotal>,
    /// Shapes of all tensors found, with the number of tensors that have each.
    pub shapes: BTreeMap<Vec<u64>, DtypeTotal>,
    /// How the quantised layers are quantised, with the number of layers and the bytes of their tensors.
    pub schemes: BTreeMap<String, DtypeTotal>,
    /// The entries of [`Self::schemes`] from which nothing is computed. Modules of MLX cannot use such layers.
    pub foreign: Vec<String>,
    /// Why nothing is computed from them, in words; empty when there are none.
    pub refusal: String,
    /// What was done to the tensors of each source.
    pub origins: BTreeMap<SourceId, OriginTotal>,
    /// Tensors that belong to no module and do no harm.
    pub tolerated: Vec<String>,
    /// Names of tensors that the model takes from another component.
    pub borrowed: Vec<String>,
    /// Bytes of all tensors found.
    pub tensor_bytes: u64,
    /// Remarks for people. None of them refuses the component.
    pub remarks: Vec<String>,
}

impl AuditReport {
    /// Says which tensors the modules of layout MLX do not have, and which weights the config makes superfluous.
    #[must_use]
    pub fn left_out(&self) -> Vec<String> {
        let superfluous = || self.tolerated.iter().filter(|name| layer_of(name).is_some());
        let told = |count: usize, sample: Option<&String>, what: &str| {
            let sample = sample?;
            Some(format!("{count} tensors that {what}, such as `{sample}`, are left out in layout MLX"))
        };
        let extra = told(self.extra.len(), self.extra.first(), "the catalogue does not have");
        let tied = told(superfluous().count(), superfluous().next(), "the config makes superfluous");
        extra.into_iter().chain(tied).collect()
    }

    /// Whether a strict caller gets the component: no tensor is missing or has a wrong shape or dtype. Extra tensors are
    /// reported and refuse nothing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.wrong_shape.is_empty() && self.wrong_dtype.is_empty()
    }

    /// Share of the catalogue that is there as expected, from 0 to 1; `None` without a catalogue.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
    pub fn coverage(&self) -> Option<f64> {
        self.expected.map(|expected| if expected == 0 { 1.0 } else { self.matched as f64 / expected as f64 })
    }

    /// Adds fused tensors that could not be split, and packed tensors that contradict each other.
    pub fn add_damage(&mut self, unusable: &[Unusable], problems: &[LayerProblem]) {
        self.wrong_shape.extend(unusable.iter().map(|tensor| Mismatch {
            name: tensor.name.clone(),
            expected: format!("rows in {} equal parts", tensor.parts),
            found: format!("{:?} of {}", tensor.found, tensor.dtype),
        }));
        self.wrong_shape.extend(problems.iter().map(|problem| Mismatch {
            name: problem.name.clone(),
            expected: problem.expected.clone(),
            found: problem.found.clone(),
        }));
    }

    /// Adds the layers in formats that MLX does not have.
    pub fn add_foreign(&mut self, table: &Table, layers: &Layers) {
        for coded in layers.coded.values() {
            let tensors = coded.tensors.iter().filter_map(|(_, name, _)| table.get(name));
            let bytes = tensors.map(|tensor| tensor.info.bytes()).sum();
            self.schemes.entry(coded.coding.to_string()).or_default().add(1, bytes);
        }
        for foreign in layers.foreign.values().filter(|foreign| !foreign.tensors.is_empty()) {
            let tensors = foreign.tensors.iter().filter_map(|(name, _)| table.get(name));
            let bytes = tensors.map(|tensor| tensor.info.bytes()).sum();
            self.schemes.entry(foreign.format.clone()).or_default().add(1, bytes);
        }
        let formats: BTreeSet<&String> = layers.foreign.values().map(|foreign| &foreign.format).collect();
        self.foreign = formats.into_iter().cloned().collect();
        let mut refused = layers.foreign.keys().filter_map(|layer| Some((layer, layers.opaque.get(layer)?)));
        if let Some((layer, opaque)) = refused.next() {
            let others = match refused.count() {
                0 => String::new(),
                others => format!(" and {others} more layers"),
            };
            self.refusal = format!("`{layer}`{others} of `{}`: {}", self.component, opaque.why);
        }
    }

    /// Why a component that is not clean is refused: it does not match its catalogue, or, if there is none, its packed
    /// tensors contradict each other.
    #[must_use]
    pub fn fault(&self) -> String {
        let (component, summary) = (&self.component, self.summary());
        match (self.expected, self.wrong_shape.first()) {
            (None, Some(first)) => format!(
                "`{component}` has {} tensors that do not fit their layers, such as `{}`: expected {}, found {}",
                self.wrong_shape.len(),
                first.name,
                first.expected,
                first.found
            ),
            _ => format!("`{component}` does not match its catalogue: {summary}"),
        }
    }

    /// The verdict in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let Some(expected) = self.expected else {
            return format!("no catalogue: {} tensors taken as they are", self.unchecked);
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
pub fn audit(component: &str, table: &Table, catalogue: Option<&Catalogue>, remarks: Vec<String>) -> AuditReport {
    let mut report = AuditReport {
        component: component.to_owned(),
        expected: catalogue.map(|catalogue| catalogue.tensors().len()),
        unchecked: if catalogue.is_some() { 0 } else { table.tensors().len() },
        tensor_bytes: table.tensor_bytes(),
        remarks,
        ..AuditReport::default()
    };
    report.add_totals(table);
    if let Some(catalogue) = catalogue {
        report.add_dtypes_remark(table);
        report.compare(table, catalogue);
        report.add_extra(table, catalogue);
    }
    report
}

impl AuditReport {
    /// Counts the tensors by dtype, shape, scheme and file.
    fn add_totals(&mut self, table: &Table) {
        for tensor in table.tensors() {
            let bytes = tensor.info.bytes();
            self.dtypes.entry(tensor.info.stored_type()).or_default().add(1, bytes);
            self.shapes.entry(tensor.info.shape.clone()).or_default().add(1, bytes);
            self.origins.entry(tensor.source).or_default().add(tensor);
            if let Some(packed) = &tensor.packed {
                let layers = u32::from(packed.role == SlotRole::Weight);
                self.schemes.entry(packed.scheme.to_string()).or_default().add(layers, bytes);
            }
        }
    }

    /// Notes that the plain tensors have several dtypes. Quantised layers have several by their nature, and so have the
    /// files of ggml.
    fn add_dtypes_remark(&mut self, table: &Table) {
        let plain = table.tensors().iter().filter(|tensor| tensor.packed.is_none() && tensor.coded.is_none());
        let plain = plain.filter(|tensor| !is_file_mark(&tensor.info.name));
        if plain.clone().any(|tensor| tensor.info.encoding.is_some()) {
            return;
        }
        let dtypes: BTreeSet<String> = plain.map(|tensor| tensor.info.dtype.to_string()).collect();
        if dtypes.len() > 1 {
            let dtypes: Vec<&str> = dtypes.iter().map(String::as_str).collect();
            self.remarks.push(format!("the tensors have several dtypes: {}", dtypes.join(", ")));
        }
    }

    /// Compares each expected tensor with the one of its name.
    fn compare(&mut self, table: &Table, catalogue: &Catalogue) {
        for expected in catalogue.tensors() {
            let Some(found) = table.get(&expected.name).map(|found| &found.info) else {
                self.missing.push(expected.name.clone());
                continue;
            };
            let mismatch =
                |expected_text, found| Mismatch { name: expected.name.clone(), expected: expected_text, found };
            if !expected.has_shape(&found.shape) {
                let text = |shape: &[u64]| format!("{shape:?}");
                self.wrong_shape.push(mismatch(text(&expected.shape), text(&found.shape)));
            } else if let Some(dtypes) = expected.dtypes().filter(|dtypes| !dtypes.contains(&found.dtype)) {
                self.wrong_dtype.push(mismatch(names(dtypes), found.dtype.to_string()));
            } else {
                self.matched += 1;
            }
        }
    }

    /// Lists the tensors that the catalogue does not have.
    fn add_extra(&mut self, table: &Table, catalogue: &Catalogue) {
        for tensor in table.tensors().iter().filter(|tensor| !catalogue.contains(&tensor.info.name)) {
            let name = &tensor.info.name;
            let is_tolerated = catalogue.tolerates(name) || is_file_mark(name) || is_harmless(name);
            let list = if is_tolerated { &mut self.tolerated } else { &mut self.extra };
            list.push(tensor.info.name.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::header::Dtype;
    use crate::{
        catalogue::{Expected, Role, Stored},
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
                encoding: None,
            })
            .collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        let header = Header { data_start: 8, file_length: 8, tensors: infos, metadata: BTreeMap::new() };
        Table::of_file(header)
    }

    #[test]
    fn without_a_catalogue_nothing_is_extra_and_no_fault_is_against_one() {
        let tensors = ["a.weight", "a.scales"].map(|name| (name.to_owned(), vec![2, 3], Dtype::BF16));
        let mut report = audit("model", &table(&tensors), None, vec![]);
        assert_eq!((report.expected, report.unchecked, report.extra.len()), (None, 2, 0));
        assert_eq!((report.is_clean(), report.summary().contains("2 tensors taken as they are")), (true, true));
        let problem = LayerProblem { name: "a.scales".into(), expected: "[2, 1]".into(), found: "[2, 3]".into() };
        report.add_damage(&[], &[problem]);
        assert!(!report.is_clean() && !report.fault().contains("catalogue"), "{}", report.fault());
        assert!(report.fault().contains("`a.scales`: expected [2, 1], found [2, 3]"), "{}", report.fault());
    }

    proptest! {
        #[test]
        fn exactly_what_is_wrong_is_reported(kinds in proptest::collection::vec(0u8..5, 0..40)) {
            let name = |index: usize| format!("t{index:02}");
            let expected = |index| Expected { name: name(index), shape: vec![2, 3], role: Role::Plain, stored: Stored::Float };
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
            let said = report.left_out().concat();
            prop_assert_eq!(said.contains(&format!("{} tensors that", count[4])) && said.contains("`extra"), count[4] > 0);
            prop_assert_eq!(report.is_clean(), count[1] + count[2] + count[3] == 0);
        }
    }
}
