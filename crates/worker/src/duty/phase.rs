//! Phases with weights: how far an attempt has come in percent, by the phase that it names.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize};
use slotline_protocol::message::Report;

/// The most phases of one action.
pub const PHASES_MAX: usize = 100;

/// One phase of an action: `{ name = "pull", weight = 2 }`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    pub name: String,
    /// Its share of the whole, relative to the other phases'.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

impl Phase {
    pub fn new(name: impl Into<String>, weight: u32) -> Self {
        Self { name: name.into(), weight }
    }

    /// Whether these can be the phases of one action; the error names the field that is wrong.
    pub fn check(phases: &[Self]) -> Result<(), String> {
        if phases.len() > PHASES_MAX {
            return Err(format!("phases: expected at most {PHASES_MAX}"));
        }
        let mut names = BTreeSet::new();
        for (index, Self { name, weight }) in phases.iter().enumerate() {
            if name.is_empty() {
                return Err(format!("phases[{index}].name is empty"));
            }
            if !names.insert(name) {
                return Err(format!("phases[{index}].name: {name:?} is there twice"));
            }
            if *weight == 0 {
                return Err(format!("phases[{index}].weight is 0: expected an integer of at least 1"));
            }
        }
        Ok(())
    }

    /// For serde: [`Phase::check`] where they are read.
    pub(crate) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Self>, D::Error> {
        let phases = Vec::deserialize(deserializer)?;
        Self::check(&phases).map_err(serde::de::Error::custom)?;
        Ok(phases)
    }
}

/// Where an attempt stands among its action's phases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Course {
    current: Option<usize>,
    /// How much of the current phase is done, in [`PARTS`].
    done: u64,
    /// A phase of the action was named, and the newest percent was less than all.
    is_partial: bool,
}

/// A whole phase. Parts are integers, so that a state can be compared.
const PARTS: u64 = 1_000_000;

impl Course {
    /// Takes the phase and its progress from a report, and adds the percent if the report has none of its own.
    pub(super) fn follow(&mut self, phases: &[Phase], report: &mut Report) {
        if phases.is_empty() {
            return;
        }
        if let Some(name) = &report.phase {
            let named = phases.iter().position(|phase| phase.name == *name);
            if named != self.current {
                (self.current, self.done) = (named, 0);
            }
        }
        let Some(current) = self.current else { return };
        let units = report.progress.and_then(|(done, total)| Some((done, total?)));
        if let Some((done, total)) = units.or(report.step)
            && total > 0
        {
            let done = u128::from(done.min(total)) * u128::from(PARTS) / u128::from(total);
            self.done = u64::try_from(done).unwrap_or(PARTS);
        }
        if report.percent.is_none() {
            let weight = |phases: &[Phase]| phases.iter().map(|phase| u128::from(phase.weight)).sum::<u128>();
            let (parts, all) = (u128::from(PARTS), weight(phases));
            let done = weight(&phases[..current]) * parts + u128::from(phases[current].weight) * u128::from(self.done);
            // Hundredths of a percent, rounded down: what is not whole never shows as 100.
            let hundredths = u32::try_from(done * 10_000 / (all * parts).max(1)).unwrap_or(10_000);
            report.percent = Some(f64::from(hundredths) / 100.0);
        }
        self.is_partial = report.percent.is_some_and(|percent| percent < 100.0);
    }

    /// The attempt has completed: the report to be sent if the newest percent was less than all.
    pub(super) fn complete(&mut self) -> Option<Report> {
        let is_partial = std::mem::take(&mut self.is_partial);
        is_partial.then(|| Report { percent: Some(100.0), ..Report::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phases() -> Vec<Phase> {
        vec![Phase::new("pull", 2), Phase::new("start", 1), Phase::new("probe", 1)]
    }

    fn phase(name: &str) -> Report {
        Report { phase: Some(name.to_owned()), ..Report::default() }
    }

    /// The percent after each of these.
    fn percents(reports: impl IntoIterator<Item = Report>) -> Vec<Option<f64>> {
        let (phases, mut course) = (phases(), Course::default());
        let follow = |mut report| {
            course.follow(&phases, &mut report);
            report.percent
        };
        reports.into_iter().map(follow).collect()
    }

    #[test]
    fn percent_follows_from_the_phase_its_weight_and_what_is_done_of_it() {
        let reports = [
            phase("pull"),
            Report { progress: Some((1, Some(4))), ..phase("pull") },
            Report { step: Some((1, 2)), ..Report::default() },
            phase("start"),
            Report { step: Some((3, 3)), ..phase("probe") },
        ];
        assert_eq!(percents(reports), [Some(0.0), Some(12.5), Some(25.0), Some(50.0), Some(100.0)]);
    }

    #[test]
    fn percent_has_two_decimals() {
        let phases = |weights: [u32; 2]| weights.map(|weight| Phase::new(weight.to_string(), weight));
        let percent = |weights: [u32; 2], report: Report| {
            let (phases, mut course, mut report) = (phases(weights), Course::default(), report);
            course.follow(&phases, &mut report);
            report.percent
        };
        assert_eq!(percent([11, 9], Report { ..phase("9") }), Some(55.0));
        assert_eq!(percent([1, 2], Report { step: Some((1, 3)), ..phase("1") }), Some(11.11));
        assert_eq!(percent([1, 2], Report { progress: Some((999_999, Some(1_000_000))), ..phase("2") }), Some(99.99));
    }

    #[test]
    fn what_has_completed_is_whole_wherever_its_phases_stood() {
        let end = |reports: Vec<Report>| {
            let (phases, mut course) = (phases(), Course::default());
            reports.into_iter().for_each(|mut report| course.follow(&phases, &mut report));
            course.complete().and_then(|report| report.percent)
        };
        assert_eq!(end(vec![Report { step: Some((1, 2)), ..phase("start") }]), Some(100.0));
        assert_eq!(end(vec![phase("pull"), phase("lunch")]), Some(100.0), "of another name there is no percent");
        assert_eq!(end(vec![Report { step: Some((3, 3)), ..phase("probe") }]), None, "it was told");
        assert_eq!(end(vec![Report::default()]), None, "no phase was named");
    }

    #[test]
    fn a_message_within_a_phase_does_not_set_it_back() {
        let message = Report { message: Some("again".to_owned()), ..Report::default() };
        let reports = [Report { step: Some((1, 2)), ..phase("pull") }, message, phase("pull")];
        assert_eq!(percents(reports), [Some(25.0); 3]);
    }

    #[test]
    fn a_percent_of_ones_own_stands_and_a_phase_nobody_declared_has_none() {
        let own = Report { percent: Some(99.0), ..phase("pull") };
        assert_eq!(percents([own, phase("lunch"), Report::default()]), [Some(99.0), None, None]);
        assert_eq!(percents([Report::default()]), [None], "none was named yet");
    }

    #[test]
    fn a_total_that_is_unknown_or_none_says_nothing_of_the_phase() {
        let unknown = Report { progress: Some((5, None)), ..phase("start") };
        let none = Report { step: Some((0, 0)), ..phase("start") };
        assert_eq!(percents([unknown, none]), [Some(50.0); 2]);
    }

    #[test]
    fn phases_that_can_not_be_are_refused_by_the_field() {
        assert_eq!(Phase::check(&phases()), Ok(()));
        let check = |phases: &[Phase]| Phase::check(phases).expect_err("refused");
        assert!(check(&[Phase::new("a", 1), Phase::new("b", 0)]).starts_with("phases[1].weight is 0"));
        assert!(check(&[Phase::new("a", 1), Phase::new("a", 1)]).starts_with("phases[1].name: \"a\" is there twice"));
        assert!(check(&[Phase::new("", 1)]).starts_with("phases[0].name is empty"));
        let many = |count: usize| (0..count).map(|i| Phase::new(i.to_string(), 1)).collect::<Vec<_>>();
        assert_eq!(Phase::check(&many(PHASES_MAX)), Ok(()));
        assert!(check(&many(PHASES_MAX + 1)).contains("at most 100"));
    }
}
