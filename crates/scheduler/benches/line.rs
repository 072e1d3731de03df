//! What deciding costs: nanoseconds for each transition, from ten lines to a million. The cost should hardly grow.
//!
//!     cargo bench -p slotline-scheduler --bench line
//!
//! A transition is a move of one execution from one status to the next. A life is four of them: it is queued, granted,
//! begins, completes. "alone" takes the effects of every input at once, as an idle executor does; "together" those of
//! ten lives, as a busy one does. A million wait throughout, and the lines get and give in turn, so that nothing is
//! warm.
//! Measured is the time that this thread had a core to itself, since the figure is for one core.
//! `instructions` shows what a change of the code costs, since noise can't move it; this bench shows what it is worth.

mod stage;

use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};

use stage::{Kind, Stage};

/// The allocator of the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Executions in line when measuring begins.
const BACKLOG: usize = 1_000_000;
const WORKERS: usize = 100;
const CAPACITY: u32 = 10;
/// Lives that one batch moves on.
const BATCH: usize = 10;
const LINES: [(&str, Kind, usize); 6] = [
    ("keys", Kind::Keys, 10),
    ("keys", Kind::Keys, 10_000),
    ("keys", Kind::Keys, 1_000_000),
    ("actions", Kind::Actions, 10),
    ("actions", Kind::Actions, 1_000),
    ("actions", Kind::Actions, 10_000),
];

/// One attempt runs to its end, the next of its line is granted and begins, and one more request comes.
fn live_alone(stage: &mut Stage) {
    stage.complete();
    stage.take();
    stage.begin();
    stage.take();
    stage.request();
    stage.take();
}

/// The time that this thread was at work.
struct CpuTime;

impl CpuTime {
    fn now() -> Duration {
        Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("no thread has worked for a negative time")
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Self::now()
    }

    fn end(&self, start: Duration) -> Duration {
        Self::now().saturating_sub(start)
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn lives(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("life");
    group.sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    for (name, kind, lines) in LINES {
        let mut stage = Stage::new(kind, lines).with_workers(WORKERS, CAPACITY).with_requests(BACKLOG + BATCH);
        group.throughput(Throughput::Elements(4));
        group.bench_function(BenchmarkId::new(format!("{name}, alone"), lines), |bencher| {
            bencher.iter(|| live_alone(&mut stage));
        });
        group.throughput(Throughput::Elements(4 * BATCH as u64));
        group.bench_function(BenchmarkId::new(format!("{name}, together"), lines), |bencher| {
            bencher.iter(|| stage.live(BATCH));
        });
    }
    group.finish();
}

criterion_group!(name = benches; config = Criterion::default().with_measurement(CpuTime); targets = lives);
criterion_main!(benches);
