//! `spanway demo`
use super::screen::CliError;
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {}
pub(super) fn demo(_args: &DemoArgs) -> Result<(), CliError> { Ok(()) }
