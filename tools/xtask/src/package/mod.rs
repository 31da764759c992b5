//! `cargo xtask package`: a Debian package of this checkout in `target/package/`. Manual pages and completions
//! are what the built program prints.
//!
//! Wants `cargo-deb` and `dpkg-deb`. Installs nothing and uploads nothing. What stands where, and why there is
//! no static program: `tools/package/README.md`.

#![allow(clippy::print_stdout, reason = "its output is for the developer at the terminal")]

mod check;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Unpack the package and let two daemons from there carry a stream.
    #[arg(long)]
    check: bool,
    /// Take the program that was built before, `target/release/spanway`.
    #[arg(long)]
    no_build: bool,
}

const FOLDER: &str = "target/package";

/// What is wrong, in a sentence.
type Made<T> = Result<T, String>;

pub(crate) fn run(arguments: &Arguments) -> bool {
    let checked = debian(arguments.no_build).and_then(|file| {
        let bytes = fs::metadata(&file).map_err(|error| wrong(&file, &error))?.len();
        println!("{}: {:.1} MB", file.display(), bytes as f64 / 1e6);
        if arguments.check { check::check(&file) } else { Ok(()) }
    });
    checked.inspect_err(|why| println!("no package: {why}")).is_ok()
}

fn debian(built: bool) -> Made<PathBuf> {
    if !built {
        cargo(&["build", "--locked", "--release"])?;
    }
    stage(Path::new("target/release/spanway"))?;
    let file = format!("{FOLDER}/spanway.deb");
    cargo(&["deb", "--quiet", "--strip", "--locked", "--no-build", "--output", &file])?;
    Ok(PathBuf::from(file))
}

/// Everything but the program and its units, where the package puts it.
fn stage(program: &Path) -> Made<()> {
    let stage = PathBuf::from(FOLDER).join("stage");
    match fs::remove_dir_all(&stage) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(wrong(&stage, &error));
        }
        Ok(()) | Err(_) => {}
    }
    for (from, to) in [
        ("tools/package/60-spanway.conf", "usr/lib/sysctl.d/60-spanway.conf"),
        ("tools/package/spanway.toml", "usr/share/spanway/spanway.toml"),
        ("tools/package/seccomp.json", "usr/share/spanway/seccomp.json"),
        ("LICENSE-MIT", "usr/share/doc/spanway/LICENSE-MIT"),
        ("LICENSE-APACHE", "usr/share/doc/spanway/LICENSE-APACHE"),
        ("README.md", "usr/share/doc/spanway/README.md"),
        ("CHANGELOG.md", "usr/share/doc/spanway/CHANGELOG.md"),
        ("SECURITY.md", "usr/share/doc/spanway/SECURITY.md"),
    ] {
        put(Path::new(from), &stage.join(to))?;
    }
    put_folder(Path::new("docs"), &stage.join("usr/share/doc/spanway/docs"))?;
    let manual = stage.join("usr/share/man/man1");
    make_folder(&manual)?;
    generated(program, &[Path::new("man"), &manual], None)?;
    for page in files_in(&manual)? {
        ran(Command::new("gzip").args(["-9", "-n"]).arg(page))?;
    }
    for (shell, file) in [
        ("bash", "usr/share/bash-completion/completions/spanway"),
        ("zsh", "usr/share/zsh/vendor-completions/_spanway"),
        ("fish", "usr/share/fish/vendor_completions.d/spanway.fish"),
    ] {
        let words = [Path::new("completions"), Path::new(shell)];
        generated(program, &words, Some(&stage.join(file)))?;
    }
    Ok(())
}

/// What the program prints of itself. A program that does not know the command makes a package without
/// it, and that is said.
fn generated(program: &Path, arguments: &[&Path], into: Option<&Path>) -> Made<()> {
    const USAGE: i32 = 2;
    let out = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let out = out.map_err(|error| wrong(program, &error))?;
    match (out.status.code(), into) {
        (Some(0), None) => Ok(()),
        (Some(0), Some(file)) => {
            make_folder_of(file)?;
            fs::write(file, out.stdout).map_err(|error| wrong(file, &error))
        }
        (Some(USAGE), _) => {
            let what = arguments.first().map(|first| first.display().to_string());
            println!("WITHOUT {}: this spanway has no such command", what.unwrap_or_default());
            Ok(())
        }
        (code, _) => Err(format!(
            "{arguments:?} ended with {code:?}: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        )),
    }
}

fn put(from: &Path, to: &Path) -> Made<()> {
    make_folder_of(to)?;
    fs::copy(from, to).map_err(|error| wrong(from, &error))?;
    Ok(())
}

fn put_folder(from: &Path, to: &Path) -> Made<()> {
    make_folder(to)?;
    for entry in files_in(from)? {
        let name = entry.file_name().unwrap_or_default();
        match entry.is_dir() {
            true => put_folder(&entry, &to.join(name))?,
            false => put(&entry, &to.join(name))?,
        }
    }
    Ok(())
}

fn files_in(folder: &Path) -> Made<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| wrong(folder, &error))?;
    entries.map(|entry| Ok(entry.map_err(|error| wrong(folder, &error))?.path())).collect()
}

fn make_folder_of(file: &Path) -> Made<()> {
    file.parent().map_or(Ok(()), make_folder)
}

fn make_folder(folder: &Path) -> Made<()> {
    fs::create_dir_all(folder).map_err(|error| wrong(folder, &error))
}

fn cargo(arguments: &[&str]) -> Made<()> {
    let mut command = Command::new(env!("CARGO"));
    // This tool's own, from the cargo that runs it: some build scripts take them for a reason to run again,
    // and everything behind them would be built anew.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    ran(command.args(arguments))
}

fn ran(command: &mut Command) -> Made<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{program} does not start: {error}")),
    }
}

fn wrong(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
