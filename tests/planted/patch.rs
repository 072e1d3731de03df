//! One mistake: a patch, its name, and what it does in words.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

pub(crate) struct Patch {
    pub(crate) name: String,
    /// What is wrong with it: the lines before the patch itself.
    pub(crate) about: String,
    pub(crate) path: PathBuf,
}

impl Patch {
    /// All there are, by name.
    pub(crate) fn all() -> anyhow::Result<Vec<Self>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("planted");
        let mut patches = Vec::new();
        for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "patch") {
                patches.push(Self::read(path)?);
            }
        }
        ensure!(!patches.is_empty(), "there is no patch in {}", directory.display());
        patches.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(patches)
    }

    fn read(path: PathBuf) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let about: Vec<_> = text.lines().take_while(|line| !line.starts_with("--- ")).map(str::trim).collect();
        let about = about.join(" ").trim().to_owned();
        ensure!(!about.is_empty(), "{} does not say what it does before its first ---", path.display());
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, about, path })
    }
}
