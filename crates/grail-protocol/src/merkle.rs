//! Folds digests into one root: change, move, add or drop a leaf, and the root changes.
//!
//! The shape is that of RFC 6962: the left subtree holds the largest power of two of leaves that is
//! smaller than all. Leaves and nodes hash in different domains, so a node cannot pose as a leaf,
//! and no leaf is ever doubled to fill a level.

use crate::domain::DomainHash;
use crate::ids::Digest;

/// Returns the root over `leaves`, in order.
pub fn merkle_root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => DomainHash::new("merkle-empty").finish(),
        [leaf] => DomainHash::new("merkle-leaf").digest(leaf).finish(),
        _ => {
            // Half of the next power of two: below the length, at least half of it.
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            let (left, right) = (merkle_root(left), merkle_root(right));
            DomainHash::new("merkle-node").digest(&left).digest(&right).finish()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn leaves(count: u8) -> Vec<Digest> {
        (0..count).map(|byte| Digest([byte; 32])).collect()
    }

    fn leaf(of: Digest) -> Digest {
        DomainHash::new("merkle-leaf").digest(&of).finish()
    }

    fn node(left: Digest, right: Digest) -> Digest {
        DomainHash::new("merkle-node").digest(&left).digest(&right).finish()
    }

    #[test]
    fn the_tree_has_the_documented_shape() {
        let [a, b, c, d, e] = leaves(5)[..] else { panic!("five leaves") };
        let four = node(node(leaf(a), leaf(b)), node(leaf(c), leaf(d)));
        assert_eq!(merkle_root(&[a, b, c, d]), four);
        assert_eq!(merkle_root(&[a, b, c, d, e]), node(four, leaf(e)));
        assert_eq!(merkle_root(&[a, b, c]), node(node(leaf(a), leaf(b)), leaf(c)));
    }

    #[test]
    fn a_node_cannot_pose_as_a_leaf() {
        let [a, b, c, d] = leaves(4)[..] else { panic!("four leaves") };
        let inner = [node(leaf(a), leaf(b)), node(leaf(c), leaf(d))];
        assert_ne!(merkle_root(&inner), merkle_root(&[a, b, c, d]));
        assert_ne!(merkle_root(&[merkle_root(&[a, b])]), merkle_root(&[a, b]));
        // A doubled last leaf is another tree (as it is not in Bitcoin's).
        assert_ne!(merkle_root(&[a, b, c]), merkle_root(&[a, b, c, c]));
    }

    #[test]
    fn every_number_and_order_of_leaves_has_its_own_root() {
        let roots: BTreeSet<Digest> = (0..=40).map(|count| merkle_root(&leaves(count))).collect();
        assert_eq!(roots.len(), 41);
        let mut swapped = leaves(9);
        swapped.swap(3, 8);
        assert_ne!(merkle_root(&swapped), merkle_root(&leaves(9)));
    }
}
