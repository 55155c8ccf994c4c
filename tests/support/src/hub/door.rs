//! By which address a connection came in.

/// Requests on each of a hub's addresses get other answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Hub,
    Cdn,
    Stranger,
}
