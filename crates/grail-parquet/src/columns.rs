//! The columns of a rollout file, in the reference's order, and the part of a row that each holds.

use grail_protocol::v5::file::{JsonText, Row, Scalar};

/// What a column holds.
#[derive(Clone, Copy)]
pub enum Field {
    /// A value without parts.
    Cell {
        /// Type that a writer gives it.
        kind: Kind,
        /// Reads a row.
        of: fn(&Row) -> &Scalar,
        /// Fills a row.
        of_mut: fn(&mut Row) -> &mut Scalar,
    },
    /// JSON text.
    Json {
        /// What a file without the column has.
        default: &'static str,
        /// Reads a row.
        of: fn(&Row) -> &JsonText,
        /// Fills a row.
        of_mut: fn(&mut Row) -> &mut JsonText,
    },
    /// The tokens.
    Tokens,
    /// The log-probabilities.
    Logprobs,
}

/// Type of a cell that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Boolean.
    Bool,
    /// Integer of 32 bits.
    Int32,
    /// Integer of 64 bits.
    Int64,
    /// Float of 64 bits.
    Double,
    /// Text.
    Text,
}

macro_rules! cell {
    ($kind:ident, $($part:ident).+) => {
        Field::Cell {
            kind: Kind::$kind,
            of: |row| &row.$($part).+,
            of_mut: |row| &mut row.$($part).+,
        }
    };
}

macro_rules! json {
    ($default:literal, $($part:ident).+) => {
        Field::Json {
            default: $default,
            of: |row| &row.$($part).+,
            of_mut: |row| &mut row.$($part).+,
        }
    };
}

/// All columns: path, and what is there.
pub const COLUMNS: [(&str, Field); 27] = [
    ("window_start", cell!(Int64, window_start)),
    ("block", cell!(Int64, block)),
    ("nonce", cell!(Int64, nonce)),
    ("block_hash", cell!(Text, block_hash)),
    ("randomness", cell!(Text, randomness)),
    ("use_drand", cell!(Bool, use_drand)),
    ("rollout_group", cell!(Int64, rollout_group)),
    ("rollout_index", cell!(Int32, rollout_index)),
    ("total_in_group", cell!(Int32, total_in_group)),
    ("checkpoint_window", cell!(Int64, checkpoint_window)),
    ("commit.tokens", Field::Tokens),
    ("commit.commitments", json!("[]", commit.commitments)),
    ("commit.proof_version", cell!(Text, commit.proof_version)),
    ("commit.model.name", cell!(Text, commit.model_name)),
    ("commit.model.layer_index", cell!(Int32, commit.layer_index)),
    ("commit.signature", cell!(Text, commit.signature)),
    ("commit.beacon", json!("{}", commit.beacon)),
    ("commit.rollout.total_reward", cell!(Double, commit.rollout.total_reward)),
    ("commit.rollout.advantage", cell!(Double, commit.rollout.advantage)),
    ("commit.rollout.success", cell!(Bool, commit.rollout.success)),
    ("commit.rollout.token_logprobs", Field::Logprobs),
    ("commit.rollout.prompt_length", cell!(Int32, commit.rollout.prompt_length)),
    ("commit.rollout.completion_length", cell!(Int32, commit.rollout.completion_length)),
    ("timestamp", cell!(Double, timestamp)),
    ("challenge", cell!(Text, challenge)),
    ("hotkey", cell!(Text, hotkey)),
    ("signature", cell!(Text, signature)),
];

/// Place of `rollout_group` in [`COLUMNS`].
pub const ROLLOUT_GROUP: usize = 6;

/// The same as Parquet's schema, with every field nullable as in Arrow.
pub const SCHEMA: &str = "
message schema {
  optional int64 window_start;
  optional int64 block;
  optional int64 nonce;
  optional binary block_hash (STRING);
  optional binary randomness (STRING);
  optional boolean use_drand;
  optional int64 rollout_group;
  optional int32 rollout_index;
  optional int32 total_in_group;
  optional int64 checkpoint_window;
  optional group commit {
    optional group tokens (LIST) {
      repeated group list {
        optional int32 element;
      }
    }
    optional binary commitments (STRING);
    optional binary proof_version (STRING);
    optional group model {
      optional binary name (STRING);
      optional int32 layer_index;
    }
    optional binary signature (STRING);
    optional binary beacon (STRING);
    optional group rollout {
      optional double total_reward;
      optional double advantage;
      optional boolean success;
      optional group token_logprobs (LIST) {
        repeated group list {
          optional float element;
        }
      }
      optional int32 prompt_length;
      optional int32 completion_length;
    }
  }
  optional double timestamp;
  optional binary challenge (STRING);
  optional binary hotkey (STRING);
  optional binary signature (STRING);
}
";
