//! What a process leaves to the next one of its name: the outcomes that were not recorded when it had to end.
//!
//! One file beside the lock, written whole and renamed into place; only the holder of the lock reads and writes it.
//! Nothing here is for the loop's thread.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use slotline_protocol::message::Ended;
use slotline_protocol::{WorkerName, chain};

/// The most that is kept, in bytes: a few thousand outcomes of the usual size, and sixty of the largest.
const BYTES_MAX: usize = 64 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Legacy {
    path: PathBuf,
}

/// How many outcomes were written, and how many did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) kept: usize,
    pub(crate) left_out: usize,
}

impl Legacy {
    pub(crate) fn of(state_dir: &Path, worker: &WorkerName) -> Self {
        Self { path: state_dir.join(format!("{worker}.unrecorded")) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the process before has left; a line that can't be read is logged and left out.
    pub(crate) fn read(&self) -> io::Result<Vec<Ended>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut text = Vec::new();
        // Twice the bound, since what was written within it is a little longer as text.
        File::from(file).take(2 * BYTES_MAX as u64).read_to_end(&mut text)?;
        let mut words = Vec::new();
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(word) => words.push(word),
                Err(error) => tracing::error!(
                    path = %self.path.display(), error = %chain(&error),
                    "outcomes that an earlier process kept can't be read: their executions run again"
                ),
            }
        }
        Ok(words)
    }

    /// Replaces what was kept before; without outcomes the file is removed. On the disk when this returns.
    pub(crate) fn write(&self, words: Vec<Ended>) -> io::Result<Written> {
        let new = self.path.with_extension("unrecorded.new");
        for stale in words.is_empty().then_some(&self.path).into_iter().chain([&new]) {
            match std::fs::remove_file(stale) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        let mut written = Written { kept: 0, left_out: 0 };
        if !words.is_empty() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::open(&new, flags, Mode::RUSR | Mode::WUSR)?);
            let mut writer = BufWriter::new(file);
            let mut room = BYTES_MAX;
            for mut word in words {
                let all = word.outcomes.len();
                word.outcomes.retain(|outcome| {
                    let bytes = serde_json::to_vec(outcome).map_or(usize::MAX, |text| text.len());
                    let fits = bytes <= room;
                    room -= if fits { bytes } else { 0 };
                    fits
                });
                written.kept += word.outcomes.len();
                written.left_out += all - word.outcomes.len();
                serde_json::to_writer(&mut writer, &word)?;
                writer.write_all(b"\n")?;
            }
            writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            std::fs::rename(&new, &self.path)?;
        }
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;
    use slotline_protocol::message::{Completed, EndReason};

    use super::*;

    fn legacy() -> (tempfile::TempDir, Legacy) {
        let folder = tempfile::tempdir().expect("a folder");
        let legacy = Legacy::of(folder.path(), &WorkerName::new("w1").expect("a name"));
        (folder, legacy)
    }

    fn word(results: &[&str]) -> Ended {
        let incarnation = uuid::Uuid::from_u128(7);
        let outcome = |(id, result): (usize, &&str)| -> Completed {
            serde_json::from_value(json!({
                "execution_id": id, "action_id": 1, "action_ref": "demo.echo", "attempt": 1, "fence": id, "worker": "w1",
                "incarnation": incarnation, "last_sequence": 3, "status": "completed", "result": result,
                "completed_at": "2026-11-21T08:30:00.000000Z",
            }))
            .expect("a completion")
        };
        Ended {
            worker: WorkerName::new("w1").expect("a name"),
            incarnation: slotline_protocol::Incarnation(incarnation),
            reason: EndReason::Drain,
            outcomes: results.iter().enumerate().map(outcome).collect(),
            returned: Vec::new(),
            told_by: None,
            has_more: false,
        }
    }

    #[test]
    fn what_is_kept_is_read_back_by_this_user_alone_and_is_gone_once_there_is_nothing() {
        let (folder, legacy) = legacy();
        assert!(legacy.read().expect("nothing").is_empty());
        let written = legacy.write(vec![word(&["a", "b"]), word(&["c"])]).expect("writable");
        assert_eq!(written, Written { kept: 3, left_out: 0 });
        let mode = std::fs::metadata(legacy.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let words = legacy.read().expect("readable");
        let results: Vec<_> = words
            .iter()
            .flat_map(|word| &word.outcomes)
            .filter_map(|outcome| outcome.result.as_ref().map(|json| json.get().to_owned()))
            .collect();
        assert_eq!(results, ["\"a\"", "\"b\"", "\"c\""]);
        legacy.write(Vec::new()).expect("removable");
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn what_is_past_the_bound_is_left_out_and_counted() {
        let (_folder, legacy) = legacy();
        let large = "x".repeat(BYTES_MAX / 4);
        let written = legacy.write(vec![word(&[&large, &large, &large, &large, "small"])]).expect("writable");
        assert_eq!(written, Written { kept: 4, left_out: 1 });
        assert_eq!(legacy.read().expect("readable")[0].outcomes.len(), 4);
    }

    #[test]
    fn a_file_that_is_no_file_or_holds_nonsense_is_named_and_stops_nothing() {
        let (_folder, legacy) = legacy();
        std::fs::write(legacy.path(), "{nonsense\n").expect("writable");
        assert!(legacy.read().expect("readable").is_empty());
        std::fs::remove_file(legacy.path()).expect("there");
        nix::unistd::mkfifo(legacy.path(), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        assert!(legacy.read().expect_err("no file").to_string().contains("no regular file"));
        std::fs::remove_file(legacy.path()).expect("there");
        std::os::unix::fs::symlink("/dev/zero", legacy.path()).expect("a link");
        legacy.read().expect_err("a link");
        legacy.write(vec![word(&["a"])]).expect("it takes the place of the link");
        assert_eq!(legacy.read().expect("readable").len(), 1);
    }
}
