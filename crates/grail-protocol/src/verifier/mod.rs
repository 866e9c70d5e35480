//! The validator's side of the proof: rules that decide, from facts that others computed.
//!
//! 1. [`check_structure`]: bytes and context to a [`StructuredFile`], without a model; the context
//!    has the round's signature that opens the file;
//! 2. [`choose_groups`](crate::sampling::choose_groups): which groups are recomputed;
//! 3. [`check_prompt`], then the verifier's model and environment, then [`check_group`] (or its
//!    parts, when the environment failed for some rollout).
//!
//! This is the exact profile: one mismatch is a proof of guilt. The tolerant profile (sums of race
//! margins and sketch distances against a calibration) will stand beside [`check_group`] and be
//! chosen by the header's `numerics`.

mod group;
mod rejection;
mod structure;

pub use group::{
    EvaluationFacts, GroupFacts, RolloutFacts, ScoreFacts, UnusableFacts, Verdict, check_group,
    check_hidden_states, check_prompt, check_race, check_reward,
};
pub use rejection::{HeaderField, Rejection, TerminationFault};
pub use structure::{
    ExpectedContext, ExpectedSeal, StructuredFile, check_opened, check_structure, open_file,
};
