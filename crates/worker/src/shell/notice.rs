//! Writes the driver's notices for operators into the log.

use slotline_protocol::chain;

use crate::driver::LogLine;

/// `prefix`: of the exchanges and queues on the broker.
pub(crate) fn log(notice: LogLine, prefix: &str) {
    match notice {
        LogLine::Connected(incarnation) => tracing::info!(worker.incarnation = %incarnation, "connected"),
        LogLine::SessionLost => tracing::warn!("the session with the broker is over; work goes on"),
        LogLine::Draining => tracing::info!("draining: no new work"),
        LogLine::Stopping => tracing::info!("ending everything at once"),
        LogLine::Congested(is_congested) => tracing::debug!(is_congested, "events wait to be sent"),
        LogLine::Unreadable(error) => {
            tracing::warn!(error = %chain(&error), "a message to this worker can't be read");
        }
        LogLine::Unproven { incarnation, count } => tracing::warn!(
            worker.incarnation = %incarnation, count, "dropped orders that no executor has proved to have written"
        ),
        LogLine::Unanswered(unheard_for) => tracing::warn!(
            prefix,
            "no executor has answered for {unheard_for:.0?}: does one run, on this broker and virtual host, with this prefix?"
        ),
        LogLine::TakesLess { shortage, most } => tracing::warn!(
            takes = most,
            "short of {shortage}: what can't be started is handed back, and no more than {most} run at once for now"
        ),
        LogLine::TakesAll => tracing::info!("what was short has passed: as many run at once as ever"),
        LogLine::Refused(reason) => {
            tracing::error!(reason, "refused by the executor: takes nothing more, ends what it runs, and ends");
        }
        LogLine::Renamed { former, next } => {
            tracing::warn!(worker.incarnation = %former, next = %next, "isolated: going on under a new name");
        }
    }
}
