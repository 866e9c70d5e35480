//! Makes rows of what a miner's program hands to the serialiser: missing keys have defaults.

use super::{Commit, JsonText, RolloutFields, Row, Scalar};
use crate::v5::python::json::Value;
use crate::v5::python::print::{to_int, to_spaced_json, to_str};

/// A dictionary that cannot be a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} of the row must be {expected}; leave it out or send what a miner sends")]
pub struct BadPayload {
    /// Name of the field.
    pub field: &'static str,
    /// What it must be.
    pub expected: &'static str,
}

impl Row {
    /// Packages a dictionary as the reference's serialiser does.
    ///
    /// Missing integers are 0, texts empty, booleans false, floats 0.0, lists empty, commitments `[]`
    /// and the beacon `{}`. A present null is `None` as text, false as a boolean, an empty list, and
    /// nothing as a number. Log-probabilities are rounded to f32, as the column does.
    ///
    /// # Errors
    /// The field whose conversion raises there, or whose number the column cannot hold.
    pub fn from_payload(payload: &Value) -> Result<Self, BadPayload> {
        let fields = Fields(Some(payload));
        let commit = fields.dictionary("commit")?;
        Ok(Self {
            window_start: fields.integer("window_start")?,
            block: fields.integer("block")?,
            nonce: fields.integer("nonce")?,
            block_hash: fields.text("block_hash")?,
            randomness: fields.text("randomness")?,
            use_drand: fields.boolean("use_drand"),
            rollout_group: fields.integer("rollout_group")?,
            rollout_index: fields.short("rollout_index")?,
            total_in_group: fields.short("total_in_group")?,
            checkpoint_window: fields.integer("checkpoint_window")?,
            commit: package_commit(&commit)?,
            timestamp: fields.float("timestamp")?,
            challenge: fields.text("challenge")?,
            hotkey: fields.text("hotkey")?,
            signature: fields.text("signature")?,
        })
    }
}

fn package_commit(fields: &Fields<'_>) -> Result<Commit, BadPayload> {
    let model = fields.dictionary("model")?;
    let rollout = fields.dictionary("rollout")?;
    let token = |token: &Value| to_int(token).and_then(|token| i32::try_from(token).ok());
    // Rounded by the column's type and read back as f64.
    let logprob = |logprob: &Value| to_float(logprob).map(|logprob| f64::from(logprob as f32));
    Ok(Commit {
        tokens: fields.list("tokens", "a list of integers of 32 bits", token)?,
        commitments: fields.json("commitments", "[]")?,
        proof_version: fields.text("proof_version")?,
        model_name: model.text("name")?,
        layer_index: model.short("layer_index")?,
        signature: fields.text("signature")?,
        beacon: fields.json("beacon", "{}")?,
        rollout: RolloutFields {
            total_reward: rollout.float("total_reward")?,
            advantage: rollout.float("advantage")?,
            success: rollout.boolean("success"),
            token_logprobs: rollout.list("token_logprobs", "a list of numbers", logprob)?,
            prompt_length: rollout.short("prompt_length")?,
            completion_length: rollout.short("completion_length")?,
        },
    })
}

/// A dictionary, or the default where there is none.
struct Fields<'a>(Option<&'a Value>);

impl<'a> Fields<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.0?.get(field)
    }

    fn dictionary(&self, field: &'static str) -> Result<Self, BadPayload> {
        match self.get(field) {
            None | Some(Value::Object(_)) => Ok(Self(self.get(field))),
            Some(_) => Err(BadPayload { field, expected: "a dictionary" }),
        }
    }

    fn integer(&self, field: &'static str) -> Result<Scalar, BadPayload> {
        let Some(value) = self.get(field) else { return Ok(0.into()) };
        let integer = to_int(value).and_then(|integer| i64::try_from(integer).ok());
        integer.map(Scalar::from).ok_or(BadPayload { field, expected: "an integer of 64 bits" })
    }

    fn short(&self, field: &'static str) -> Result<Scalar, BadPayload> {
        let cell = self.integer(field)?;
        let is_short = cell.as_integer().is_some_and(|integer| i32::try_from(integer).is_ok());
        if is_short { Ok(cell) } else { Err(BadPayload { field, expected: "of 32 bits" }) }
    }

    fn float(&self, field: &'static str) -> Result<Scalar, BadPayload> {
        let Some(value) = self.get(field) else { return Ok(0.0.into()) };
        to_float(value).map(Scalar::from).ok_or(BadPayload { field, expected: "a number" })
    }

    fn text(&self, field: &'static str) -> Result<Scalar, BadPayload> {
        let Some(value) = self.get(field) else { return Ok("".into()) };
        to_str(value).map(Scalar::from).ok_or(BadPayload { field, expected: "text or a number" })
    }

    /// Python's truth, which every value has.
    fn boolean(&self, field: &'static str) -> Scalar {
        let truth = match self.get(field) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(Value::Integer(integer)) => *integer != 0,
            Some(Value::Big(_)) => true,
            Some(Value::Float(float)) => *float != 0.0,
            Some(Value::Text(text)) => text.as_str() != Some(""),
            Some(Value::List(items)) => !items.is_empty(),
            Some(Value::Object(fields)) => !fields.is_empty(),
        };
        truth.into()
    }

    fn json(&self, field: &'static str, default: &str) -> Result<JsonText, BadPayload> {
        let text = self.get(field).map_or_else(|| default.to_owned(), to_spaced_json);
        JsonText::new(text).map_err(|_| BadPayload { field, expected: "JSON of at most 4 MiB" })
    }

    /// Converts element by element; what has no elements is an empty list.
    fn list<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, BadPayload> {
        let elements: Option<Vec<T>> = match self.get(field) {
            Some(Value::List(items)) => items.iter().map(convert).collect(),
            Some(Value::Text(text)) => {
                let text = text.as_str().ok_or(BadPayload { field, expected })?;
                let letter = |letter: char| Value::Text(letter.encode_utf8(&mut [0; 4])[..].into());
                text.chars().map(|character| convert(&letter(character))).collect()
            }
            Some(Value::Object(fields)) => {
                fields.iter().map(|(key, _)| convert(&Value::Text(key.clone()))).collect()
            }
            _ => Some(Vec::new()),
        };
        elements.ok_or(BadPayload { field, expected })
    }
}

/// Returns what `float(value)` gives: numbers, and text of one.
fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Integer(integer) => Some(*integer as f64),
        Value::Big(digits) => digits.parse().ok().filter(|float: &f64| float.is_finite()),
        Value::Float(float) => Some(*float),
        Value::Text(text) => super::footer_float(text.as_str()?),
        Value::Null | Value::List(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v5::python::json::parse;

    fn package(json: &str) -> Result<Row, BadPayload> {
        Row::from_payload(&parse(json).unwrap())
    }

    #[test]
    fn missing_keys_have_defaults() {
        let row = package("{}").unwrap();
        assert_eq!(row.nonce, 0.into());
        assert_eq!(row.timestamp, 0.0.into());
        assert_eq!(row.use_drand, false.into());
        assert_eq!(row.commit.signature, "".into());
        assert_eq!(row.commit.commitments.as_str(), "[]");
        assert_eq!(row.commit.beacon.as_str(), "{}");
        assert!(row.commit.tokens.is_empty() && row.commit.rollout.token_logprobs.is_empty());
    }

    #[test]
    fn null_is_none_as_text_and_no_number() {
        let row = package(r#"{"hotkey": null, "use_drand": null, "commit": {"tokens": null}}"#);
        let row = row.unwrap();
        assert_eq!(row.hotkey, "None".into());
        assert_eq!(row.use_drand, false.into());
        for json in [
            r#"{"checkpoint_window": null}"#,
            r#"{"timestamp": null}"#,
            r#"{"commit": null}"#,
            r#"{"commit": {"tokens": [null]}}"#,
            r#"{"rollout_index": 2147483648}"#,
            r#"{"nonce": 9223372036854775808}"#,
            r#"{"nonce": "x"}"#,
            r#"{"commit": {"tokens": [2147483648]}}"#,
        ] {
            assert!(package(json).is_err(), "{json}");
        }
    }

    #[test]
    fn values_convert_as_pythons_constructors_do() {
        let row = package(
            r#"{"nonce": " 1_6 ", "block": 2.9, "use_drand": "no", "hotkey": 5.0, "timestamp": " 1e3 ",
                "commit": {"tokens": "12", "rollout": {"token_logprobs": [0.1, "-inf", true]},
                "commitments": [{"sketch": 5, "x": [1.0, "\u00e9"]}]}}"#,
        )
        .unwrap();
        assert_eq!((row.nonce, row.block), (16.into(), 2.into()));
        assert_eq!((row.use_drand, row.hotkey), (true.into(), "5.0".into()));
        assert_eq!(row.timestamp, 1000.0.into());
        assert_eq!(row.commit.tokens, [1, 2]);
        let logprobs = row.commit.rollout.token_logprobs;
        assert_eq!(logprobs, [f64::from(0.1_f32), f64::NEG_INFINITY, 1.0]);
        let commitments = row.commit.commitments;
        assert_eq!(commitments.as_str(), r#"[{"sketch": 5, "x": [1.0, "\u00e9"]}]"#);
    }
}
