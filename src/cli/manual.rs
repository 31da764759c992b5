//! `completions` and `man`: what shells and `man` want to know, from the definitions of the commands.
//!
//! Nothing is written by hand here, so that nothing can be out of date.

use std::fs;
use std::path::Path;

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::screen::{CliError, print};
use super::{Cli, ManArgs};

/// Shells with completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum KnownShell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn completions(shell: KnownShell) -> Result<(), CliError> {
    let script = script(shell);
    print(|out, _| out.write_all(&script))
}

pub(super) fn man(args: &ManArgs) -> Result<(), CliError> {
    let pages = pages().map_err(|error| CliError::failure(error.to_string()))?;
    let Some(folder) = &args.dir else {
        // The first is that of the program itself.
        return print(|out, _| pages.iter().take(1).try_for_each(|(_, page)| out.write_all(page)));
    };
    write(folder, &pages).map_err(|error| {
        CliError::failure(format!("{} cannot be written: {error}", folder.display()))
    })?;
    print(|out, _| writeln!(out, "{} pages are in {}", pages.len(), folder.display()))
}

fn script(shell: KnownShell) -> Vec<u8> {
    let shell = match shell {
        KnownShell::Bash => Shell::Bash,
        KnownShell::Zsh => Shell::Zsh,
        KnownShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "spanway", &mut script);
    script
}

/// File name and text of each page: the program's first, then one a command.
fn pages() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = Cli::command();
    program.build();
    let mut pages = Vec::new();
    let mut open = vec![program];
    while let Some(command) = open.pop() {
        let page = clap_mangen::Man::new(command.clone());
        let mut text = Vec::new();
        page.render(&mut text)?;
        pages.push((page.get_filename(), text));
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        open.extend(shown.cloned());
    }
    Ok(pages)
}

fn write(folder: &Path, pages: &[(String, Vec<u8>)]) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    pages.iter().try_for_each(|(name, page)| fs::write(folder.join(name), page))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::process::{Command as Process, Stdio};

    use clap::Command;

    use super::*;

    #[test]
    fn every_command_has_a_page_and_completions_in_every_shell() {
        let pages = pages().expect("rendered");
        let names: BTreeSet<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), pages.len(), "no page twice");
        let commands = Cli::command();
        for command in commands.get_subcommands().map(Command::get_name) {
            assert!(names.contains(format!("spanway-{command}.1").as_str()), "{command}");
            for shell in KnownShell::value_variants() {
                let script = String::from_utf8(script(*shell)).expect("text");
                assert!(script.contains(command), "{shell:?}: {command}");
            }
        }
        assert!(names.contains("spanway.1") && names.contains("spanway-config-check.1"));
    }

    #[test]
    fn bash_takes_the_completions() {
        let mut bash = Process::new("bash");
        let mut bash = bash.arg("-n").stdin(Stdio::piped()).spawn().expect("bash starts");
        let mut input = bash.stdin.take().expect("piped");
        input.write_all(&script(KnownShell::Bash)).expect("written");
        drop(input);
        assert!(bash.wait().expect("our child").success());
    }

    #[test]
    fn man_has_nothing_to_complain_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let pages = pages().expect("rendered");
        write(folder.path(), &pages).expect("written");
        for (name, _) in &pages {
            let mut man = Process::new("man");
            man.args(["--warnings", "-l"]).arg(folder.path().join(name)).env("LC_ALL", "C.UTF-8");
            let Ok(shown) = man.env("MANWIDTH", "80").output() else {
                // A host without `man` cannot judge; those where the checks run have it.
                return;
            };
            let complaints = String::from_utf8_lossy(&shown.stderr);
            assert!(shown.status.success() && complaints.is_empty(), "{name}: {complaints}");
            assert!(shown.stdout.len() > 200, "{name} is empty");
        }
    }
}
