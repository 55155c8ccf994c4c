//! A checkpoint as a plain directory.

use std::{ffi::OsString, fs, path::Path};

use crate::{Contents, FixtureError, Written, plan::FilePlan, stream};

/// Writes every file beside its place and moves it there: a program that has the old file mapped keeps it whole.
pub(crate) fn write(plans: &[FilePlan], contents: Contents, root: &Path) -> Result<Written, FixtureError> {
    for plan in plans {
        let path = root.join(&plan.path);
        let folder = path.parent().unwrap_or(root);
        fs::create_dir_all(folder).map_err(FixtureError::io("create", folder))?;
        let mut partial: OsString = path.clone().into();
        partial.push(".partial");
        stream::write(plan, contents, partial.as_ref(), |_| ()).map_err(FixtureError::io("write", partial.as_ref()))?;
        fs::rename(&partial, &path).map_err(FixtureError::io("write", &path))?;
    }
    Ok(Written::new(root, plans))
}
