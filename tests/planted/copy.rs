//! Where mistakes are planted: one copy of the tree, brought back to what it was before each.
//!
//! A file of the copy is written only if it differs, so that cargo builds only what differs again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// Seeds within which a mistake must show.
const SEEDS: &str = "100000";
/// The packages and the one test that a simulation needs, in place of `tests/Cargo.toml`.
const MANIFEST: &str = "tests/planted/simulation.toml";
/// Lines of a build that failed which are shown.
const SHOWN_MAX: usize = 40;

pub(crate) struct TreeCopy {
    root: PathBuf,
    target: PathBuf,
    tree: PathBuf,
}

/// Whether the simulation found it.
pub(crate) enum Found {
    /// Seed, rule, step and detail, as the simulation prints them.
    Yes(String),
    No,
}

impl TreeCopy {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests lie in the tree")?.to_owned();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |path| root.join(path));
        let tree = target.join("planted");
        fs::create_dir_all(&tree)?;
        Ok(Self { root, target, tree })
    }

    pub(crate) fn plant(&self, patch: &super::Patch) -> anyhow::Result<Found> {
        self.level().context("the tree can't be copied")?;
        let applied = Command::new("git")
            // Else git takes the copy for a part of the repository around it, which ignores it.
            .env("GIT_CEILING_DIRECTORIES", &self.target)
            .args(["apply", "--whitespace=nowarn"])
            .arg(&patch.path)
            .current_dir(&self.tree)
            .output()
            .context("git")?;
        ensure!(
            applied.status.success(),
            "{} does not apply any more; make it anew:\n{}",
            patch.path.display(),
            String::from_utf8_lossy(&applied.stderr)
        );
        let built = self.cargo(&["--no-run"]).output().context("cargo")?;
        if !built.status.success() {
            let told = String::from_utf8_lossy(&built.stderr);
            let lines: Vec<_> = told.lines().filter(|line| !line.trim_start().starts_with("Compiling")).collect();
            bail!("{} does not build any more:\n{}", patch.name, lines[..lines.len().min(SHOWN_MAX)].join("\n"));
        }
        let run = self
            .cargo(&["--", "whatever_goes_wrong", "--nocapture"])
            .env("SEEDS", SEEDS)
            // The first failure is enough, without its trace.
            .env("BRIEF", "1")
            .env_remove("SEED")
            .env_remove("FIRST")
            .output()
            .context("cargo")?;
        let told = String::from_utf8_lossy(&run.stdout);
        let found = told.lines().find(|line| line.starts_with("seed ") && line.contains(" breaks "));
        match (run.status.success(), found) {
            (true, None) => Ok(Found::No),
            (false, Some(found)) => Ok(Found::Yes(found.to_owned())),
            (_, _) => bail!(
                "{}: the simulation came to no end:\n{told}\n{}",
                patch.name,
                String::from_utf8_lossy(&run.stderr)
            ),
        }
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["test", "--offline", "-p", "slotline-tests", "--test", "simulation"])
            .args(arguments)
            .env("CARGO_TARGET_DIR", &self.target)
            .current_dir(&self.tree)
            .stdin(Stdio::null());
        cargo
    }

    /// Makes the copy what the tree is, as far as git knows of it.
    fn level(&self) -> anyhow::Result<()> {
        let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(&self.root).output().context("git")?;
        ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8(listed.stdout).context("a file name")?;
        let mut known = BTreeSet::new();
        for path in listed.split('\0').filter(|path| !path.is_empty()).map(Path::new) {
            let source = match path {
                path if path == Path::new("tests/Cargo.toml") => self.root.join(MANIFEST),
                path => self.root.join(path),
            };
            // Deleted, and not committed yet.
            let Ok(mut content) = fs::read(&source) else { continue };
            if path == Path::new("Cargo.toml") {
                content = renamed(&String::from_utf8(content)?)?.into_bytes();
            }
            let copy = self.tree.join(path);
            known.insert(copy.clone());
            if fs::read(&copy).ok().as_ref() != Some(&content) {
                fs::create_dir_all(copy.parent().context("a file lies somewhere")?)?;
                fs::write(&copy, content)?;
            }
        }
        remove_others(&self.tree, &known)
    }
}

/// Gives the packages of the copy a version of their own. Cargo knows packages by name, version and path below the root: without
/// it, cargo would take a build of the copy, with its mistake, for a build of the tree.
fn renamed(manifest: &str) -> anyhow::Result<String> {
    let (before, version) = manifest.split_once("[workspace.package]\nversion = \"").context("the version")?;
    let (version, after) = version.split_once('"').context("the version")?;
    Ok(format!("{before}[workspace.package]\nversion = \"{version}-planted\"{after}"))
}

/// Removes what is below `directory` and not known: files that are gone from the tree, or came with a patch.
fn remove_others(directory: &Path, known: &BTreeSet<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, known)?;
        } else if !known.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
