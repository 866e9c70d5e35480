//! Numbers that all roles must share; none of them can be configured.
//!
//! Changing one makes a new protocol version: peers that disagree reject each other.

use crate::ids::Uid;

/// Blocks in a window. Source: reference 0.0.60, `WINDOW_LENGTH`.
pub const WINDOW_BLOCKS: u64 = 30;

/// Rollouts in a GRPO group. Source: reference 0.0.60, `ROLLOUTS_PER_PROBLEM`.
pub const ROLLOUTS_PER_GROUP: u32 = 16;

/// Most tokens that a completion may have. Source: `MAX_NEW_TOKENS_PROTOCOL_CAP`.
pub const COMPLETION_TOKENS_MAX: u32 = 8192;

/// Most tokens that a prompt may have; bounds a verifier's memory.
pub const PROMPT_TOKENS_MAX: u32 = 8192;

/// Most groups in one rollout file; bounds a verifier's memory.
pub const GROUPS_PER_FILE_MAX: u32 = 1024;

/// Most bytes in one rollout file. Source: `MAX_ROLLOUT_FILE_SIZE_BYTES` (350 MiB).
pub const ROLLOUT_FILE_BYTES_MAX: u64 = 367_001_600;

/// Version of the proof and of every encoding in this crate.
pub const PROTOCOL_VERSION: u16 = 6;

/// Version of a rollout file's frame: 7 puts the seal behind the header.
///
/// The proof, the hashes and every other encoding stay those of [`PROTOCOL_VERSION`].
pub const ROLLOUT_FILE_VERSION: u16 = 7;

/// [`PROTOCOL_VERSION`] as checkpoint metadata spells it.
pub const PROTOCOL_NAME: &str = "v6";

/// Numeric contract of the exact profile: equal inputs give equal bits on every machine.
///
/// Other fingerprints belong to engines that a tolerant profile will judge; the exact profile
/// refuses them, since its proof is an equality test.
pub const NUMERICS_EXACT: &str = "exact-1";

/// Most bytes of a name on the wire: network, environment id, numerics fingerprint.
pub const NAME_BYTES_MAX: usize = 64;

/// Most bytes in one file of validated rollouts; bounds a trainer's memory.
pub const VALIDATED_FILE_BYTES_MAX: u64 = ROLLOUT_FILE_BYTES_MAX;

/// Most groups in one file of validated rollouts.
pub const GROUPS_PER_VALIDATED_FILE_MAX: u32 = 65_536;

/// Most bytes of a checkpoint's `metadata.json`.
pub const CHECKPOINT_METADATA_BYTES_MAX: u64 = 1 << 20;

/// Most bytes of a verdict.
pub const VERDICT_BYTES_MAX: u64 = 1 << 20;

/// Uid whose hotkey signs checkpoints. Source: reference 0.0.60, `TRAINER_UID`.
pub const TRAINER_UID: Uid = Uid(0);
