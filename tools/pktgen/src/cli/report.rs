//! `report`: arguments, and where the two files are.

use std::path::PathBuf;

use clap::Args;

use super::output::say;
use super::{End, Failure};
use crate::report::{load, write};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// What the other commands printed with --json: files, or folders with .json files
    #[arg(required = true, value_name = "FILE|FOLDER")]
    inputs: Vec<PathBuf>,
    /// The page; its numbers go beside it with the ending .report.json
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

pub(super) fn run(arguments: &ReportArgs) -> Result<End, Failure> {
    let (documents, inputs) = load(&arguments.inputs)?;
    let count = documents.len();
    let json = write(documents, &inputs, &arguments.out)?;
    say(&format!("{count} documents: {} and {}", arguments.out.display(), json.display()));
    Ok(End::Done)
}
