//! Layers in formats that MLX does not have and that weightsd makes plain: what their tensors, the marks of their file and
//! the catalogue agree on. Where they do not agree, the layer's numbers are not known, and a clause says why.

use std::collections::BTreeMap;

use super::{CodedLayer, LayerProblem, Layers, Sought};
use crate::{
    header::{Dtype, TensorInfo},
    layer_name::weight_of,
    origin::Operation,
    quantisation::{
        CodeRule, Codes, Coding, Decoding, FORMATS, Foreign, Format, Formula, Grid, GridRule, MARK_SUFFIX, Mark,
        Provenance, Recognised, Rotation, RotationRule, SlotRole, TILE_COLUMNS, TILE_ROWS, is_file_mark, marked_float,
    },
    table::Sourced,
};

/// Most columns of a rotated group: sums of so many codes are exact in F32.
const ROTATED_COLUMNS_MAX: u64 = 1 << 16;

/// What the marks of a component say, by layer: what can be read, and why the rest cannot.
pub(super) type Marks = BTreeMap<String, Result<(Mark, Provenance), String>>;

/// Why a layer cannot be made plain.
pub(super) struct Refusal {
    /// A clause about the layer.
    pub(super) why: String,
    /// The tensor that does not fit, where one does not.
    pub(super) problem: Option<LayerProblem>,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, problem: None }
    }
}

/// Reads the marks of all layers.
pub(super) fn marks(sought: &Sought<'_>) -> Marks {
    let mut marks = Marks::new();
    for tensor in sought.table.tensors() {
        let name = &*tensor.info.name;
        if let Some(layer) = name.strip_suffix(MARK_SUFFIX) {
            let listed = sought.table.get(&weight_of(layer)).and_then(|weight| weight.mark.as_deref());
            marks.insert(layer.to_owned(), of_layer(Some(tensor), listed));
        } else if let (Some(layer), Some(listed)) = (crate::layer_name::layer_of(name), tensor.mark.as_deref()) {
            marks.entry(layer.to_owned()).or_insert_with(|| of_layer(None, Some(listed)));
        }
    }
    marks
}

/// What the mark beside a layer and the list in the metadata say together.
fn of_layer(beside: Option<&Sourced>, listed: Option<&[u8]>) -> Result<(Mark, Provenance), String> {
    let read = |bytes: &[u8], provenance: Provenance| {
        let mark = Mark::parse(bytes).map_err(|error| format!("{provenance} cannot be used: {error}"))?;
        Ok::<_, String>((mark, provenance))
    };
    let beside = match beside.map(|tensor| tensor.mark.as_deref()) {
        None => None,
        Some(None) => return Err(format!("its {} was not read", Provenance::Mark)),
        Some(Some(bytes)) => Some(read(bytes, Provenance::Mark)?),
    };
    let listed = listed.map(|bytes| read(bytes, Provenance::List)).transpose()?;
    match (beside, listed) {
        (Some(beside), Some(listed)) if beside.0 != listed.0 => {
            Err(format!("{} says {}, and {} says {}", beside.1, in_words(&beside.0), listed.1, in_words(&listed.0)))
        }
        (Some(found), _) | (None, Some(found)) => Ok(found),
        (None, None) => Err("it has no mark".to_owned()),
    }
}

fn in_words(mark: &Mark) -> String {
    let rotation = match mark.rotation {
        Rotation::Unsaid | Rotation::Off => String::new(),
        Rotation::On(columns) => format!(", rotated by {columns}"),
    };
    format!("`{}`{rotation}", mark.format)
}

/// What is known of the whole component's FP8 weights.
pub(super) struct Fp8 {
    /// The 8-bit floats that a mark of the whole file names, if there is one.
    pub(super) marked: Option<Codes>,
    /// Layers that have a scale.
    scaled: usize,
}

impl Fp8 {
    pub(super) fn of(sought: &Sought<'_>, recognised: &BTreeMap<&str, Recognised<'_>>) -> Self {
        let mark = sought.table.tensors().iter().find(|tensor| is_file_mark(&tensor.info.name));
        // A mark of F32 means E4M3.
        let marked = mark.map(|mark| Codes::float8(mark.info.dtype).unwrap_or(Codes::E4m3));
        let is_scaled = |layer: &&Recognised<'_>| {
            let weight = layer.slots.iter().find(|(slot, _)| slot.role == SlotRole::Weight);
            weight.is_some_and(|(_, info)| Codes::float8(info.dtype).is_some())
                && layer.slots.iter().any(|(slot, _)| slot.role == SlotRole::Scales)
        };
        Self { marked, scaled: recognised.values().filter(is_scaled).count() }
    }

    /// Why an FP8 weight without a scale is not taken for a plain one.
    pub(super) fn lacks_its_scale(&self) -> Option<String> {
        match (self.marked, self.scaled) {
            (Some(_), _) => Some("the file says that its FP8 weights are scaled, and the scale is missing".to_owned()),
            (None, 0) => None,
            (None, scaled) => Some(format!("{scaled} other FP8 weights have a scale, and its own is missing")),
        }
    }
}

/// How a layer is made plain.
pub(super) fn resolve(
    sought: &Sought<'_>,
    layer: &str,
    recognised: &Recognised<'_>,
    marks: &Marks,
    fp8: &Fp8,
) -> Result<CodedLayer, Refusal> {
    let format = recognised.format;
    let formula = format.formula().ok_or_else(|| "it is not computed with".to_owned())?;
    let mark = marks.get(layer).map(|mark| mark.as_ref().map_err(Clone::clone)).transpose()?;
    let weight = slot(recognised, SlotRole::Weight).ok_or_else(|| "it has no weight".to_owned())?;
    let declared = sought.declaration.and_then(|declaration| declaration.foreign.as_ref());
    let provenance = provenance(format, formula, mark, declared, fp8)?;
    if let Some(stated) = declared.and_then(|declared| stated(declared, formula)) {
        return Err(stated.into());
    }
    if let Some((smoothing, _)) = recognised.slots.iter().find(|(slot, _)| slot.role == SlotRole::Smoothing) {
        return Err(format!("its `{}` changes its weight in a way that is not computed", smoothing.name()).into());
    }
    let unsaid = formula.unmarked.filter(|_| mark.is_none()).map(str::to_owned);
    if let Some(unsaid) = unsaid.clone().filter(|_| formula.rotation != RotationRule::IfMarked) {
        return Err(unsaid.into());
    }
    let codes = codes(formula, weight, mark, fp8)?;
    let logical = match sought.shape(layer) {
        Some(logical) => logical.to_vec(),
        None => unpacked(&weight.shape, codes),
    };
    let rows = logical.first().copied().unwrap_or(1);
    let scale_rows = match (fused_rows(sought, weight), slot(recognised, SlotRole::Scales)) {
        // Scales that were not dealt out are those of the whole fused weight.
        (Some(of), Some(scales)) if fused_rows(sought, scales).is_none() => of,
        _ => rows,
    };
    let shapes = Shapes { layer, recognised, logical: &logical, scale_rows };
    let grid = shapes.grid(formula, mark.map(|(mark, _)| mark))?;
    shapes.is_of_rows(grid)?;
    let rotation = rotation(formula, mark.map(|(mark, _)| mark), grid, &logical)?;
    // What was rotated has a scale for each row.
    if let Some(unsaid) = unsaid.filter(|_| grid != Grid::Whole) {
        return Err(unsaid.into());
    }
    let coding = Coding { format, decoding: Decoding { codes, grid, rotation }, provenance };
    let tensors = recognised.slots.iter();
    let tensors = tensors.map(|(slot, info)| (slot.role, info.name.to_string(), info.shape.clone())).collect();
    Ok(CodedLayer { coding, logical, tensors })
}

/// A setting of the config that makes other weights of these codes and scales than the formula does.
fn stated(declared: &Foreign, formula: &Formula) -> Option<String> {
    let block = declared.block.as_ref().filter(|(sides, _)| match formula.grid {
        GridRule::Squares(side) | GridRule::ByShape { side, .. } => *sides != [side, side],
        _ => false,
    });
    let block = block.map(|(_, words)| format!("{words}, and scales of such blocks are not computed with"));
    declared.doubt.clone().or(block)
}

/// Rows of the fused tensor that this one is some rows of.
fn fused_rows(sought: &Sought<'_>, info: &TensorInfo) -> Option<u64> {
    match sought.table.get(&info.name)?.origin.as_ref()?.operation {
        Operation::Rows { of, .. } => Some(of),
        _ => None,
    }
}

/// A tensor that was cast to 8-bit floats, as whole models are.
pub(super) fn cast(info: &TensorInfo, fp8: &Fp8) -> Option<Result<CodedLayer, String>> {
    let codes = Codes::float8(info.dtype)?;
    if let Some(why) = fp8.lacks_its_scale() {
        return Some(Err(why));
    }
    let format =
        FORMATS.iter().find(|format| format.formula().is_some_and(|formula| formula.grid == GridRule::Unscaled))?;
    let decoding = Decoding { codes, grid: Grid::Unscaled, rotation: None };
    Some(Ok(CodedLayer {
        coding: Coding { format, decoding, provenance: Provenance::Tensors },
        logical: info.shape.clone(),
        tensors: vec![(SlotRole::Weight, info.name.to_string(), info.shape.clone())],
    }))
}

/// Who says that the layer is in this format. Fails when somebody says that it is in another one.
fn provenance(
    format: &'static Format,
    formula: &Formula,
    mark: Option<&(Mark, Provenance)>,
    declared: Option<&Foreign>,
    fp8: &Fp8,
) -> Result<Provenance, Refusal> {
    if let Some((mark, provenance)) = mark {
        let word = &mark.format;
        if !FORMATS.iter().any(|format| format.marks.contains(&word.as_str())) {
            return Err(format!("{provenance} says `{word}`, which is no known format").into());
        }
        if formula.grid == GridRule::Unscaled && marked_float(word).is_some() {
            return Err(format!("{provenance} says `{word}`, and its scale is missing").into());
        }
        if !format.marks.contains(&word.as_str()) {
            return Err(format!("{provenance} says `{word}`, and its tensors are those of {}", format.name).into());
        }
        if let Some(unknown) = mark.unknown.first() {
            return Err(format!("{provenance} has `{unknown}`, and nothing here knows what that means").into());
        }
        return Ok(*provenance);
    }
    if formula.grid == GridRule::Unscaled
        && let Some(why) = fp8.lacks_its_scale()
    {
        return Err(why.into());
    }
    match declared {
        Some(declared) if !format.methods.contains(&declared.method.as_str()) => {
            Err(format!("{declared}, and its tensors are those of {}", format.name).into())
        }
        Some(_) => Ok(Provenance::Config),
        None if fp8.marked.is_some() && formula.codes == CodeRule::ByDtype => Ok(Provenance::FileMark),
        None => Ok(Provenance::Tensors),
    }
}

fn codes(
    formula: &Formula,
    weight: &TensorInfo,
    mark: Option<&(Mark, Provenance)>,
    fp8: &Fp8,
) -> Result<Codes, Refusal> {
    let said = mark.and_then(|(mark, provenance)| Some((marked_float(&mark.format)?, provenance.to_string())));
    let codes = match formula.codes {
        CodeRule::Always(codes) => codes,
        CodeRule::ByMark => {
            let (codes, _) = said.as_ref().ok_or_else(|| "nothing says which 8-bit floats its bytes are".to_owned())?;
            *codes
        }
        CodeRule::ByDtype => Codes::float8(weight.dtype)
            .ok_or_else(|| format!("its weight is {}, expected F8_E4M3 or F8_E5M2", weight.dtype))?,
    };
    // The mark of a layer wins over that of the file.
    let said = said.or_else(|| Some((fp8.marked?, Provenance::FileMark.to_string())));
    match said {
        Some((said, who)) if formula.codes == CodeRule::ByDtype && said != codes => {
            Err(format!("{who} says {said}, and its weight is {codes}").into())
        }
        _ => Ok(codes),
    }
}

fn rotation(formula: &Formula, mark: Option<&Mark>, grid: Grid, logical: &[u64]) -> Result<Option<u64>, Refusal> {
    let said = mark.map_or(Rotation::Unsaid, |mark| mark.rotation);
    let columns = match (formula.rotation, said) {
        (RotationRule::Never | RotationRule::IfMarked, Rotation::Unsaid | Rotation::Off) => return Ok(None),
        (RotationRule::Never, Rotation::On(_)) => {
            return Err("its mark says that it was rotated, and layers of its format are not".to_owned().into());
        }
        (RotationRule::Always, Rotation::Off) => {
            return Err("its mark says that it was not rotated, and layers of its format are".to_owned().into());
        }
        (RotationRule::IfMarked | RotationRule::Always, Rotation::On(columns)) => columns,
        (RotationRule::Always, Rotation::Unsaid) => Mark::ROTATED_COLUMNS,
    };
    let is_power_of_4 = columns.is_power_of_two() && columns.trailing_zeros().is_multiple_of(2) && columns > 1;
    if !is_power_of_4 || columns > ROTATED_COLUMNS_MAX {
        return Err(format!("it was rotated in groups of {columns} columns, expected a power of 4").into());
    }
    let width = logical.last().copied().unwrap_or(0);
    if grid != Grid::Rows {
        return Err("it was rotated, and has no scale for each row".to_owned().into());
    }
    match width.is_multiple_of(columns) {
        true => Ok(Some(columns)),
        false => Err(format!("it was rotated in groups of {columns} columns, and has {width}").into()),
    }
}

/// The shape of the weight that stands in `packed`, one code after the other.
fn unpacked(packed: &[u64], codes: Codes) -> Vec<u64> {
    let mut logical = packed.to_vec();
    if let Some(columns) = logical.last_mut() {
        *columns = columns.saturating_mul(codes.per_byte());
    }
    logical
}

fn slot<'a>(recognised: &Recognised<'a>, role: SlotRole) -> Option<&'a TensorInfo> {
    recognised.slots.iter().find(|(slot, _)| slot.role == role).map(|(_, info)| *info)
}

/// The shapes of a layer's tensors.
struct Shapes<'a> {
    layer: &'a str,
    recognised: &'a Recognised<'a>,
    logical: &'a [u64],
    /// Rows that have scales: those of the fused weight where its scales were not dealt out.
    scale_rows: u64,
}

impl Shapes<'_> {
    fn wrong(&self, role: SlotRole, expected: &str) -> Refusal {
        let slot = self.recognised.slots.iter().find(|(slot, _)| slot.role == role);
        let (name, found) = slot.map_or_else(
            || (self.layer.to_owned(), "none".to_owned()),
            |(_, info)| (info.name.to_string(), format!("{} {:?}", info.dtype, info.shape)),
        );
        let why = format!("its `{name}` is {found}, expected {expected}");
        Refusal { why, problem: Some(LayerProblem { name, expected: expected.to_owned(), found }) }
    }

    /// Which codes share a scale. Fails when a tensor has another shape than that.
    fn grid(&self, formula: &Formula, mark: Option<&Mark>) -> Result<Grid, Refusal> {
        let Some((weight_slot, weight)) = self.recognised.slots.iter().find(|(slot, _)| slot.role == SlotRole::Weight)
        else {
            return Err(self.wrong(SlotRole::Weight, "codes"));
        };
        let is_whole = weight.shape == self.logical;
        if !weight_slot.shape.may_be(&weight.shape, self.logical) && !is_whole {
            return Err(self.wrong(SlotRole::Weight, &format!("codes of a weight of {:?}", self.logical)));
        }
        let scales = slot(self.recognised, SlotRole::Scales);
        let grid = match formula.grid {
            GridRule::Unscaled => return Ok(Grid::Unscaled),
            GridRule::RowsOrOne | GridRule::ByShape { .. }
                if scales.is_some_and(|scales| scales.shape.iter().product::<u64>() == 1) =>
            {
                return Ok(Grid::Whole);
            }
            GridRule::RowsOrOne => Grid::Rows,
            GridRule::ByShape { side, group } => return self.by_shape(side, group),
            GridRule::Squares(side) => Grid::Squares { side },
            GridRule::Transposed(columns) => {
                Grid::Transposed { columns: mark.and_then(|mark| mark.group_size).unwrap_or(columns) }
            }
            GridRule::Tiled(columns, scale) => Grid::Tiled { columns, scale },
        };
        let &[_, columns] = self.logical else {
            return Err(self.wrong(SlotRole::Weight, "a matrix, since it has several scales"));
        };
        let rows = self.scale_rows;
        let expected = match grid {
            Grid::Squares { side } => vec![rows.div_ceil(side), columns.div_ceil(side)],
            Grid::Transposed { columns: group } if group > 0 && columns.is_multiple_of(group) => {
                vec![columns / group, rows]
            }
            Grid::Transposed { columns: group } => {
                return Err(format!("its groups have {group} columns, and its rows {columns}").into());
            }
            Grid::Tiled { columns: group, .. } => {
                if let Some(said) = mark.and_then(|mark| mark.group_size).filter(|said| *said != group) {
                    return Err(format!("its mark has groups of {said} columns, expected {group}").into());
                }
                vec![rows.next_multiple_of(TILE_ROWS), columns.div_ceil(group).next_multiple_of(TILE_COLUMNS)]
            }
            Grid::Unscaled | Grid::Whole | Grid::Rows | Grid::Groups { .. } => vec![rows],
        };
        self.fits(SlotRole::Scales, &expected)?;
        if matches!(grid, Grid::Transposed { .. }) {
            self.fits(SlotRole::ZeroPoints, &expected)?;
        }
        Ok(grid)
    }

    /// Which codes share a scale, where the shape of the scales alone says it.
    fn by_shape(&self, side: u64, group: u64) -> Result<Grid, Refusal> {
        let (&[_, columns], Some(scales)) = (self.logical, slot(self.recognised, SlotRole::Scales)) else {
            return Err(self.wrong(SlotRole::Weight, "a matrix, since it has several scales"));
        };
        let rows = self.scale_rows;
        let mut grids =
            vec![(Grid::Rows, vec![rows]), (Grid::Squares { side }, vec![rows.div_ceil(side), columns.div_ceil(side)])];
        if scales.dtype == Dtype::F8_E8M0 {
            grids.push((Grid::Groups { columns: group }, vec![rows, columns.div_ceil(group)]));
        }
        let found = grids.iter().find(|(_, shape)| self.fits(SlotRole::Scales, shape).is_ok());
        found.map(|(grid, _)| *grid).ok_or_else(|| {
            let shapes: Vec<String> = grids.iter().map(|(_, shape)| format!("{shape:?}")).collect();
            self.wrong(SlotRole::Scales, &format!("one number, or {}", shapes.join(" or ")))
        })
    }

    /// Fails when scales that are read as those of the rows lie in one row, and there are as many columns as rows: programs
    /// that multiply arrays would take them for those of the columns.
    fn is_of_rows(&self, grid: Grid) -> Result<(), Refusal> {
        let (&[rows, columns], Some(scales)) = (self.logical, slot(self.recognised, SlotRole::Scales)) else {
            return Ok(());
        };
        match grid == Grid::Rows && rows == columns && rows > 1 && scales.shape == [1, columns] {
            // Nothing is damaged: they are lent.
            true => Err(format!("its `{}` of [1, {columns}] may be those of the columns", scales.name).into()),
            false => Ok(()),
        }
    }

    /// Fails when the slot has another shape, but for dimensions of 1.
    fn fits(&self, role: SlotRole, expected: &[u64]) -> Result<(), Refusal> {
        let squeezed = |shape: &[u64]| shape.iter().copied().filter(|side| *side != 1).collect::<Vec<_>>();
        let found = slot(self.recognised, role);
        match found.is_some_and(|found| squeezed(&found.shape) == squeezed(expected)) {
            true => Ok(()),
            false => Err(self.wrong(role, &format!("{expected:?}"))),
        }
    }
}

/// Whether a tensor of this dtype was cast to 8-bit floats.
pub(super) fn is_float8(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ)
}

impl Layers {
    /// The coded layer that a tensor belongs to, and what it is there.
    pub(super) fn coded_layer(&self, name: &str) -> Option<(&CodedLayer, SlotRole)> {
        let of = |key: &str| {
            let layer = self.coded.get(key)?;
            layer.tensors.iter().find(|(_, tensor, _)| tensor == name).map(|(role, ..)| (layer, *role))
        };
        // Tensors that were cast have layers of their own names.
        let ends = std::iter::successors(Some(name.len()), |&end| name[..end].rfind('.'));
        ends.filter_map(|end| of(&name[..end])).next()
    }
}
