//! The rows of one forward pass: which token, where it stands, what it may attend to.

use std::ops::Range;

use grail_kernels::AttentionRow;
use grail_protocol::ids::TokenId;

use super::cache::BLOCK_POSITIONS;

/// Where the key and value of a row go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) row: usize,
    pub(crate) block: u32,
    pub(crate) slot: usize,
}

/// Rows in an order in which each sees only rows before it (and what the cache holds already).
#[derive(Debug, Default)]
pub(crate) struct Batch<'a> {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) positions: Vec<u32>,
    pub(crate) rows: Vec<AttentionRow<'a>>,
    /// Ascending by row; a row may have several.
    stores: Vec<Store>,
}

impl<'a> Batch<'a> {
    /// Makes an empty batch with room for `rows`.
    pub(crate) fn with_capacity(rows: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(rows),
            positions: Vec::with_capacity(rows),
            rows: Vec::with_capacity(rows),
            stores: Vec::with_capacity(rows),
        }
    }

    /// Returns the number of rows.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Adds `token` at 0-based `position` of the sequence whose blocks are `table`, and returns its
    /// row. It attends to positions `0..=position`, and its key and value are stored there.
    pub(crate) fn push(&mut self, token: TokenId, position: usize, table: &'a [u32]) -> usize {
        let row = self.tokens.len();
        self.tokens.push(token);
        let at = u32::try_from(position).expect("a position is below 2^14");
        self.positions.push(at);
        self.rows.push(AttentionRow { blocks: table, context_len: at + 1 });
        self.store_also(position, table);
        row
    }

    /// Stores the last row's key and value at the same `position` of another sequence too.
    pub(crate) fn store_also(&mut self, position: usize, table: &[u32]) {
        let row = self.tokens.len() - 1;
        let (block, slot) = (table[position / BLOCK_POSITIONS], position % BLOCK_POSITIONS);
        self.stores.push(Store { row, block, slot });
    }

    /// Returns the stores of `rows`.
    pub(crate) fn stores_of(&self, rows: Range<usize>) -> &[Store] {
        let start = self.stores.partition_point(|store| store.row < rows.start);
        let end = self.stores.partition_point(|store| store.row < rows.end);
        &self.stores[start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_follow_the_block_tables() {
        let (first, second) = ([7, 3], [7, 5]);
        let mut batch = Batch::with_capacity(3);
        batch.push(10, 15, &first);
        batch.push(11, 16, &first);
        batch.store_also(16, &second);
        batch.push(12, 17, &second);
        assert_eq!(batch.positions, [15, 16, 17]);
        assert_eq!(batch.stores_of(0..1), [Store { row: 0, block: 7, slot: 15 }]);
        assert_eq!(
            batch.stores_of(1..3),
            [
                Store { row: 1, block: 3, slot: 0 },
                Store { row: 1, block: 5, slot: 0 },
                Store { row: 2, block: 5, slot: 1 },
            ]
        );
    }
}
