//! Rows as the dictionaries that the reference's reader returns, for checks that want any value.

use super::{Commit, Footer, RolloutFields, Row, WindowFile};
use crate::v5::python::json::Value;

fn dictionary<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.map(|(key, value)| (key.into(), value)).into())
}

impl WindowFile {
    /// Returns the dictionary of the whole file.
    pub fn to_value(&self) -> Value {
        let Footer { wallet, window_start, window_length, inference_count, timestamp } =
            &self.footer;
        dictionary([
            ("wallet", Value::Text(wallet.as_str().into())),
            ("window_start", Value::Integer(*window_start)),
            ("window_length", Value::Integer(*window_length)),
            ("inference_count", Value::Integer(*inference_count)),
            ("inferences", Value::List(self.rows.iter().map(Row::to_value).collect())),
            ("timestamp", Value::Float(*timestamp)),
        ])
    }
}

impl Row {
    /// Returns the row's dictionary.
    pub fn to_value(&self) -> Value {
        dictionary([
            ("window_start", self.window_start.to_value()),
            ("block", self.block.to_value()),
            ("nonce", self.nonce.to_value()),
            ("block_hash", self.block_hash.to_value()),
            ("randomness", self.randomness.to_value()),
            ("use_drand", self.use_drand.to_value()),
            ("rollout_group", self.rollout_group.to_value()),
            ("rollout_index", self.rollout_index.to_value()),
            ("total_in_group", self.total_in_group.to_value()),
            ("checkpoint_window", self.checkpoint_window.to_value()),
            ("commit", self.commit.to_value()),
            ("timestamp", self.timestamp.to_value()),
            ("challenge", self.challenge.to_value()),
            ("hotkey", self.hotkey.to_value()),
            ("signature", self.signature.to_value()),
        ])
    }
}

impl Commit {
    /// Returns the commit's dictionary.
    pub fn to_value(&self) -> Value {
        let tokens = self.tokens.iter().map(|&token| Value::Integer(i64::from(token)));
        dictionary([
            ("tokens", Value::List(tokens.collect())),
            ("commitments", self.commitments.value()),
            ("proof_version", self.proof_version.to_value()),
            (
                "model",
                dictionary([
                    ("name", self.model_name.to_value()),
                    ("layer_index", self.layer_index.to_value()),
                ]),
            ),
            ("signature", self.signature.to_value()),
            ("beacon", self.beacon.value()),
            ("rollout", self.rollout.to_value()),
        ])
    }
}

impl RolloutFields {
    /// Returns the rollout's dictionary.
    pub fn to_value(&self) -> Value {
        let logprobs = self.token_logprobs.iter().map(|&logprob| Value::Float(logprob));
        dictionary([
            ("total_reward", self.total_reward.to_value()),
            ("advantage", self.advantage.to_value()),
            ("success", self.success.to_value()),
            ("token_logprobs", Value::List(logprobs.collect())),
            ("prompt_length", self.prompt_length.to_value()),
            ("completion_length", self.completion_length.to_value()),
        ])
    }
}
