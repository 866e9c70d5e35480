//! Log lines for a person: time, level, who, what.
//!
//! `2026-03-06 18:30:45 INFO  [role=miner uid=2 netuid=81 window=60] uploaded rollouts n_rollouts=64`

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope};

/// The format.
pub(super) struct Human {
    /// Colours the level.
    pub(super) color: bool,
    /// Tells the time, milliseconds since the Unix epoch.
    pub(super) clock: fn() -> u64,
}

/// Returns the time of the operating system; a log line is the one thing that wants it.
pub(super) fn system_time_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

impl<S, N> FormatEvent<S, N> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        write!(writer, "{} ", Utc((self.clock)()))?;
        match color_of(level).filter(|_| self.color) {
            Some(code) => write!(writer, "\x1b[{code}m{level:<5}\x1b[0m ")?,
            None => write!(writer, "{level:<5} ")?,
        }

        let mut rest = String::new();
        let spans = context.event_scope().into_iter().flat_map(Scope::from_root);
        for span in spans {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>();
            if let Some(fields) = fields.filter(|fields| !fields.is_empty()) {
                rest.push_str(if rest.is_empty() { "[" } else { " " });
                rest.push_str(fields);
            }
        }
        if !rest.is_empty() {
            rest.push_str("] ");
        }
        context.format_fields(Writer::new(&mut rest), event)?;
        // Names and messages may come from others; none of them may start a line or colour one.
        for c in rest.chars() {
            if c.is_control() {
                write!(writer, "{}", c.escape_default())?;
            } else {
                writer.write_char(c)?;
            }
        }
        writeln!(writer)
    }
}

/// Returns the terminal's code for the colour of a level.
fn color_of(level: Level) -> Option<u8> {
    match level {
        Level::ERROR => Some(31),
        Level::WARN => Some(33),
        Level::INFO => None,
        _ => Some(2),
    }
}

/// A time, shown as `2026-03-06 18:30:45`, UTC.
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Days are counted from 0000-03-01, so that a leap day is the last of its year; an era of
        // 400 years always has 146,097 of them.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = 400 * era + year + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_the_calendar_has_them() {
        for (seconds, want) in [
            (0u64, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_709_164_800, "2024-02-29 00:00:00"),
            (1_772_821_845, "2026-03-06 18:30:45"),
            (4_107_542_399, "2100-02-28 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(Utc(seconds * 1000 + 999).to_string(), want);
        }
    }
}
