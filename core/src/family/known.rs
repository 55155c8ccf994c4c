//! Models that a family knows by name.

use std::fmt;

use serde_json::{Map, Value};

/// Values with which a model is usually run, under names that the family chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset(pub &'static [(&'static str, Usual)]);

/// One value of a preset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Usual {
    /// A number of something: steps, pixels, tokens.
    Count(u64),
    /// A factor, such as a scale of guidance or a temperature.
    Factor(f64),
    /// A choice by name, such as a sampler.
    Choice(&'static str),
    /// Whether something is done.
    Flag(bool),
}

impl Preset {
    /// The value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Usual> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
    }

    /// The values as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let value = |value: Usual| match value {
            Usual::Count(count) => count.into(),
            Usual::Factor(factor) => factor.into(),
            Usual::Choice(choice) => choice.into(),
            Usual::Flag(flag) => flag.into(),
        };
        self.0.iter().map(|(name, usual)| ((*name).to_owned(), value(*usual))).collect()
    }
}

/// A model that is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KnownModel {
    /// Its name, such as `z-image-turbo`.
    pub name: &'static str,
    /// Its ids on the hub, the first one its own.
    pub ids: &'static [&'static str],
    /// How it is usually run.
    pub preset: Preset,
}

/// By what a model is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownBy {
    /// Its id on the hub.
    Id,
    /// A value in one of its configs: which one, in words.
    Config(&'static str),
    /// Words in its name.
    Name,
    /// Nothing: this one is the family's most frequent.
    Assumed,
}

impl fmt::Display for KnownBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Id => "its id",
            Self::Config(value) => value,
            Self::Name => "its name",
            Self::Assumed => "assumption: nothing tells",
        })
    }
}

/// A model, and how it was recognised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Named {
    /// The model.
    pub model: &'static KnownModel,
    /// By what.
    pub by: KnownBy,
}
