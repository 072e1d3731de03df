//! How many instructions the paths of the scheduler take: a figure that noise can't move, and so a gate.
//!
//!     cargo bench -p slotline-scheduler --bench instructions               # holds them against instructions.toml
//!     cargo bench -p slotline-scheduler --bench instructions -- --record   # writes that anew
//!
//! Runs itself under valgrind, once for each path, and collects in `counted` alone. The profiles stay below the target
//! directory, for `callgrind_annotate`. The figures hold for the compiler that they were recorded with, and include what
//! the C library does to allocate and to copy; a processor with other extensions moves them by less than the tolerance.

mod record;
mod stage;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use slotline_protocol::ExecutionId;
use slotline_scheduler::Input;

use record::Record;
use stage::{Journal, Kind, Stage};

/// How often the path of a name is walked.
const TIMES: usize = 1_000;

/// What is walked, once the stage is set.
type Walk = Box<dyn FnOnce()>;

/// A name, and what sets its stage.
type Named = (&'static str, fn() -> Walk);

const PATHS: [Named; 11] = [
    ("a request and its grant, an idle line", || request(Stage::unlimited().with_workers(1, TIMES as u32))),
    ("a request, a line of 10,000", || request(busy(Kind::Keys, 1, 10_000))),
    ("a completion and the next grant, one line", || complete(busy(Kind::Keys, 1, 2 * TIMES))),
    ("a completion that starts one sent ahead", || complete(swing(Stage::running_ahead(4, Kind::Keys, 1), 2 * TIMES))),
    ("a completion and the next grant, 10,000 keys", || complete(busy(Kind::Keys, 10_000, 20_000))),
    ("a completion and the next grant, 1,000 actions", || complete(busy(Kind::Actions, 1_000, 20_000))),
    ("a heartbeat with 1,000 leases", || heartbeat(1_000)),
    ("recovery of 100,000 in one line", || recover(100_000, 1)),
    ("recovery of 100,000 in 1,000 lines", || recover(100_000, 1_000)),
    ("a hundred batches of ten lives", lives),
    ("a cancellation in a line of 20,000", || cancel(busy(Kind::Keys, 1, 20_000))),
];

fn busy(kind: Kind, lines: usize, waiting: usize) -> Stage {
    swing(Stage::new(kind, lines), waiting)
}

fn swing(stage: Stage, waiting: usize) -> Stage {
    stage.with_workers(10, 10).with_requests(waiting)
}

/// One input at a time, its effects taken at once. What is left in the end is not taken down: that is no path.
fn walk(mut stage: Stage, mut step: impl FnMut(&mut Stage, usize) + 'static) -> Walk {
    Box::new(move || {
        for number in 0..TIMES {
            step(&mut stage, number);
            stage.take();
        }
        std::mem::forget(stage);
    })
}

fn request(stage: Stage) -> Walk {
    walk(stage, |stage, _| stage.request())
}

fn complete(stage: Stage) -> Walk {
    walk(stage, |stage, _| stage.complete())
}

/// Ten begin, ten come, ten complete and are followed by the next ten: forty transitions that share a batch, as under load.
fn lives() -> Walk {
    let mut stage = busy(Kind::Keys, 100, 20_000);
    Box::new(move || {
        for _ in 0..100 {
            stage.live(10);
        }
        std::mem::forget(stage);
    })
}

fn cancel(stage: Stage) -> Walk {
    walk(stage, |stage, number| stage.cancel(ExecutionId(10_000 + number as i64)))
}

fn heartbeat(leases: usize) -> Walk {
    let stage = Stage::unlimited().with_workers(1, leases as u32).with_requests(leases);
    let heartbeat = stage.heartbeat(0, leases as u32);
    let mut stage = stage;
    Box::new(move || {
        stage.tell(Input::Heartbeat(heartbeat));
        stage.take();
        std::mem::forget(stage);
    })
}

fn recover(waiting: usize, actions: usize) -> Walk {
    let journal = Journal::new(waiting, actions);
    Box::new(move || std::mem::forget(journal.recover()))
}

/// Named to valgrind: nothing else is collected.
#[inline(never)]
fn counted(walk: Walk) {
    walk();
}

/// Runs this program again, under valgrind, to walk one path.
fn count(number: usize, profiles: &Path) -> Result<u64, String> {
    let profile = profiles.join(format!("{number}.callgrind"));
    let program = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--cache-sim=no", "--toggle-collect=instructions::counted*"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(program)
        .args(["--walk", &number.to_string()])
        // The C library picks its ways to copy by the processor: this takes away most of the choice.
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-AVX2_Usable,-ERMS,-AVX_Fast_Unaligned_Load")
        .output()
        .map_err(|error| format!("valgrind: {error}; install it (Debian, Ubuntu: apt-get install valgrind)"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        return Err(format!("valgrind ended with {}: {said}", done.status));
    }
    let collected = said.lines().find_map(|line| line.split("Collected :").nth(1));
    let count = collected.and_then(|count| count.trim().parse().ok()).filter(|count| *count > 0);
    count.ok_or_else(|| format!("valgrind collected nothing: {said}"))
}

fn compiler() -> Result<String, String> {
    let said = Command::new("rustc").arg("--version").output().map_err(|error| format!("rustc: {error}"))?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

fn profiles() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

fn run() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, number] = arguments.as_slice()
        && flag == "--walk"
    {
        let (_, path) = number.parse().ok().and_then(|number: usize| PATHS.get(number)).ok_or("no such path")?;
        counted(path());
        return Ok(());
    }
    let profiles = profiles()?;
    let mut record = Record { compiler: compiler()?, ..Record::default() };
    for (number, (name, _)) in PATHS.iter().enumerate() {
        record.counts.insert((*name).to_owned(), count(number, &profiles)?);
    }
    println!("profiles, in this order: {}", profiles.display());
    let known = Record::read()?;
    record.print(&known);
    if arguments.iter().any(|argument| argument == "--record") { record.write() } else { record.check(&known) }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
