//! Models that a family knows by name.

use std::fmt;

/// Values with which a model is usually run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// Width of the image, in pixels.
    pub width: u32,
    /// Height of the image, in pixels.
    pub height: u32,
    /// Steps.
    pub steps: u32,
    /// Scale of the guidance; 0 is none.
    pub guidance: f64,
    /// Most tokens of a prompt.
    pub max_sequence_length: u32,
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
    /// `model_type` in `model_index.json`.
    ModelType,
    /// `shift` in the scheduler's config.
    SchedulerShift,
    /// Words in its name.
    Name,
    /// Nothing: this one is the family's most frequent.
    Assumed,
}

impl fmt::Display for KnownBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Id => "its id",
            Self::ModelType => "`model_type` in model_index.json",
            Self::SchedulerShift => "`shift` in the scheduler's config",
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
