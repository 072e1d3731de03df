//! What the command line asks for.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::scale::Scale;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    Limits,
    Speed,
    Throughput,
    Keys,
    Handoff,
    Latency,
    Fanout,
    Growth,
    Commands,
    Embedded,
    Rivals,
}

impl Measure {
    const ALL: [Self; 11] = [
        Self::Limits,
        Self::Speed,
        Self::Throughput,
        Self::Keys,
        Self::Handoff,
        Self::Latency,
        Self::Fanout,
        Self::Growth,
        Self::Commands,
        Self::Embedded,
        Self::Rivals,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Speed => "S",
            Self::Throughput => "T",
            Self::Keys => "M",
            Self::Handoff => "H",
            Self::Latency => "L",
            Self::Fanout => "F",
            Self::Growth => "G",
            Self::Commands => "C",
            Self::Embedded => "embedded",
            Self::Rivals => "rivals",
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Both,
    Table,
    Json,
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) measures: Vec<Measure>,
    pub(crate) output: Output,
    pub(crate) rivals: Option<PathBuf>,
    pub(crate) has_subscriber: bool,
    pub(crate) scale: Scale,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let (mut measures, mut output, mut rivals) = (Vec::new(), Output::Both, None);
        let (mut run_ahead, mut is_trial, mut has_subscriber) = (None, false, false);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{argument}: expected a value"));
            match argument.as_str() {
                // cargo passes it to every benchmark.
                "--bench" => {}
                "--output" => {
                    output = match value()?.as_str() {
                        "table" => Output::Table,
                        "json" => Output::Json,
                        other => bail!("--output {other}: expected table or json"),
                    };
                }
                "--rivals" => rivals = Some(PathBuf::from(value()?)),
                "--run-ahead" => run_ahead = Some(value()?.parse().context("--run-ahead: expected a number")?),
                "--subscriber" => has_subscriber = true,
                "--trial" => is_trial = true,
                name => match Measure::ALL.into_iter().find(|measure| measure.name() == name) {
                    Some(measure) => measures.push(measure),
                    None => bail!("{name}: expected one of {}", Measure::ALL.map(Measure::name).join(", ")),
                },
            }
        }
        if measures.is_empty() {
            measures = Measure::ALL.into_iter().filter(|measure| *measure != Measure::Rivals).collect();
        }
        let scale = if is_trial { Scale::trial(run_ahead) } else { Scale::full(run_ahead) };
        Ok(Self { measures, output, rivals, has_subscriber, scale })
    }
}
