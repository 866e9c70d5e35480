//! How a block of the key-value cache is laid out.

use crate::simd::LANES;

/// Positions per block: the sixteen scores of a block are one vector.
pub const BLOCK: usize = LANES;

/// The layout of one layer's key and value pools: blocks of sixteen positions.
///
/// Block `b` is at `b * block_len()` in both pools. Its keys are `[kv_heads][head_dim][16]`
/// (positions innermost), its values `[kv_heads][16][head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key-value heads.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
}

impl KvLayout {
    /// Length of a block in one pool, in f32.
    pub fn block_len(&self) -> usize {
        self.kv_heads * self.head_dim * BLOCK
    }

    /// Stores the key and value of one position, `[kv_heads * head_dim]` each.
    ///
    /// `slot` is the position modulo 16.
    ///
    /// # Panics
    /// If `slot` is not below 16, a row has another length, or the block is outside a pool.
    pub fn store(
        &self,
        k_pool: &mut [f32],
        v_pool: &mut [f32],
        block: u32,
        slot: usize,
        k_row: &[f32],
        v_row: &[f32],
    ) {
        let width = self.kv_heads * self.head_dim;
        assert!(slot < BLOCK, "kv store: slot {slot} is not below {BLOCK}");
        assert!(
            k_row.len() == width && v_row.len() == width,
            "kv store: rows must have {width} values"
        );
        let start = block as usize * self.block_len();
        let keys = &mut k_pool[start..][..self.block_len()];
        for (index, &key) in k_row.iter().enumerate() {
            keys[index * BLOCK + slot] = key;
        }
        let values = &mut v_pool[start..][..self.block_len()];
        let heads = values.chunks_exact_mut(self.head_dim * BLOCK);
        for (head, row) in heads.zip(v_row.chunks_exact(self.head_dim)) {
            head[slot * self.head_dim..][..self.head_dim].copy_from_slice(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_lands_where_the_layout_says() {
        let layout = KvLayout { kv_heads: 2, head_dim: 3 };
        let (mut k_pool, mut v_pool) = (vec![0.0; 192], vec![0.0; 192]);
        let row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        layout.store(&mut k_pool, &mut v_pool, 1, 5, &row, &row.map(|x| -x));
        for head in 0..2 {
            for d in 0..3 {
                let value = row[head * 3 + d];
                assert_eq!(k_pool[96 + (head * 3 + d) * 16 + 5], value);
                assert_eq!(v_pool[96 + head * 48 + 5 * 3 + d], -value);
            }
        }
        assert_eq!(k_pool.iter().chain(&v_pool).filter(|&&x| x != 0.0).count(), 12);
    }
}
