//! Processor time of processes, as the kernel counts it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

/// The unit of the times in `/proc`, whatever the frequency of the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processes whose time is counted, each with a name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Vec<(String, Counted)>);

#[derive(Clone, Copy, Debug)]
enum Counted {
    Alone(i32),
    /// A process with its children: those that live, and those that it has waited for.
    Family(i32),
}

/// Seconds so far, by name. Processes of one name are added up.
#[derive(Clone, Debug)]
pub(crate) struct Reading(BTreeMap<String, f64>);

impl Meter {
    pub(crate) fn alone(mut self, name: &str, pid: i32) -> Self {
        self.0.push((name.to_owned(), Counted::Alone(pid)));
        self
    }

    pub(crate) fn family(mut self, name: &str, pid: i32) -> Self {
        self.0.push((name.to_owned(), Counted::Family(pid)));
        self
    }

    pub(crate) fn read(&self) -> Result<Reading> {
        let mut read = BTreeMap::new();
        for (name, counted) in &self.0 {
            let ticks = match *counted {
                Counted::Alone(pid) => Stat::of(pid).context("a measured process has ended")?.own,
                Counted::Family(pid) => family(pid)?,
            };
            *read.entry(name.clone()).or_default() += ticks as f64 / TICKS_PER_SECOND;
        }
        Ok(Reading(read))
    }

    /// Seconds spent since an earlier reading.
    pub(crate) fn since(&self, earlier: &Reading) -> Result<BTreeMap<String, f64>> {
        let now = self.read()?;
        let before = |name: &str| earlier.0.get(name).copied().unwrap_or_default();
        Ok(now.0.into_iter().map(|(name, seconds)| (name.clone(), seconds - before(&name))).collect())
    }
}

pub(crate) fn parent(pid: i32) -> Option<i32> {
    Some(Stat::of(pid)?.parent)
}

fn family(head: i32) -> Result<u64> {
    let stat = Stat::of(head).context("a measured process has ended")?;
    let pids = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = pids.filter_map(Stat::of).filter(|child| child.parent == head);
    Ok(stat.own + stat.waited_for + children.map(|child| child.own + child.waited_for).sum::<u64>())
}

/// In ticks of the clock.
struct Stat {
    parent: i32,
    own: u64,
    waited_for: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may hold anything, comes the third field.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let [own, waited_for] = [[14, 15], [16, 17]].map(|[user, system]| Some(number(user)? + number(system)?));
        Some(Self { parent: fields.get(1)?.parse().ok()?, own: own?, waited_for: waited_for? })
    }
}
