//! What one execution that waits costs the scheduler in memory. `cargo bench -p slotline-scheduler --bench memory`
//!
//! Counted by the allocator, so it is the same on every machine: bytes that are allocated and not freed. What the
//! allocator itself adds (16 bytes for each piece, with glibc) is printed as pieces.

mod stage;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use stage::{Journal, Kind, Stage};

const WAITING: usize = 1_000_000;
const LINES: [(&str, Kind, usize); 4] = [
    ("1 action", Kind::Actions, 1),
    ("10,000 actions", Kind::Actions, 10_000),
    ("10,000 keys", Kind::Keys, 10_000),
    ("1,000,000 keys", Kind::Keys, 1_000_000),
];

static BYTES: AtomicUsize = AtomicUsize::new(0);
static PIECES: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, and how much of it is in use.
struct Counting;

#[expect(unsafe_code, reason = "the trait of allocators is unsafe; every call is handed on as it came")]
// SAFETY: hands every call on to the system's allocator, which keeps the promises; counting touches none of its memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        PIECES.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        PIECES.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the promises of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn in_use() -> (usize, usize) {
    (BYTES.load(Ordering::Relaxed), PIECES.load(Ordering::Relaxed))
}

/// Prints what was added since `before`, for each execution that waits.
fn tell(name: &str, (bytes, pieces): (usize, usize)) {
    let (bytes_now, pieces_now) = in_use();
    let each = |now: usize, before: usize| (now - before) as f64 / WAITING as f64;
    println!("{name:>40} {:>8.1} {:>8.3}", each(bytes_now, bytes), each(pieces_now, pieces));
}

fn main() {
    println!("{:>40} {:>8} {:>8}", format!("{WAITING} waiting, for each of them"), "bytes", "pieces");
    for (name, kind, lines) in LINES {
        let stage = Stage::new(kind, lines);
        let before = in_use();
        let stage = stage.with_requests(WAITING);
        tell(name, before);
        drop(stage);
    }
    for actions in [1, 10_000] {
        let empty = Journal::new(0, actions).recover();
        let before = in_use();
        drop(empty);
        let recovered = Journal::new(WAITING, actions).recover();
        tell(&format!("{actions} actions, recovered"), before);
        drop(recovered);
    }
}
