//! The validator's side of the proof: rules that decide, from facts that others computed.
//!
//! 1. [`check_structure`]: bytes and context to a [`StructuredFile`], without a model; the context
//!    has the round's signature that opens the file;
//! 2. [`choose_groups`](crate::sampling::choose_groups): which groups are recomputed;
//! 3. [`check_prompt`], then the verifier's model and environment, then [`check_group`] (or its
//!    parts, when the environment failed for some rollout).
//!
//! [`check_group`] is the exact profile, where one mismatch is a proof of guilt. The tolerant profile
//! stands beside it: [`sketch_distances`], then sums and margins against a
//! [calibration](crate::calibration). The header's `numerics` chooses.

mod group;
mod rejection;
mod structure;
mod tolerant;

pub use group::{
    EvaluationFacts, GroupFacts, RolloutFacts, ScoreFacts, UnusableFacts, Verdict, check_group,
    check_hidden_states, check_prompt, check_race, check_reward,
};
pub use rejection::{HeaderField, Rejection, Statistic, TerminationFault};
pub use structure::{
    ExpectedContext, ExpectedSeal, FieldComparison, StructuredFile, check_opened, check_structure,
    compare_headers, open_file,
};
pub use tolerant::{
    check_margin_sum, check_margin_veto, check_sketch_sum, check_soft_hits, sketch_distances,
};
