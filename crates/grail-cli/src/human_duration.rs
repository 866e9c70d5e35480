//! A length of time as people write it: `500ms`, `2s`, `12 s`, `1.5m`, `1h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A duration that is read and written as text; at most 365 days, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HumanDuration(Duration);

/// Text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration; write a number and ms, s, m or h, such as 500ms or 2s")]
pub struct NotADuration(String);

const MILLIS_MAX: f64 = 365.0 * 24.0 * 3600.0 * 1000.0;

impl HumanDuration {
    /// Returns a duration of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Returns whole milliseconds.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for HumanDuration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let refuse = || NotADuration(text.chars().take(40).collect());
        let trimmed = text.trim();
        let unit_at = trimmed.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(refuse)?;
        let (number, unit) = trimmed.split_at(unit_at);
        let millis_per_unit = match unit {
            "ms" => 1.0,
            "s" => 1_000.0,
            "m" | "min" => 60_000.0,
            "h" => 3_600_000.0,
            _ => return Err(refuse()),
        };
        let number: f64 = number.trim().parse().map_err(|_| refuse())?;
        let millis = (number * millis_per_unit).round();
        if !(0.0..=MILLIS_MAX).contains(&millis) {
            return Err(refuse());
        }
        Ok(Self(Duration::from_secs_f64(millis / 1_000.0)))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.as_millis();
        if millis == 0 || !millis.is_multiple_of(1_000) {
            write!(f, "{millis}ms")
        } else {
            write!(f, "{}s", millis / 1_000)
        }
    }
}

impl TryFrom<String> for HumanDuration {
    type Error = NotADuration;

    fn try_from(text: String) -> Result<Self, NotADuration> {
        text.parse()
    }
}

impl From<HumanDuration> for String {
    fn from(duration: HumanDuration) -> Self {
        duration.to_string()
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("12 s", 12_000),
            ("1.5m", 90_000),
            ("1h", 3_600_000),
            ("0.25s", 250),
            ("0ms", 0),
        ] {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(duration.as_millis(), millis, "{text}");
            assert_eq!(duration.to_string().parse(), Ok(duration), "{text} round trip");
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "5", "s", "-1s", "NaNs", "infs", "1e300h", "5 parsecs", "1s2"] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
        }
    }
}
