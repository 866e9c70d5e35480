//! Rebuilds the merges of a SentencePiece vocabulary, which a GGUF file has as scored pieces only.
//!
//! A byte-pair model made by SentencePiece scores each piece by how early it was made. Whichever two
//! pieces join to a third one may merge, the best-scored result first; that is how the published
//! `tokenizer.json` files of such models were made too. Runs of one character (spaces, line ends) are
//! pieces without a score: the published files grow them from the left, as long as possible.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Value, json};

use super::vocabulary::{NORMAL, USER_DEFINED};

/// The visible stand-in of a space, U+2581.
pub(super) const SPACE: &str = "\u{2581}";

/// The longest piece of Gemma's vocabulary has 93 bytes. Each byte costs a look-up.
const PIECE_BYTES_MAX: usize = 256;

/// Returns the pieces as `tokenizer.json` spells them: files write the spaces of a run as they are.
pub(super) fn pieces<'a>(tokens: &[&'a str], types: &[u64]) -> Vec<Cow<'a, str>> {
    let spell = |(token, kind): (&&'a str, &u64)| match *kind == USER_DEFINED && is_run(token) {
        true => Cow::Owned(token.replace(' ', SPACE)),
        false => Cow::Borrowed(*token),
    };
    tokens.iter().zip(types).map(spell).collect()
}

/// Returns every merge as `[left, right]`, first the one that applies first.
///
/// # Errors
/// A text that says which piece is too long.
pub(super) fn merges(
    pieces: &[Cow<'_, str>],
    types: &[u64],
    scores: &[f64],
) -> Result<Vec<Value>, String> {
    let ids: HashMap<&str, usize> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.as_ref(), id)).collect();
    let (mut runs, mut scored) = (Vec::new(), Vec::new());
    for (id, (piece, kind)) in pieces.iter().zip(types).enumerate() {
        if piece.len() > PIECE_BYTES_MAX {
            return Err(format!("token {id} has {} bytes", piece.len()));
        }
        let into = match *kind {
            NORMAL => &mut scored,
            USER_DEFINED if is_run(piece) => &mut runs,
            _ => continue,
        };
        let mut halves: Vec<(usize, usize)> = piece
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (left, right) = piece.split_at(at);
                Some((*ids.get(left)?, *ids.get(right)?))
            })
            .collect();
        halves.sort_unstable();
        into.extend(halves.into_iter().map(|(left, right)| (id, left, right)));
    }
    let len = |id: usize| pieces[id].len();
    runs.sort_by_key(|&(id, left, right)| (Reverse(len(left)), Reverse(len(right)), id));
    // Stable, so that equal scores stay in the order of their ids.
    scored.sort_by(|(left, ..), (right, ..)| scores[*right].total_cmp(&scores[*left]));
    let all = runs.into_iter().chain(scored);
    Ok(all.map(|(_, left, right)| json!([pieces[left], pieces[right]])).collect())
}

/// Whether all characters are the same and there are two or more.
fn is_run(piece: &str) -> bool {
    let mut characters = piece.chars();
    let first = characters.next();
    let mut rest = characters.peekable();
    rest.peek().is_some() && rest.all(|character| Some(character) == first)
}

/// Normaliser, pre-tokenizer and post-processor of the published Gemma files.
pub(super) fn gemma_rules(bos: &str, bos_id: u32) -> (Value, Value, Value) {
    let first = json!({"SpecialToken": {"id": bos, "type_id": 0}});
    let second = json!({"SpecialToken": {"id": bos, "type_id": 1}});
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    let b = json!({"Sequence": {"id": "B", "type_id": 1}});
    (
        json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}),
        json!({
            "type": "Split", "pattern": {"String": " "},
            "behavior": "MergedWithPrevious", "invert": false,
        }),
        json!({
            "type": "TemplateProcessing",
            "single": [&first, &a],
            "pair": [&first, &a, &second, &b],
            "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
        }),
    )
}

/// Decoder of the same files: bytes become characters again, stand-ins spaces.
pub(super) fn gemma_decoder() -> Value {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merges_of(vocabulary: &[(&str, u64, f64)]) -> Vec<String> {
        let tokens: Vec<&str> = vocabulary.iter().map(|entry| entry.0).collect();
        let types: Vec<u64> = vocabulary.iter().map(|entry| entry.1).collect();
        let scores: Vec<f64> = vocabulary.iter().map(|entry| entry.2).collect();
        let merges = merges(&pieces(&tokens, &types), &types, &scores).unwrap();
        merges.iter().map(|pair| format!("{} {}", pair[0], pair[1]).replace('"', "")).collect()
    }

    #[test]
    fn the_best_scored_result_merges_first() {
        let found = merges_of(&[
            ("a", NORMAL, -9.0),
            ("b", NORMAL, -9.0),
            ("abb", NORMAL, -2.0),
            ("ab", NORMAL, -1.0),
            ("bb", NORMAL, -3.0),
            ("<x>", 3, 0.0),
        ]);
        assert_eq!(found, ["a b", "a bb", "ab b", "b b"]);
    }

    #[test]
    fn runs_grow_from_the_left_and_come_before_all_else() {
        let found = merges_of(&[
            ("  ", USER_DEFINED, -1000.0),
            ("   ", USER_DEFINED, -1000.0),
            ("<table>", USER_DEFINED, -1000.0),
            ("\u{2581}", NORMAL, -9.0),
            ("a", NORMAL, -9.0),
            ("\u{2581}a", NORMAL, 0.0),
        ]);
        assert_eq!(found, ["▁▁ ▁", "▁ ▁▁", "▁ ▁", "▁ a"]);
    }

    #[test]
    fn a_piece_that_is_too_long_is_an_error() {
        let long = "a".repeat(PIECE_BYTES_MAX + 1);
        let error = merges(&[Cow::Borrowed(long.as_str())], &[NORMAL], &[0.0]).unwrap_err();
        assert!(error.contains("257 bytes"), "{error}");
    }
}
