//! What can be said about a row without a model: form, tokens, signatures, and whether its numbers
//! are numbers at all.

use super::{Commit, Row, Scalar};
use crate::ids::Hotkey;
use crate::v5::binding::{commit_binding, verify_commit};
use crate::v5::constants::{
    ACCEPTED_PROOF_VERSIONS, CHALLENGE_K, LAYER_INDEX, PRIME_Q, PROOF_COEFF_RANGE,
    PROOF_NUM_BUCKETS, PROOF_TOPK,
};
use crate::v5::envelope;
use crate::v5::python::json::Value;
use crate::v5::python::print::{to_int, to_str};
use crate::v5::schema::{are_tokens_valid, check_commit};

/// Largest absolute value of a sketch before it is reduced: 16 buckets of 7 times 127.
const SKETCH_MAX: i64 =
    PROOF_TOPK as i64 * (PROOF_NUM_BUCKETS as i64 - 1) * PROOF_COEFF_RANGE as i64;

/// A check of one row, in the order of the reference's validators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowCheck {
    /// The row's challenge is signed by the row's hotkey.
    Envelope,
    /// The challenge is that of the row's own block hash and nonce, and the hotkey the file's.
    EnvelopeBinding,
    /// The commit has its fields and types.
    Schema,
    /// Tokens are in the vocabulary, and not too many.
    Tokens,
    /// Everything of the proof but the sketches' values: version, lengths, layer, signature.
    ProofForm,
    /// Sketches are integers that a sketch can be.
    SketchRange,
    /// There is a log-probability for every token.
    LogprobCount,
    /// Rewards, advantages and log-probabilities are finite.
    Finite,
}

impl RowCheck {
    /// All checks in their order.
    pub const ALL: [Self; 8] = [
        Self::Envelope,
        Self::EnvelopeBinding,
        Self::Schema,
        Self::Tokens,
        Self::ProofForm,
        Self::SketchRange,
        Self::LogprobCount,
        Self::Finite,
    ];

    /// Returns a stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Envelope => "envelope_signature",
            Self::EnvelopeBinding => "envelope_binding",
            Self::Schema => "schema_valid",
            Self::Tokens => "tokens_valid",
            Self::ProofForm => "proof_form",
            Self::SketchRange => "sketch_range",
            Self::LogprobCount => "logprob_count",
            Self::Finite => "finite_numbers",
        }
    }

    /// Whether the reference does not check this. Honest miners pass either way.
    pub fn is_stricter(self) -> bool {
        matches!(self, Self::EnvelopeBinding | Self::SketchRange | Self::Finite)
    }
}

/// A check that a row fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFault {
    /// Which one.
    pub check: RowCheck,
    /// What is wrong.
    pub detail: String,
}

/// What rows are held against.
#[derive(Clone, Debug)]
pub struct RowBench<'a> {
    /// Owner of the file.
    pub owner: Hotkey,
    /// The owner's address as text.
    pub address: &'a str,
    /// `config.json` of the model; without one, only the length of sequences is bounded.
    pub config: &'a Value,
}

/// Returns every check that a row fails, in the order of [`RowCheck::ALL`].
pub fn inspect_row(row: &Row, bench: &RowBench<'_>) -> Vec<RowFault> {
    let commit = row.commit.to_value();
    RowCheck::ALL
        .into_iter()
        .filter_map(|check| {
            let fault = match check {
                RowCheck::Envelope => envelope_fault(row),
                RowCheck::EnvelopeBinding => binding_fault(row, bench.address),
                RowCheck::Schema => check_commit(&commit).err().map(|fault| fault.to_string()),
                RowCheck::Tokens => tokens_fault(&commit, bench.config),
                RowCheck::ProofForm => proof_fault(&row.commit, &commit, bench.owner),
                RowCheck::SketchRange => sketch_fault(&row.commit),
                RowCheck::LogprobCount => count_fault(&row.commit),
                RowCheck::Finite => finite_fault(&row.commit),
            };
            fault.map(|detail| RowFault { check, detail })
        })
        .collect()
}

fn envelope_fault(row: &Row) -> Option<String> {
    let fields = ["challenge", "hotkey", "signature"];
    let cells = [&row.challenge, &row.hotkey, &row.signature];
    let fields = fields.into_iter().zip(cells).map(|(key, cell)| (key.into(), cell.to_value()));
    let is_signed = envelope::is_signed(&Value::Object(fields.collect()));
    (!is_signed).then(|| "the row's hotkey did not sign the row's challenge".to_owned())
}

fn binding_fault(row: &Row, address: &str) -> Option<String> {
    if row.hotkey.as_text() != Some(address) {
        return Some("the row's hotkey is not the file's owner".to_owned());
    }
    let challenge = format!("|{}|{}", row.block_hash.to_text(), row.nonce.to_text());
    let is_own = row.challenge.as_text() == Some(&challenge);
    (!is_own).then(|| format!("the challenge is not {challenge:?}"))
}

fn tokens_fault(commit: &Value, config: &Value) -> Option<String> {
    let is_valid = commit.get("tokens").is_some_and(|tokens| are_tokens_valid(tokens, config));
    (!is_valid).then(|| "tokens are not in the vocabulary, or too many for the model".to_owned())
}

fn proof_fault(commit: &Commit, value: &Value, owner: Hotkey) -> Option<String> {
    let version = commit.proof_version.as_text().unwrap_or_default();
    if !ACCEPTED_PROOF_VERSIONS.contains(&version) {
        return Some(format!("proof version {version:?}; v4 and v5 are accepted"));
    }
    let n_sketches = value.get("commitments").and_then(Value::as_list).unwrap_or_default().len();
    if n_sketches == 0 || n_sketches != commit.tokens.len() {
        return Some(format!("{n_sketches} sketches for {} tokens", commit.tokens.len()));
    }
    let completion = commit.rollout.completion_length.to_int().unwrap_or(0);
    if completion < CHALLENGE_K as i128 {
        return Some(format!("a completion of {completion} tokens; expected at least 32"));
    }
    if commit.layer_index.to_int() != Some(i128::from(LAYER_INDEX)) {
        return Some("another layer than the last".to_owned());
    }
    let randomness = value.get("beacon").and_then(|beacon| beacon.get("randomness"));
    let Some(randomness) = randomness.and_then(Value::as_str).filter(|text| !text.is_empty())
    else {
        return Some("no randomness in the commit's beacon".to_owned());
    };
    let tokens: Vec<u32> = commit.tokens.iter().map(|token| token.cast_unsigned()).collect();
    let name = commit.model_name.as_text().unwrap_or_default();
    let hash = commit.commitments.digest();
    let Ok(binding) = commit_binding(&tokens, randomness, name, LAYER_INDEX, &hash) else {
        return Some("the randomness of the commit's beacon is not hexadecimal".to_owned());
    };
    let signature = commit.signature.as_text().unwrap_or_default();
    let is_signed = verify_commit(owner, version, &binding, signature);
    (!is_signed).then(|| "the file's owner did not sign the commit".to_owned())
}

fn sketch_fault(commit: &Commit) -> Option<String> {
    let fault = |place: usize, sketch: String| format!("sketch {sketch} of token {place}");
    let is_sketch =
        |sketch: i64| (0..PRIME_Q).contains(&sketch) && sketch.min(PRIME_Q - sketch) <= SKETCH_MAX;
    if let Some(sketches) = commit.commitments.sketches() {
        let place = sketches.iter().position(|&sketch| !is_sketch(sketch))?;
        return Some(fault(place, sketches[place].to_string()));
    }
    let value = commit.commitments.value();
    let is_integer = |element: &Value| match element.get("sketch") {
        Some(Value::Integer(sketch)) => is_sketch(*sketch),
        _ => false,
    };
    let elements = value.as_list().unwrap_or_default();
    let place = elements.iter().position(|element| !is_integer(element))?;
    let sketch = elements[place].get("sketch");
    let shown = sketch.filter(|sketch| to_int(sketch).is_some()).and_then(to_str);
    Some(fault(place, shown.unwrap_or_else(|| "that is no number".to_owned())))
}

fn count_fault(commit: &Commit) -> Option<String> {
    let (n_logprobs, n_tokens) = (commit.rollout.token_logprobs.len(), commit.tokens.len());
    (n_logprobs != n_tokens)
        .then(|| format!("{n_logprobs} log-probabilities for {n_tokens} tokens"))
}

fn finite_fault(commit: &Commit) -> Option<String> {
    let is_finite = |cell: &Scalar| cell.as_float().is_none_or(f64::is_finite);
    let rollout = &commit.rollout;
    if !is_finite(&rollout.total_reward) || !is_finite(&rollout.advantage) {
        return Some("a reward or an advantage that is not finite".to_owned());
    }
    let place = rollout.token_logprobs.iter().position(|logprob| !logprob.is_finite())?;
    Some(format!("log-probability {} of token {place}", rollout.token_logprobs[place]))
}
