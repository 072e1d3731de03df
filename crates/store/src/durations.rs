//! How long executions waited and ran, as percentiles over the newest of an action.

use slotline_protocol::{Timestamp, http::Percentiles};

/// The most executions that are looked at.
pub const DURATIONS_SAMPLE_MAX: u32 = 10_000;

/// Percentiles over the newest settled executions of an action; `None` where none started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Durations {
    /// From the line to the first start.
    pub wait: Option<Percentiles>,
    /// From the last attempt's start to the end.
    pub run: Option<Percentiles>,
}

/// The share of one settled execution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) enqueued_at: Timestamp,
    pub(crate) first_started_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ended_at: Timestamp,
}

pub(crate) fn of(samples: &[Sample]) -> Durations {
    let seconds = |from: Timestamp, to: Timestamp| to.since(from).as_secs_f64();
    Durations {
        wait: percentiles(samples.iter().filter_map(|s| Some(seconds(s.enqueued_at, s.first_started_at?))).collect()),
        run: percentiles(samples.iter().filter_map(|s| Some(seconds(s.started_at?, s.ended_at))).collect()),
    }
}

/// By nearest rank, so that each is a duration that really occurred.
fn percentiles(mut seconds: Vec<f64>) -> Option<Percentiles> {
    seconds.sort_unstable_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (seconds.len() * percent).div_ceil(100).max(1);
        seconds.get(rank - 1).copied()
    };
    Some(Percentiles { count: u64::try_from(seconds.len()).ok()?, p50: at(50)?, p90: at(90)?, p99: at(99)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let hundred = percentiles((1..=100).rev().map(f64::from).collect()).expect("not empty");
        assert_eq!(hundred, Percentiles { count: 100, p50: 50.0, p90: 90.0, p99: 99.0 });
        let one = percentiles(vec![7.0]).expect("not empty");
        assert_eq!(one, Percentiles { count: 1, p50: 7.0, p90: 7.0, p99: 7.0 });
        assert_eq!(percentiles(Vec::new()), None);
    }

    #[test]
    fn what_never_started_counts_for_nothing() {
        let moment = Timestamp::from_micros;
        let never =
            Sample { enqueued_at: moment(0), first_started_at: None, started_at: None, ended_at: moment(5_000_000) };
        assert_eq!(of(&[never]), Durations::default());
        let retried =
            Sample { first_started_at: Some(moment(1_000_000)), started_at: Some(moment(3_000_000)), ..never };
        let durations = of(&[never, retried]);
        assert_eq!(durations.wait.map(|wait| (wait.count, wait.p50)), Some((1, 1.0)));
        assert_eq!(durations.run.map(|run| (run.count, run.p50)), Some((1, 2.0)));
    }
}
