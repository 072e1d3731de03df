//! The six figures of the process that every exporter of Prometheus has, read from `/proc` by each scrape.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

#[derive(Debug)]
struct Host;

/// What the kernel says about this process.
struct Figures {
    cpu_seconds: f64,
    start_seconds: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
    open_files: u64,
}

pub(super) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Host));
}

impl Collector for Host {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Some(figures) = Figures::read() else { return Ok(()) };
        let cpu = ConstCounter::new(figures.cpu_seconds);
        let help = "User and system time";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)?;
        let files_max = getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |most| most as f64);
        let gauges = [
            ("process_start_time_seconds", "Start, since 1970", figures.start_seconds),
            ("process_virtual_memory_bytes", "Address space", figures.virtual_bytes),
            ("process_resident_memory_bytes", "Memory in use", figures.resident_bytes),
            ("process_open_fds", "Open file descriptors", figures.open_files as f64),
            ("process_max_fds", "The most file descriptors that may be open", files_max),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

impl Figures {
    /// `None` where there is no `/proc`.
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the program comes first, in brackets, and may have brackets and blanks of its own.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        // By proc_pid_stat(5), whose first field here is its third.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = clock_ticks_per_second() as f64;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?.parse::<f64>().ok()?;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            start_seconds: boot + field(22)? / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_size() as f64,
            // The directory is open while it is read.
            open_files: (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_process_are_its_own() {
        let figures = Figures::read().expect("a /proc");
        assert!(figures.cpu_seconds >= 0.0 && figures.cpu_seconds < 1e6, "{}", figures.cpu_seconds);
        assert!(figures.start_seconds > 1.7e9, "{}", figures.start_seconds);
        assert!(figures.resident_bytes >= 1e6 && figures.resident_bytes < figures.virtual_bytes);
        let files = [fs::File::open("/proc/self/stat"), fs::File::open("/proc/self/stat")];
        let more = Figures::read().expect("a /proc").open_files;
        assert!(more >= files.len() as u64, "{more}");
    }
}
