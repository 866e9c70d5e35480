//! The trust list: whose rollouts of a window a validator found no fault with.
//!
//! It names miners that were active and have not failed lately; it says nothing of single rollouts.

use std::fmt::Write as _;

use super::python::json::{self, BadJson, Text, Value};
use super::python::print::{Keys, to_json};

/// Version that trainers accept.
pub const TRUST_LIST_VERSION: i64 = 1;

/// Largest list that is read, in bytes: 65,536 hotkeys take less.
pub const TRUST_LIST_BYTES_MAX: u64 = 4 << 20;

/// Windows before the wanted one whose list a trainer also takes.
pub const TRUST_LIST_AGE_MAX: u64 = 5;

/// What a validator publishes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrustList {
    /// First block of the window.
    pub window: u64,
    /// Seconds since the Unix epoch.
    pub timestamp: f64,
    /// Whose list it is.
    pub validator_hotkey: String,
    /// Miners with a file and without a recent failure, in the order of the metagraph.
    pub eligible_hotkeys: Vec<String>,
    /// Miners with a file.
    pub active_count: u64,
    /// Those of them with a recent failure.
    pub excluded_failure_count: u64,
}

/// A list that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTrustList {
    /// No JSON.
    #[error("the trust list is damaged: {0}")]
    Json(#[from] BadJson),
    /// Another version.
    #[error("the trust list has version {0}, this program reads {TRUST_LIST_VERSION}; update it")]
    Version(String),
    /// No list of texts.
    #[error("the trust list has no eligible_hotkeys that are texts; ask its validator")]
    Hotkeys,
}

/// Returns the key of a window's list in the validator's bucket.
pub fn trust_list_key(window: u64) -> String {
    format!("grail/trust/trust_list_{window}.json")
}

/// Returns the windows whose lists a trainer asks for, best first: `window` and the five before it,
/// as far as there are any. The first list found decides, usable or not.
pub fn windows_to_ask(window: u64, window_blocks: u64) -> impl Iterator<Item = u64> {
    (0..=TRUST_LIST_AGE_MAX).map_while(move |age| window.checked_sub(age * window_blocks))
}

impl TrustList {
    /// Returns the object as the reference writes it: its order, its spaces.
    pub fn to_json(&self) -> String {
        let text = |value: &str| to_json(&Value::Text(Text::from(value)), Keys::AsInserted);
        let hotkeys: Vec<String> = self.eligible_hotkeys.iter().map(|key| text(key)).collect();
        let timestamp = to_json(&Value::Float(self.timestamp), Keys::AsInserted);
        let mut out = String::new();
        write!(
            out,
            "{{\"version\": {TRUST_LIST_VERSION}, \"window\": {}, \"timestamp\": {timestamp}, \
             \"validator_hotkey\": {}, \"eligible_hotkeys\": [{}], \"active_count\": {}, \
             \"excluded_failure_count\": {}}}",
            self.window,
            text(&self.validator_hotkey),
            hotkeys.join(", "),
            self.active_count,
            self.excluded_failure_count,
        )
        .expect("writing to a string cannot fail");
        out
    }

    /// Reads a list. Only the version and the hotkeys are needed; a field that is missing or of
    /// another type counts as 0 or empty. An empty list is one, and trusts nobody.
    ///
    /// # Errors
    /// [`BadTrustList`].
    pub fn parse(text: &str) -> Result<Self, BadTrustList> {
        let value = json::parse(text)?;
        let version = value.get("version").unwrap_or(&Value::Null);
        if !matches!(version, Value::Integer(TRUST_LIST_VERSION)) {
            return Err(BadTrustList::Version(to_json(version, Keys::AsInserted)));
        }
        let number = |key: &str| match value.get(key) {
            Some(Value::Integer(number)) => u64::try_from(*number).unwrap_or(0),
            _ => 0,
        };
        let hotkeys = value.get("eligible_hotkeys").and_then(Value::as_list);
        let hotkeys = hotkeys.ok_or(BadTrustList::Hotkeys)?.iter();
        let hotkeys = hotkeys.map(|key| key.as_str().map(str::to_owned));
        Ok(Self {
            window: number("window"),
            timestamp: match value.get("timestamp") {
                Some(Value::Float(seconds)) => *seconds,
                _ => 0.0,
            },
            validator_hotkey: value
                .get("validator_hotkey")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            eligible_hotkeys: hotkeys.collect::<Option<_>>().ok_or(BadTrustList::Hotkeys)?,
            active_count: number("active_count"),
            excluded_failure_count: number("excluded_failure_count"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(hotkeys: Vec<String>) -> TrustList {
        TrustList {
            window: 3_000_030,
            timestamp: 1_700_000_000.5,
            validator_hotkey: "5Validator".to_owned(),
            active_count: hotkeys.len() as u64,
            eligible_hotkeys: hotkeys,
            excluded_failure_count: 0,
        }
    }

    #[test]
    fn a_list_is_written_as_python_writes_it() {
        let written = list(vec!["5A".to_owned(), "5B".to_owned()]).to_json();
        let expected = concat!(
            r#"{"version": 1, "window": 3000030, "timestamp": 1700000000.5, "#,
            r#""validator_hotkey": "5Validator", "eligible_hotkeys": ["5A", "5B"], "#,
            r#""active_count": 2, "excluded_failure_count": 0}"#
        );
        assert_eq!(written, expected);
        assert_eq!(trust_list_key(3_000_030), "grail/trust/trust_list_3000030.json");
    }

    #[test]
    fn another_version_or_form_is_refused() {
        let refused = |text: &str| TrustList::parse(text).unwrap_err();
        assert_eq!(refused(r#"{"version":2}"#), BadTrustList::Version("2".to_owned()));
        assert_eq!(refused("[]"), BadTrustList::Version("null".to_owned()));
        assert_eq!(refused(r#"{"version":1}"#), BadTrustList::Hotkeys);
        assert_eq!(refused(r#"{"version":1,"eligible_hotkeys":[1]}"#), BadTrustList::Hotkeys);
        assert!(matches!(refused("{"), BadTrustList::Json(_)));
        let sparse = TrustList::parse(r#"{"version":1,"eligible_hotkeys":[],"window":-3}"#);
        assert_eq!(sparse, Ok(TrustList::default()));
    }

    #[test]
    fn older_lists_are_asked_for_down_to_the_first_window() {
        let ask = |window| windows_to_ask(window, 30).collect::<Vec<_>>();
        assert_eq!(ask(300), [300, 270, 240, 210, 180, 150]);
        assert_eq!(ask(60), [60, 30, 0]);
        assert_eq!(ask(0), [0]);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(hotkeys in prop::collection::vec(".{0,20}", 0..8)) {
            let list = list(hotkeys);
            prop_assert_eq!(TrustList::parse(&list.to_json()), Ok(list));
        }

        #[test]
        fn no_text_breaks_the_reader(text in ".{0,80}") {
            let _verdict = TrustList::parse(&text);
        }
    }
}
