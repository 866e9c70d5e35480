//! Cuts sequences into micro-batches of bounded size, rows packed end to end.

use std::ops::Range;

use grail_ports::model::TrainingSequence;
use grail_protocol::ids::TokenId;

/// Rows of some sequences, without padding. The last token of a sequence is predicted only, so it
/// has no row.
#[derive(Debug)]
pub(super) struct MicroBatch {
    pub(super) tokens: Vec<TokenId>,
    pub(super) positions: Vec<u32>,
    /// First row of each sequence, then the number of rows.
    pub(super) offsets: Vec<usize>,
    /// Completion tokens, sequence by sequence.
    pub(super) targets: Vec<Target>,
    /// The targets of each sequence.
    pub(super) target_ranges: Vec<Range<usize>>,
}

/// A token that the loss sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The row that predicts it.
    pub(super) row: usize,
    pub(super) token: TokenId,
}

impl MicroBatch {
    /// Packs `sequences`, each with a prompt and a completion.
    pub(super) fn new(sequences: &[TrainingSequence]) -> Self {
        let mut batch = Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            offsets: vec![0],
            targets: Vec::new(),
            target_ranges: Vec::with_capacity(sequences.len()),
        };
        for sequence in sequences {
            let first_row = batch.tokens.len();
            let inputs = &sequence.tokens[..sequence.tokens.len() - 1];
            batch.tokens.extend_from_slice(inputs);
            batch.positions.extend((0u32..).take(inputs.len()));
            batch.offsets.push(batch.tokens.len());
            let first_target = batch.targets.len();
            for position in sequence.prompt_len..sequence.tokens.len() {
                let row = first_row + position - 1;
                batch.targets.push(Target { row, token: sequence.tokens[position] });
            }
            batch.target_ranges.push(first_target..batch.targets.len());
        }
        batch
    }

    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        self.tokens.len()
    }
}

/// Cuts `sequences`, in order, into ranges of at most `rows_max` rows; a longer sequence has a
/// range of its own.
pub(super) fn plan(sequences: &[TrainingSequence], rows_max: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut rows) = (0, 0);
    for (idx, sequence) in sequences.iter().enumerate() {
        let more = sequence.tokens.len() - 1;
        if idx > start && rows + more > rows_max {
            ranges.push(start..idx);
            (start, rows) = (idx, 0);
        }
        rows += more;
    }
    if start < sequences.len() {
        ranges.push(start..sequences.len());
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(tokens: &[TokenId], prompt_len: usize) -> TrainingSequence {
        TrainingSequence { tokens: tokens.to_vec(), prompt_len }
    }

    #[test]
    fn rows_are_packed_and_targets_point_at_what_predicts_them() {
        let batch = MicroBatch::new(&[sequence(&[5, 6, 7], 2), sequence(&[8, 9, 10], 1)]);
        assert_eq!(batch.tokens, [5, 6, 8, 9]);
        assert_eq!(batch.positions, [0, 1, 0, 1]);
        assert_eq!(batch.offsets, [0, 2, 4]);
        let target = |row, token| Target { row, token };
        assert_eq!(batch.targets, [target(1, 7), target(2, 9), target(3, 10)]);
        assert_eq!(batch.target_ranges, [0..1, 1..3]);
    }

    #[test]
    fn micro_batches_keep_the_order_and_the_budget() {
        let sequences: Vec<_> =
            [4, 3, 9, 2, 2].map(|len| sequence(&vec![1; len], 1)).into_iter().collect();
        // Rows: 3, 2, 8, 1, 1.
        assert_eq!(plan(&sequences, 5), [0..2, 2..3, 3..5]);
        assert_eq!(plan(&sequences, 1), [0..1, 1..2, 2..3, 3..4, 4..5]);
        assert_eq!(plan(&sequences, 100), vec![0..5]);
        assert!(plan(&[], 5).is_empty());
    }
}
