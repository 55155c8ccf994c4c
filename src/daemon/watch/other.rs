//! Where the folder is looked at now and then: kqueue tells of changes too, through calls that are not safe, and a look is a
//! call of a microsecond.

use std::path::Path;

/// Changes in one folder, which nobody tells.
#[derive(Debug)]
pub(super) struct Changes;

impl Changes {
    pub(super) fn new() -> Self {
        Self
    }

    /// Has changes in the folder told from now on. Whether they are.
    pub(super) fn begin(&self, _folder: &Path) -> bool {
        false
    }

    /// Waits for a change since the last one.
    pub(super) async fn wait(&self) {}
}
