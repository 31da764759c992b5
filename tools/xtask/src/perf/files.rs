//! Where a record goes.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::failure::{Failure, Outcome};

/// `name.json` with all that was measured, and `name.md` for people, in `folder`.
pub(crate) fn write(record: &impl Serialize, text: &str, folder: &Path, name: &str) -> Outcome<()> {
    fs::create_dir_all(folder).map_err(Failure::of(folder.display()))?;
    let json = serde_json::to_string(record).map_err(Failure::of("the record"))?;
    for (extension, text) in [("json", &*json), ("md", text)] {
        let file = folder.join(name).with_extension(extension);
        fs::write(&file, text).map_err(Failure::of(file.display()))?;
    }
    Ok(())
}
