//! The digests of a file: of each group, by which rows are chosen, and of each completion, by which
//! copies are found.
//!
//! Python prints a commit's whole dictionary to hash it. The same bytes are written here straight
//! from the fields; a test holds them to the slow way.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::tokens::print_tokens;
use super::{Commit, RolloutFields, Row, Scalar};
use crate::v5::completion::slice_start;
use crate::v5::python::print::{Keys, to_json, write_any_float};
use crate::v5::selection;

/// Returns SHA-256 of a commit as Python prints it with sorted keys.
pub fn commit_digest(commit: &Commit) -> [u8; 32] {
    Sha256::digest(commit_text(commit)).into()
}

/// Returns the digest of a row's completion, see
/// [`completion_digest`](crate::v5::completion::completion_digest).
pub fn completion_digest(commit: &Commit) -> Option<[u8; 32]> {
    if commit.tokens.is_empty() {
        return None;
    }
    let start = commit.rollout.prompt_length.to_int().unwrap_or(0);
    let mut hash = Sha256::new();
    let completion = &commit.tokens[slice_start(commit.tokens.len(), start)..];
    print_tokens(completion, |piece| hash.update(piece));
    Some(hash.finalize().into())
}

/// The groups of a file that passed its structure check, in the order of their first rows.
#[derive(Clone, Debug, Default)]
pub struct GroupKeys {
    places: BTreeMap<String, usize>,
    hashes: Vec<Sha256>,
    /// Per row the place of its group.
    of_rows: Vec<usize>,
}

impl GroupKeys {
    /// Takes the next row: its `rollout_group`, and its [`commit_digest`], which callers may compute
    /// ahead and in any order.
    pub fn push(&mut self, rollout_group: &Scalar, commit_digest: &[u8; 32]) {
        let n_groups = self.hashes.len();
        let place = *self.places.entry(rollout_group.to_text()).or_insert(n_groups);
        if place == n_groups {
            self.hashes.push(Sha256::new());
        }
        self.hashes[place].update(commit_digest);
        self.of_rows.push(place);
    }

    /// Returns the groups' names and places, which count from 0 in the order of first rows.
    pub fn places(&self) -> &BTreeMap<String, usize> {
        &self.places
    }

    /// Returns for every row the place of its group.
    pub fn of_rows(&self) -> &[usize] {
        &self.of_rows
    }

    /// Returns the key of every group: SHA-256 over the digests of its commits in file order.
    pub fn digests(&self) -> Vec<[u8; 32]> {
        self.hashes.iter().map(|hash| hash.clone().finalize().into()).collect()
    }

    /// Returns the rows to check, in file order, see [`selection::rows_to_check`].
    pub fn rows_to_check(&self, hotkey: &str, randomness: &str) -> Vec<usize> {
        selection::rows_to_check(hotkey, randomness, &self.of_rows, &self.digests())
    }
}

/// Returns the rows of a file to check, in file order.
///
/// - `randomness`: the validator's own text.
pub fn rows_to_check(hotkey: &str, randomness: &str, rows: &[Row]) -> Vec<usize> {
    let mut keys = GroupKeys::default();
    for row in rows {
        keys.push(&row.rollout_group, &commit_digest(&row.commit));
    }
    keys.rows_to_check(hotkey, randomness)
}

/// Returns a commit's text; the keys of each dictionary are in the order of code points.
fn commit_text(commit: &Commit) -> Vec<u8> {
    // Tokens, log-probabilities and sketches with their punctuation, and a kilobyte of texts.
    let capacity = commit.commitments.as_str().len() + 30 * commit.tokens.len() + 1024;
    let mut text = String::with_capacity(capacity);
    let out = &mut text;
    out.push_str("{\"beacon\":");
    commit.beacon.write_canonical(out);
    out.push_str(",\"commitments\":");
    commit.commitments.write_canonical(out);
    out.push_str(",\"model\":{\"layer_index\":");
    write_scalar(out, &commit.layer_index);
    out.push_str(",\"name\":");
    write_scalar(out, &commit.model_name);
    out.push_str("},\"proof_version\":");
    write_scalar(out, &commit.proof_version);
    out.push_str(",\"rollout\":");
    write_rollout(out, &commit.rollout);
    out.push_str(",\"signature\":");
    write_scalar(out, &commit.signature);
    out.push_str(",\"tokens\":");
    let mut bytes = text.into_bytes();
    print_tokens(&commit.tokens, |piece| bytes.extend_from_slice(piece));
    bytes.push(b'}');
    bytes
}

fn write_rollout(out: &mut String, rollout: &RolloutFields) {
    out.push_str("{\"advantage\":");
    write_scalar(out, &rollout.advantage);
    out.push_str(",\"completion_length\":");
    write_scalar(out, &rollout.completion_length);
    out.push_str(",\"prompt_length\":");
    write_scalar(out, &rollout.prompt_length);
    out.push_str(",\"success\":");
    write_scalar(out, &rollout.success);
    out.push_str(",\"token_logprobs\":[");
    for (position, &logprob) in rollout.token_logprobs.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        write_any_float(out, logprob);
    }
    out.push_str("],\"total_reward\":");
    write_scalar(out, &rollout.total_reward);
    out.push('}');
}

fn write_scalar(out: &mut String, cell: &Scalar) {
    match cell {
        Scalar::Float(float) => write_any_float(out, *float),
        _ => out.push_str(&to_json(&cell.to_value(), Keys::Sorted)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::v5::completion;
    use crate::v5::file::JsonText;

    fn scalar() -> impl Strategy<Value = Scalar> {
        prop_oneof![
            Just(Scalar::Null),
            any::<bool>().prop_map(Scalar::from),
            any::<i64>().prop_map(Scalar::from),
            any::<f64>().prop_map(Scalar::from),
            any::<String>().prop_map(Scalar::from),
        ]
    }

    fn json_text() -> impl Strategy<Value = JsonText> {
        prop_oneof![
            prop::collection::vec(any::<i32>().prop_map(i64::from), 0..5)
                .prop_map(|sketches| JsonText::of_sketches(&sketches)),
            Just(JsonText::new(r#"{"randomness": "ab", "b": [1e400, "é"]}"#).unwrap()),
            Just(JsonText::new(r#"[{"x": 1, "sketch": 2}, 3]"#).unwrap()),
            Just(JsonText::null()),
        ]
    }

    prop_compose! {
        fn commit()(
            tokens in prop::collection::vec(any::<i32>(), 0..6),
            commitments in json_text(),
            beacon in json_text(),
            cells in prop::collection::vec(scalar(), 9),
            logprobs in prop::collection::vec(any::<f32>().prop_map(f64::from), 0..6),
            prompt in -8_i64..8,
        ) -> Commit {
            let mut cells = cells.into_iter();
            let mut next = || cells.next().unwrap();
            Commit {
                tokens,
                commitments,
                proof_version: next(),
                model_name: next(),
                layer_index: next(),
                signature: next(),
                beacon,
                rollout: RolloutFields {
                    total_reward: next(),
                    advantage: next(),
                    success: next(),
                    token_logprobs: logprobs,
                    prompt_length: if prompt < 0 { next() } else { prompt.into() },
                    completion_length: next(),
                },
            }
        }
    }

    proptest! {
        #[test]
        fn the_bytes_hashed_are_those_of_the_dictionary(commit in commit()) {
            let value = commit.to_value();
            let text = String::from_utf8(commit_text(&commit)).unwrap();
            prop_assert_eq!(&text, &to_json(&value, Keys::Sorted));
            let of_group: [u8; 32] = Sha256::digest(commit_digest(&commit)).into();
            prop_assert_eq!(selection::group_digest([&value]), of_group);

            let length = commit.rollout.prompt_length.to_value();
            let tokens = value.get("tokens").unwrap();
            let want = completion::completion_digest(tokens, Some(&length));
            prop_assert_eq!(completion_digest(&commit), want);
        }
    }

    #[test]
    fn groups_count_in_the_order_of_their_first_rows() {
        let mut keys = GroupKeys::default();
        for group in [7, 2, 7] {
            keys.push(&group.into(), &[0; 32]);
        }
        assert_eq!(keys.of_rows(), [0, 1, 0]);
        assert_eq!(keys.digests().len(), 2);
        assert_ne!(keys.digests()[0], keys.digests()[1]);
        assert_eq!(keys.rows_to_check("5Grw", "ab"), [0, 1, 2]);
    }
}
