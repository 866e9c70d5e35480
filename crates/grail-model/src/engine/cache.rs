//! Keys and values of past positions, in blocks of sixteen that sequences can share.

use grail_kernels::KvLayout;

use super::batch::Store;
use crate::arch::Shape;

/// Positions in a block: the lanes of a vector, so that a block's scores are one vector.
pub(crate) const BLOCK_POSITIONS: usize = grail_kernels::BLOCK;

/// Returns the blocks that hold `positions`.
pub(crate) fn blocks_for(positions: usize) -> usize {
    positions.div_ceil(BLOCK_POSITIONS)
}

/// Pools of key and value blocks. A block id means the same block in every layer.
#[derive(Debug)]
pub(crate) struct KvCache {
    layout: KvLayout,
    kv_size: usize,
    /// One (keys, values) pair a layer, or a single one that all layers take turns with.
    pools: Vec<(Vec<f32>, Vec<f32>)>,
    /// Whether later passes read it.
    is_kept: bool,
}

impl KvCache {
    /// Makes a cache that remembers `blocks` blocks of every layer.
    pub(crate) fn new(shape: &Shape, layers: usize, blocks: usize) -> Self {
        let layout = KvLayout { kv_heads: shape.kv_heads, head_dim: shape.head_dim };
        let values = blocks * layout.block_len();
        // Zeroed memory comes from the system untouched, so a block costs nothing before its use.
        let pools = (0..layers).map(|_| (vec![0.0; values], vec![0.0; values])).collect();
        Self { layout, kv_size: shape.kv_size(), pools, is_kept: true }
    }

    /// Makes a cache for passes that see all rows of a sequence at once: each layer overwrites the
    /// one before, so the memory does not grow with the depth.
    pub(crate) fn transient(shape: &Shape, blocks: usize) -> Self {
        Self { is_kept: false, ..Self::new(shape, 1, blocks) }
    }

    /// Returns whether later passes read what one has stored.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Returns the bytes that one block takes in `layers` layers.
    pub(crate) fn block_bytes(shape: &Shape, layers: usize) -> usize {
        2 * layers * BLOCK_POSITIONS * shape.kv_size() * size_of::<f32>()
    }

    /// Returns the key and value pools of a layer.
    pub(crate) fn layer(&self, layer_idx: usize) -> (&[f32], &[f32]) {
        let (keys, values) = &self.pools[layer_idx % self.pools.len()];
        (keys, values)
    }

    /// Stores rows of `k` and `v` (`[rows, kv_heads * head_dim]`), whose first is row `first_row`
    /// of the batch.
    pub(crate) fn store(
        &mut self,
        layer_idx: usize,
        stores: &[Store],
        first_row: usize,
        k: &[f32],
        v: &[f32],
    ) {
        let pool_idx = layer_idx % self.pools.len();
        let (keys, values) = &mut self.pools[pool_idx];
        for store in stores {
            let row = (store.row - first_row) * self.kv_size..;
            let (k_row, v_row) = (&k[row.clone()][..self.kv_size], &v[row][..self.kv_size]);
            self.layout.store(keys, values, store.block, store.slot, k_row, v_row);
        }
    }

    /// Copies block `from` to block `to` in every layer.
    pub(crate) fn copy_block(&mut self, from: u32, to: u32) {
        let len = self.layout.block_len();
        let (from, to) = (from as usize * len, to as usize * len);
        for (keys, values) in &mut self.pools {
            keys.copy_within(from..from + len, to);
            values.copy_within(from..from + len, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use grail_kernels::GateFunction;

    use super::*;
    use crate::arch::Runtime;

    #[test]
    fn a_copied_block_is_equal_in_every_layer() {
        let shape = Shape {
            hidden: 8,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            ffn: 4,
            eps: 1e-5,
            head_norms: false,
            branch_norms: false,
            gate: GateFunction::Silu,
            runtime: Runtime::Exact,
        };
        let mut cache = KvCache::new(&shape, 2, 2);
        let len = cache.layout.block_len();
        for layer_idx in 0..2 {
            let store = Store { row: 5, block: 0, slot: 3 };
            let (k, v) = ([1.0, 2.0, 3.0, layer_idx as f32], [5.0, 6.0, 7.0, 8.0]);
            cache.store(layer_idx, &[store], 5, &k, &v);
        }
        cache.copy_block(0, 1);
        for layer_idx in 0..2 {
            let (keys, values) = cache.layer(layer_idx);
            assert_eq!(keys[..len], keys[len..]);
            assert_eq!(values[..len], values[len..]);
            assert_eq!(keys.iter().sum::<f32>(), 2.0 * (6.0 + layer_idx as f32));
        }
    }
}
