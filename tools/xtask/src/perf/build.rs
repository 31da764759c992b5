//! Release builds of what is measured: of this work tree, or of other revisions in work trees of their
//! own below `target/perf-ab`, which are removed when their program is built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::candidates::Programs;
use super::failure::{Failure, Outcome};
use super::net::{output, run};
use super::plan::Kind;

/// The repository.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_owned()
}

pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// How programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Release,
    /// Of tests, which have built most of it already.
    #[cfg(test)]
    Dev,
}

/// Programs to use as they are, in place of those built here.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Given {
    /// The daemon, in place of the one that is built here.
    #[arg(long, value_name = "PROGRAM")]
    spanway: Option<PathBuf>,
    /// Generator and sink, in place of the one that is built here.
    #[arg(long, value_name = "PROGRAM")]
    pktgen: Option<PathBuf>,
}

/// Builds what these candidates need of this work tree and is not given.
pub(crate) fn programs(kinds: &[Kind], given: &Given, profile: Profile) -> Outcome<Programs> {
    let mut packages = vec!["--package", "spanway-yardstick"];
    let ours = kinds.iter().any(|kind| kind.backend().is_some());
    if ours && given.spanway.is_none() {
        packages.extend(["--package", "spanway"]);
    }
    if given.pktgen.is_none() {
        packages.extend(["--package", "spanway-pktgen"]);
    }
    cargo(&root(), &target(), profile, &packages)?;
    let folder = target().join(if profile == Profile::Release { "release" } else { "debug" });
    let built = |given: &Option<PathBuf>, name| given.clone().unwrap_or_else(|| folder.join(name));
    Ok(Programs {
        spanway: built(&given.spanway, "spanway"),
        yardstick: folder.join("spanway-yardstick"),
        pktgen: built(&given.pktgen, "spanway-pktgen"),
    })
}

/// The daemon and pktgen; nothing is built if both are given.
pub(crate) fn daemon_and_pktgen(given: &Given) -> Outcome<[PathBuf; 2]> {
    let wanted = [("spanway", &given.spanway), ("spanway-pktgen", &given.pktgen)];
    let missing = wanted.iter().filter(|(_, given)| given.is_none());
    let packages: Vec<&str> = missing.flat_map(|(name, _)| ["--package", name]).collect();
    if !packages.is_empty() {
        cargo(&root(), &target(), Profile::Release, &packages)?;
    }
    let built = |name| target().join("release").join(name);
    Ok(wanted.map(|(name, given)| given.clone().unwrap_or_else(|| built(name))))
}

/// The daemon of a revision: its commit, and the program. Built once for each commit.
pub(crate) fn revision(name: &str) -> Outcome<(String, PathBuf)> {
    let root = root().display().to_string();
    let commit = format!("{name}^{{commit}}");
    let commit = output(&["git", "-C", &root, "rev-parse", "--short=12", "--verify", &commit])
        .map_err(|_| Failure::new(format!("{name:?} is no revision of this repository")))?;
    let commit = commit.trim().to_owned();
    let folder = target().join("perf-ab");
    let program = folder.join(format!("spanway-{commit}"));
    if program.exists() {
        return Ok((commit, program));
    }
    fs::create_dir_all(&folder).map_err(Failure::of(folder.display()))?;
    let tree = WorkTree::new(folder.join(format!("tree-{commit}")), &commit)?;
    // One folder for both: what they have in common is built once.
    let target = folder.join("target");
    cargo(&tree.0, &target, Profile::Release, &["--package", "spanway"])?;
    let built = target.join("release/spanway");
    fs::copy(&built, &program).map_err(Failure::of(built.display()))?;
    Ok((commit, program))
}

/// A checkout beside this one, removed when dropped.
struct WorkTree(PathBuf);

impl WorkTree {
    fn new(path: PathBuf, commit: &str) -> Outcome<Self> {
        // The argument of `git worktree` has to be text, and paths below target are.
        let tree = Self(path);
        run(&["git", "-C", &text(&root()), "worktree", "add", "--detach", &text(&tree.0), commit])?;
        Ok(tree)
    }
}

impl Drop for WorkTree {
    fn drop(&mut self) {
        let (root, tree) = (text(&root()), text(&self.0));
        let _ = run(&["git", "-C", &root, "worktree", "remove", "--force", &tree]);
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn cargo(folder: &Path, target: &Path, profile: Profile, packages: &[&str]) -> Outcome<()> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet"]).args(packages);
    if profile == Profile::Release {
        command.arg("--release");
    }
    command.current_dir(folder).env("CARGO_TARGET_DIR", target);
    let status = command.status().map_err(Failure::of("cargo build"))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{command:?} failed")))
}
