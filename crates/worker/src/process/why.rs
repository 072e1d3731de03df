//! Why a command can't be started, with what to change: the system reports "No such file" for a file that is there.
//!
//! Looks at files: not for the loop's thread.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The most of a script's first line that the system reads.
const FIRST_LINE_BYTES: u64 = 256;
/// Any of the bits that let a file be executed.
const EXECUTABLE: u32 = 0o111;

/// What is wrong with a command as it stands on the disk; `None` where no flaw is found.
pub(crate) fn flaw(program: &str, cwd: Option<&Path>) -> Option<String> {
    if let Some(cwd) = cwd
        && !cwd.is_dir()
    {
        return Some(format!("its folder {} is not there (`cwd`)", cwd.display()));
    }
    if !program.contains('/') {
        return not_in_path(program);
    }
    let path = cwd.map_or_else(|| Path::new(program).to_owned(), |cwd| cwd.join(program));
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(words_in_one(program).unwrap_or_else(|| "there is no such file".to_owned()))
        }
        Err(error) => Some(error.to_string()),
        Ok(file) if file.is_dir() => Some("it is a folder".to_owned()),
        Ok(file) if file.permissions().mode() & EXECUTABLE == 0 => {
            Some(format!("it is not executable: chmod +x {}", path.display()))
        }
        Ok(_) => bad_first_line(&path),
    }
}

/// Searched as the system does, in this process's own path, which commands get.
fn not_in_path(program: &str) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    if std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        return None;
    }
    Some(words_in_one(program).unwrap_or_else(|| "no program of this name is in PATH".to_owned()))
}

/// A whole command line in place of a program.
fn words_in_one(program: &str) -> Option<String> {
    let words: Vec<String> = program.split_whitespace().map(|word| format!("{word:?}")).collect();
    (words.len() > 1).then(|| {
        format!("no program has this name; a command is a list of a program and its arguments: [{}]", words.join(", "))
    })
}

/// Why the system can't start a script's interpreter.
fn bad_first_line(path: &Path) -> Option<String> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(FIRST_LINE_BYTES).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line.ends_with(b"\r") {
        return Some(format!(
            "its lines end with CRLF, and its first names a program whose name ends so: sed -i 's/\\r$//' {}",
            path.display()
        ));
    }
    let line = String::from_utf8_lossy(line);
    let interpreter = line.split_whitespace().next()?;
    let is_missing = interpreter.starts_with('/') && !Path::new(interpreter).exists();
    is_missing.then(|| format!("its first line names {interpreter}, which is not there: install it, or name another"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn script(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        path
    }

    #[test]
    fn each_reason_that_a_file_can_give_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let cases = [
            (script(folder.path(), "plain", "#!/bin/sh\n", 0o644), "it is not executable: chmod +x "),
            (script(folder.path(), "crlf", "#!/bin/sh\r\nexit\r\n", 0o755), "its lines end with CRLF"),
            (script(folder.path(), "env", "#!/usr/bin/env sh\r\n", 0o755), "its lines end with CRLF"),
            (script(folder.path(), "bang", "#!/nowhere/sh -e\n", 0o755), "its first line names /nowhere/sh, which is"),
            (folder.path().to_owned(), "it is a folder"),
            (folder.path().join("none"), "there is no such file"),
            (folder.path().join("run all"), "no program has this name; a command is a list"),
        ];
        for (path, expected) in cases {
            let found = flaw(&path.display().to_string(), None).unwrap_or_default();
            assert!(found.starts_with(expected), "{}: {found}", path.display());
        }
        let sound = script(folder.path(), "sound", "#!/bin/sh\n", 0o755);
        assert_eq!(flaw(&sound.display().to_string(), Some(folder.path())), None);
        assert_eq!(flaw("./sound", Some(folder.path())), None);
    }

    #[test]
    fn a_command_line_in_one_word_is_shown_as_the_list_that_was_meant() {
        let found = flaw("echo hello", None).unwrap_or_default();
        assert!(found.ends_with(r#"a list of a program and its arguments: ["echo", "hello"]"#), "{found}");
        assert_eq!(flaw("no-such-program", None).as_deref(), Some("no program of this name is in PATH"));
        assert_eq!(flaw("sh", None), None);
        let found = flaw("sh", Some(Path::new("/nowhere"))).unwrap_or_default();
        assert_eq!(found, "its folder /nowhere is not there (`cwd`)");
    }
}
