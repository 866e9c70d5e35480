//! Numbers that all roles must share; none of them can be configured.
//!
//! Changing one makes a new protocol version: peers that disagree reject each other.

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
