//! The Merkle root of a rollout file: rollout → group → file, with the header in every leaf.
//!
//! A leaf alone says everything about its rollout (network, window, hotkey, checkpoint, prompt …),
//! so a leaf with its path can stand as evidence without the rest of the file.

use super::{FileHeader, Group, Proof, Rollout};
use crate::domain::{self, DomainHash};
use crate::ids::Digest;
use crate::merkle::merkle_root;

/// Returns the hash of a header.
pub fn header_digest(header: &FileHeader) -> Digest {
    DomainHash::new("header")
        .text(&header.network)
        .u32(header.netuid.0.into())
        .u64(header.window.start().0)
        .hotkey(&header.hotkey)
        .digest(&header.checkpoint)
        .text(&header.environment.id)
        .digest(&header.environment.params)
        .f32(header.sampler.temperature)
        .u32(header.sampler.max_new_tokens)
        .digest(&header.tokenizer)
        .text(&header.numerics)
        .u32(header.rollouts_per_group)
        .finish()
}

/// Returns the root of a file's content.
pub fn root(header: &FileHeader, groups: &[Group]) -> Digest {
    let header = header_digest(header);
    let nodes: Vec<Digest> = groups.iter().map(|group| group_node(&header, group)).collect();
    DomainHash::new("file")
        .digest(&header)
        .u64(nodes.len() as u64)
        .digest(&merkle_root(&nodes))
        .finish()
}

/// Returns the message that a miner signs.
pub fn signed_message(root: &Digest) -> Vec<u8> {
    [domain::prefix("signed-rollouts").as_slice(), &root.0].concat()
}

fn group_node(header: &Digest, group: &Group) -> Digest {
    let prompt = DomainHash::new("prompt").tokens(&group.prompt).finish();
    let leaves: Vec<Digest> = (0u64..)
        .zip(&group.rollouts)
        .map(|(index, rollout)| leaf(header, group.index, index, &prompt, rollout))
        .collect();
    DomainHash::new("group")
        .digest(header)
        .u32(group.index)
        .digest(&prompt)
        .u64(leaves.len() as u64)
        .digest(&merkle_root(&leaves))
        .finish()
}

fn leaf(header: &Digest, group: u32, index: u64, prompt: &Digest, rollout: &Rollout) -> Digest {
    let hash = DomainHash::new("rollout")
        .digest(header)
        .u32(group)
        .u64(index)
        .digest(prompt)
        .tokens(&rollout.tokens)
        .f32(rollout.reward)
        .u8(rollout.success.into());
    match &rollout.proof {
        Proof::Exact(digest) => hash.digest(digest),
        Proof::Tolerant(sketches) => {
            sketches.iter().fold(hash.u64(sketches.len() as u64), |hash, sketch| hash.u64(sketch.0))
        }
    }
    .finish()
}
