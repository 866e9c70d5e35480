//! The rollout file of the reference: one a miner and window, a row a rollout.
//!
//! The types here are what the reference's reader returns, so everything that a miner may have
//! written is in them as it stands; `grail-parquet` reads and writes the bytes.
//! Source: spec `rollout-file.md`, reference `parquet_io.py`.

mod digests;
mod footer;
mod inspect;
mod json_text;
mod package;
mod place;
mod scalar;
mod structure;
mod tokens;
mod view;

pub use digests::{GroupKeys, commit_digest, completion_digest, rows_to_check};
use footer::footer_float;
pub use footer::{BadFooter, FOOTER_KEYS};
pub use inspect::{RowBench, RowCheck, RowFault, inspect_row};
pub use json_text::{COMMITMENTS_BYTES_MAX, JsonText};
pub use package::BadPayload;
pub use place::{
    BYTES_MAX, BYTES_MIN, DEADLINE_MARGIN_SECONDS, DISCOVERY_BYTES_MAX, deadline, gzip_key,
    is_in_time, is_size_allowed, object_key,
};
pub use scalar::Scalar;
pub use structure::{
    Expected, ROLLOUTS_PER_GROUP, StructureCheck, StructureFault, check_structure,
};

/// Blocks of a window, which an honest footer states.
pub const WINDOW_LENGTH: i64 = 30;

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowFile {
    /// What the footer says.
    pub footer: Footer,
    /// Rollouts in file order.
    pub rows: Vec<Row>,
}

/// The texts of the footer. All but the wallet and the window are told and never checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Footer {
    /// SS58 address of the miner; empty when the file has none.
    pub wallet: String,
    /// First block of the window; 0 when the file does not say. Beyond 64 bits it is cut, and then
    /// is no window.
    pub window_start: i64,
    /// Blocks of the window.
    pub window_length: i64,
    /// Rows that the writer counted.
    pub inference_count: i64,
    /// When the file was written, Unix seconds.
    pub timestamp: f64,
}

/// One rollout. Cells hold whatever the miner wrote, see [`Scalar`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// First block of the window.
    pub window_start: Scalar,
    /// Head of the chain when the group was made; never checked.
    pub block: Scalar,
    /// 16 times the group plus the index in it; unique in a file.
    pub nonce: Scalar,
    /// Hash of the window's first block, with `0x`.
    pub block_hash: Scalar,
    /// The text of the beacon; never checked.
    pub randomness: Scalar,
    /// Whether drand was mixed in; never checked.
    pub use_drand: Scalar,
    /// The miner's problem in this window; the seed of the environment comes from it.
    pub rollout_group: Scalar,
    /// Place in the group; never checked.
    pub rollout_index: Scalar,
    /// Rollouts of the group; never checked.
    pub total_in_group: Scalar,
    /// Window of the checkpoint that the miner ran.
    pub checkpoint_window: Scalar,
    /// The rollout and its proof.
    pub commit: Commit,
    /// Unix seconds; never checked.
    pub timestamp: Scalar,
    /// Text of the row's signature, see [`super::envelope`].
    pub challenge: Scalar,
    /// SS58 address of who signed the row.
    pub hotkey: Scalar,
    /// Hexadecimal signature of the challenge.
    pub signature: Scalar,
}

/// A rollout's tokens and proof.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// Prompt, then completion.
    pub tokens: Vec<i32>,
    /// A list of one `{"sketch": integer}` per token, if the miner is honest.
    pub commitments: JsonText,
    /// `v5`, or `v4` with the same rules.
    pub proof_version: Scalar,
    /// Path or name of the miner's model; never compared.
    pub model_name: Scalar,
    /// -1, the last layer.
    pub layer_index: Scalar,
    /// Hexadecimal signature of the binding, see [`super::binding`].
    pub signature: Scalar,
    /// `{"randomness": "hexadecimal"}`, if the miner is honest.
    pub beacon: JsonText,
    /// What the rollout earned, by the miner.
    pub rollout: RolloutFields,
}

/// What the miner says about a rollout. None of it is signed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolloutFields {
    /// Reward.
    pub total_reward: Scalar,
    /// Advantage in its group.
    pub advantage: Scalar,
    /// Whether the problem was solved.
    pub success: Scalar,
    /// One log-probability per token, zeros for the prompt. A file has them in f32; they are widened.
    pub token_logprobs: Vec<f64>,
    /// Tokens of the prompt.
    pub prompt_length: Scalar,
    /// Tokens of the completion.
    pub completion_length: Scalar,
}
