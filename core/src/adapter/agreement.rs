//! Compares the statements about the strength of a change.

use super::{
    AdapterError,
    strength::{Strength, StrengthSource},
};
use crate::shown::shown;

/// One who says how strong a change is.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) source: StrengthSource,
    /// A key, or where a config stands.
    pub(super) place: String,
    pub(super) strength: Strength,
}

/// Half a step of BF16: statements that differ by less are one number, rounded.
pub(super) const ROUNDING: f64 = 1.0 / 256.0;

/// The strength of a change of `layer`. The programs that read adapters disagree on which of two statements counts:
/// diffusers multiplies them, ComfyUI and mflux take the tensor. Where they say the same number nobody has to choose.
pub(super) fn agreed(layer: &str, statements: &[Statement]) -> Result<(StrengthSource, Strength), AdapterError> {
    let Some(first) = statements.first() else { return Ok((StrengthSource::Nothing, Strength::ONE)) };
    let value = first.strength.value();
    let differs = |other: &&Statement| {
        let other = other.strength.value();
        (value - other).abs() > ROUNDING * value.abs().max(other.abs())
    };
    match statements.iter().find(differs) {
        None => Ok((first.source, first.strength)),
        Some(other) => {
            let says = |statement: &Statement| format!("{} says {}", statement.place, statement.strength.value());
            Err(AdapterError::Strengths { layer: shown(layer), first: says(first), second: says(other) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_agree_are_one_and_others_refuse() {
        let says = |source, alpha, divisor| Statement {
            source,
            place: format!("{source}"),
            strength: Strength { alpha, divisor },
        };
        let tensor = says(StrengthSource::AlphaTensor, 1.703125, 4.0);
        let same = says(StrengthSource::Config, 1.7, 4.0);
        let other = says(StrengthSource::Metadata, 1.7, 2.0);
        assert_eq!(agreed("a", &[]).unwrap(), (StrengthSource::Nothing, Strength::ONE));
        assert_eq!(agreed("a", &[tensor.clone(), same.clone()]).unwrap().0, StrengthSource::AlphaTensor);
        let said = agreed("a", &[tensor, same, other]).unwrap_err().to_string();
        assert!(said.contains("alpha tensors says 0.42") && said.contains("metadata says 0.85"), "{said}");
    }
}
