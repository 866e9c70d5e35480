//! Everything about a row that needs no forward pass, in the reference's order.

use std::collections::BTreeMap;

use grail_ports::model::ModelError;
use grail_protocol::ids::TokenId;
use grail_protocol::v5::binding::{commit_binding, commitments_hash, sketches_hash, verify_commit};
use grail_protocol::v5::constants::{
    ACCEPTED_PROOF_VERSIONS, CHALLENGE_K, LAYER_INDEX, PRIME_Q, PROOF_COEFF_RANGE,
    PROOF_NUM_BUCKETS, PROOF_TOPK,
};
use grail_protocol::v5::envelope::{Envelope, is_signed_by_owner};
use grail_protocol::v5::file::{JsonText, Row};
use grail_protocol::v5::indices;
use grail_protocol::v5::python::json::Value;
use grail_protocol::v5::r_vec::{self, Coefficients};
use grail_protocol::v5::schema::{are_tokens_valid, check_commit};
use grail_protocol::v5::seeds::environment_seed;

use super::{Bench, Fault};

/// Largest magnitude of a sketch that any hidden state can have.
const SKETCH_MAX: i64 =
    PROOF_TOPK as i64 * (PROOF_NUM_BUCKETS as i64 - 1) * PROOF_COEFF_RANGE as i64;

/// Results of the checks that ran, by the reference's names.
pub type Results = BTreeMap<String, bool>;

/// What came of a row so far.
pub enum Screened {
    /// It ends its file.
    Fault(Fault),
    /// A check failed; those before it passed.
    Failed(Results),
    /// It cannot be processed: it counts as checked and not as valid.
    Unprocessed,
    /// The forward pass decides.
    Ready(Ready),
}

impl Screened {
    /// Returns the tokens that the forward pass has to look at.
    pub fn n_tokens(&self) -> usize {
        match self {
            Self::Ready(ready) => ready.tokens.len(),
            Self::Fault(_) | Self::Failed(_) | Self::Unprocessed => 0,
        }
    }
}

/// A row that passed so far.
pub struct Ready {
    /// The checks that passed.
    pub results: Results,
    /// Seed of its problem.
    pub seed: u32,
    /// Prompt and completion.
    pub tokens: Vec<TokenId>,
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// The challenged positions, ascending.
    pub positions: Vec<usize>,
    /// The miner's sketches of all positions.
    pub claimed: Vec<i64>,
    /// The miner's coefficients.
    pub coefficients: Coefficients,
}

/// Screens rows of one file; rows of one problem share its prompt.
pub struct Screen<'a> {
    bench: &'a Bench,
    owner: String,
    prompt: Option<(u32, Vec<TokenId>)>,
}

impl<'a> Screen<'a> {
    /// Starts a file.
    pub fn new(bench: &'a Bench) -> Self {
        Self { bench, owner: bench.owner.to_ss58(), prompt: None }
    }

    /// Screens a row.
    ///
    /// # Errors
    /// When we fail to write the row's prompt.
    pub fn row(&mut self, row: &Row) -> Result<Screened, ModelError> {
        let Bench { assignment, window_hash, owner, .. } = self.bench;
        let checkpoint = i64::try_from(assignment.checkpoint.start().0).unwrap_or(i64::MAX);
        if !row.checkpoint_window.equals(checkpoint) {
            return Ok(Screened::Fault(Fault::OtherCheckpoint));
        }
        let envelope = envelope(row)
            .filter(|(envelope, nonce)| is_signed_by_owner(*envelope, *owner, window_hash, *nonce));
        if envelope.is_none() {
            return Ok(Screened::Fault(Fault::Envelope));
        }
        let Some(group) = row.rollout_group.to_int() else { return Ok(Screened::Unprocessed) };
        let seed = environment_seed(&self.owner, window_hash, group);
        let mut results = Results::new();
        let ready = self.checks(row, seed, &mut results)?;
        Ok(match ready {
            Some(ready) => Screened::Ready(Ready { results, ..ready }),
            None => Screened::Failed(results),
        })
    }

    /// Runs the checks until one fails, which leaves its name with `false`.
    fn checks(
        &mut self,
        row: &Row,
        seed: u32,
        results: &mut Results,
    ) -> Result<Option<Ready>, ModelError> {
        let mut holds = |check: &str, result: bool| {
            results.insert(check.to_owned(), result);
            result
        };
        let commit = row.commit.to_value();
        if !holds("schema_valid", check_commit(&commit).is_ok()) {
            return Ok(None);
        }
        let tokens = commit.get("tokens").unwrap_or(&Value::Null);
        if !holds("tokens_valid", are_tokens_valid(tokens, &self.bench.assignment.config)) {
            return Ok(None);
        }
        // Ids below the vocabulary's size are not negative, so nothing is cut.
        let tokens: Vec<TokenId> = row.commit.tokens.iter().map(|&token| token as u32).collect();
        let prompt_len = row.commit.rollout.prompt_length.as_integer();
        let prompt_len = prompt_len.and_then(|length| usize::try_from(length).ok());
        let prompt = self.prompt(seed)?;
        let prompt_len = prompt_len.filter(|&length| tokens.get(..length) == Some(prompt));
        let Some(prompt_len) = prompt_len.filter(|&length| length > 0) else {
            holds("env_prompt_valid", false);
            return Ok(None);
        };
        holds("env_prompt_valid", true);
        let proof = self.proof(row, seed, tokens, prompt_len);
        // Where it is some, the sketches still have to be compared.
        if proof.is_none() {
            holds("proof_valid", false);
        }
        Ok(proof)
    }

    fn prompt(&mut self, seed: u32) -> Result<&[TokenId], ModelError> {
        if self.prompt.as_ref().is_none_or(|(known, _)| *known != seed) {
            self.prompt = Some((seed, self.bench.assignment.prompt(seed)?));
        }
        Ok(self.prompt.as_ref().map_or(&[], |(_, tokens)| tokens))
    }

    /// Checks what the proof says of itself.
    fn proof(
        &self,
        row: &Row,
        seed: u32,
        tokens: Vec<TokenId>,
        prompt_len: usize,
    ) -> Option<Ready> {
        let commit = &row.commit;
        let version = commit.proof_version.as_text()?;
        let completion_len = commit.rollout.completion_length.as_integer()?;
        let completion_len = usize::try_from(completion_len).ok()?;
        let beacon = commit.beacon.value();
        let randomness = beacon.get("randomness").and_then(Value::as_str)?;
        let is_sound = ACCEPTED_PROOF_VERSIONS.contains(&version)
            && completion_len >= CHALLENGE_K
            && commit.layer_index.equals(LAYER_INDEX.into());
        if !is_sound {
            return None;
        }
        let (claimed, hash) = sketches(&commit.commitments)?;
        if claimed.len() != tokens.len() {
            return None;
        }
        let name = commit.model_name.as_text().unwrap_or_default();
        let binding = commit_binding(&tokens, randomness, name, LAYER_INDEX, &hash).ok()?;
        let signature = commit.signature.as_text()?;
        if !verify_commit(self.bench.owner, version, &binding, signature) {
            return None;
        }
        let positions =
            indices::challenge(&tokens, &self.bench.randomness, prompt_len, completion_len).ok()?;
        let coefficients = r_vec::from_randomness(randomness).ok()?;
        let results = Results::new();
        Some(Ready { results, seed, tokens, prompt_len, positions, claimed, coefficients })
    }
}

fn envelope(row: &Row) -> Option<(Envelope<'_>, i64)> {
    let envelope = Envelope {
        challenge: row.challenge.as_text()?,
        hotkey: row.hotkey.as_text()?,
        signature: row.signature.as_text()?,
    };
    Some((envelope, row.nonce.as_integer()?))
}

/// Returns the claimed sketches, and the hash of the commitments that were signed. Nothing when one
/// of them cannot be the sketch of any hidden state: the reference accepts such claims.
fn sketches(commitments: &JsonText) -> Option<(Vec<i64>, [u8; 32])> {
    let (sketches, hash) = match commitments.sketches() {
        Some(sketches) => {
            let hash = sketches_hash(&sketches);
            (sketches, hash)
        }
        None => {
            let value = commitments.value();
            let sketch = |element: &Value| match element.get("sketch") {
                Some(Value::Integer(sketch)) => Some(*sketch),
                _ => None,
            };
            let sketches = value.as_list()?.iter().map(sketch).collect::<Option<Vec<_>>>()?;
            (sketches, commitments_hash(&value))
        }
    };
    let is_possible = |&sketch: &i64| {
        (0..PRIME_Q).contains(&sketch) && sketch.min(PRIME_Q - sketch) <= SKETCH_MAX
    };
    sketches.iter().all(is_possible).then_some((sketches, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_hidden_state_can_have_is_a_sketch() {
        assert_eq!(SKETCH_MAX, 14_224);
        let of = |text: &str| sketches(&JsonText::new(text).unwrap()).map(|(found, _)| found);
        let q = PRIME_Q;
        for good in [0, SKETCH_MAX, q - SKETCH_MAX] {
            assert_eq!(of(&format!(r#"[{{"sketch": {good}}}]"#)), Some(vec![good]));
            assert_eq!(of(&format!(r#"[{{"sketch": {good}, "more": 1}}]"#)), Some(vec![good]));
        }
        for bad in [-1, q, SKETCH_MAX + 1, q - SKETCH_MAX - 1, 1_000_000_000_000_000_000] {
            assert_eq!(of(&format!(r#"[{{"sketch": {bad}}}]"#)), None, "{bad}");
        }
        for bad in ["1.0", "true", "NaN", "Infinity", "\"1\"", "null", "1e18"] {
            assert_eq!(of(&format!(r#"[{{"sketch": {bad}}}]"#)), None, "{bad}");
        }
        for bad in ["{}", "[1]", "[{}]"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
