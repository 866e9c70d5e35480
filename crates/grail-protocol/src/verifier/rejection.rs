//! Why a file earns nothing: every reason is the miner's doing and carries its evidence.

use std::fmt;

use crate::codec::DecodeError;
use crate::ids::{Digest, TokenId};
use crate::rollout::UnsignedContent;
use crate::timelock::OpenError;

/// A field of the header that binds a file to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeaderField {
    /// Name of the network.
    Network,
    /// The subnet.
    Netuid,
    /// The window.
    Window,
    /// The miner.
    Hotkey,
    /// The model.
    Checkpoint,
    /// The environment and its parameters.
    Environment,
    /// Temperature and token limit.
    Sampler,
    /// The tokenizer.
    Tokenizer,
    /// Numeric contract and engine.
    Numerics,
    /// Rollouts in each group.
    GroupSize,
}

/// How a completion fails to end where it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminationFault {
    /// Tokens follow an end token.
    GoesOn {
        /// Position of the end token in the completion, 0-based.
        end: usize,
    },
    /// Neither an end token nor the full length.
    StopsEarly,
    /// More tokens than the limit.
    TooLong,
}

/// A number over a whole rollout that the tolerant profile decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statistic {
    /// Standard score of the sketch distances' sum.
    SketchSum,
    /// Standard score of the clipped margins' sum.
    MarginSum,
    /// Tokens above the soft margin.
    SoftHits,
}

/// Why a file is refused. It voids the whole file, since one signature covers the file.
///
/// All but the [statistical](Rejection::is_statistical) reasons are deterministic: honest work never
/// meets them. Evidence over many windows has its own type, with the service that gathers it.
#[derive(Clone, Debug, PartialEq)]
pub enum Rejection {
    /// The bytes are no rollout file.
    Malformed(DecodeError),
    /// The body is no encoding of groups.
    MalformedGroups(DecodeError),
    /// The body is sealed to another round than the window's, or not where it must be.
    WrongSeal {
        /// Round that it must be sealed to; `None` if it must be open.
        expected: Option<u64>,
        /// Round that it is sealed to; `None` if it is open.
        found: Option<u64>,
    },
    /// The body does not open although the round's signature is out.
    SealBroken(OpenError),
    /// The file belongs elsewhere.
    HeaderMismatch {
        /// The field that differs.
        field: HeaderField,
        /// What the verifier expects.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// The content is not what its miner signed.
    Unsigned(UnsignedContent),
    /// The group at a position does not have that index: indices are `0..n`, none left out.
    GroupsNotContiguous {
        /// Position in the file, 0-based.
        position: u32,
        /// Index that the group claims.
        found: u32,
    },
    /// A group does not have all of its rollouts.
    WrongGroupSize {
        /// The group.
        group: u32,
        /// Rollouts that it must have.
        expected: u32,
        /// Rollouts that it has.
        found: usize,
    },
    /// A token that the model does not know.
    UnknownToken {
        /// The group.
        group: u32,
        /// The rollout, or `None` for the prompt.
        rollout: Option<u32>,
        /// Position in the prompt or completion, 0-based.
        position: usize,
        /// The token.
        token: TokenId,
        /// Number of tokens that the model knows.
        vocab_size: u32,
    },
    /// Prompt and completion exceed what the model can attend to.
    SequenceTooLong {
        /// The group.
        group: u32,
        /// The rollout.
        rollout: u32,
        /// Tokens of prompt and completion.
        tokens: usize,
        /// Most tokens.
        max: u32,
    },
    /// A completion does not end where the race ends it.
    BadTermination {
        /// The group.
        group: u32,
        /// The rollout.
        rollout: u32,
        /// What is wrong.
        fault: TerminationFault,
        /// Tokens of the completion.
        tokens: usize,
        /// Token limit.
        max_new_tokens: u32,
    },
    /// The prompt is not the one of this miner's problem.
    PromptMismatch {
        /// The group.
        group: u32,
        /// First position that differs, 0-based.
        position: usize,
        /// Token of the right prompt there, or `None` past its end.
        expected: Option<TokenId>,
        /// Token of the file there, or `None` past its end.
        found: Option<TokenId>,
    },
    /// The hidden states are not those of the checkpoint.
    HiddenStateMismatch {
        /// The group.
        group: u32,
        /// The rollout.
        rollout: u32,
        /// Digest that the verifier computed.
        expected: Digest,
        /// Digest in the file.
        found: Digest,
    },
    /// A token did not win its race: it was not sampled as published.
    RaceLost {
        /// The group.
        group: u32,
        /// The rollout.
        rollout: u32,
        /// Position in the completion, 0-based.
        position: usize,
        /// Token in the file.
        claimed: TokenId,
        /// Token that wins.
        winner: TokenId,
        /// How much worse the claimed token is, nats.
        margin: f32,
    },
    /// Tolerant profile: a token loses its race by more than honest rounding explains.
    MarginVeto {
        /// The group.
        group: u32,
        /// The rollout.
        rollout: u32,
        /// First such position in the completion, 0-based.
        position: usize,
        /// Token in the file.
        claimed: TokenId,
        /// Token that wins under the verifier's logits.
        winner: TokenId,
        /// How much worse the claimed token is, nats.
        margin: f32,
        /// Most that the calibration allows, nats.
        max: f64,
    },
    /// Tolerant profile: a sum over the rollout is larger than honest ones ever are.
    EvidenceExceeded {
        /// The group.
        group: u32,
        /// The rollout.
        rollout: u32,
        /// What was summed.
        statistic: Statistic,
        /// What it comes to.
        measured: f64,
        /// Most that the calibration allows.
        threshold: f64,
    },
    /// The claimed reward or success is not what the answer is worth.
    RewardMismatch {
        /// The group.
        group: u32,
        /// The rollout.
        rollout: u32,
        /// Reward in the file.
        claimed_reward: f32,
        /// Success in the file.
        claimed_success: bool,
        /// Reward that the verifier computed.
        reward: f32,
        /// Success that the verifier computed.
        success: bool,
    },
}

impl HeaderField {
    /// Returns the field as a rejection code and a person's name for it.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Network => ("network_mismatch", "network"),
            Self::Netuid => ("netuid_mismatch", "netuid"),
            Self::Window => ("window_mismatch", "window"),
            Self::Hotkey => ("hotkey_mismatch", "hotkey"),
            Self::Checkpoint => ("checkpoint_mismatch", "checkpoint"),
            Self::Environment => ("environment_mismatch", "environment"),
            Self::Sampler => ("sampler_mismatch", "sampler"),
            Self::Tokenizer => ("tokenizer_mismatch", "tokenizer"),
            Self::Numerics => ("numerics_mismatch", "numeric contract"),
            Self::GroupSize => ("group_size_mismatch", "group size"),
        }
    }
}

impl Rejection {
    /// Returns whether the reason is a number of the tolerant profile that honest work never showed,
    /// and not a rule that honest work cannot break.
    pub fn is_statistical(&self) -> bool {
        matches!(self, Self::MarginVeto { .. } | Self::EvidenceExceeded { .. })
    }

    /// Returns the stable name of the reason, for metrics and reports.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::MalformedGroups(_) => "malformed",
            Self::WrongSeal { .. } => "wrong_seal",
            Self::SealBroken(_) => "seal_broken",
            Self::HeaderMismatch { field, .. } => field.names().0,
            Self::Unsigned(UnsignedContent::RootMismatch { .. }) => "root_mismatch",
            Self::Unsigned(UnsignedContent::BadSignature(_)) => "bad_signature",
            Self::GroupsNotContiguous { .. } => "groups_not_contiguous",
            Self::WrongGroupSize { .. } => "wrong_group_size",
            Self::UnknownToken { .. } => "unknown_token",
            Self::SequenceTooLong { .. } => "sequence_too_long",
            Self::BadTermination { .. } => "bad_termination",
            Self::PromptMismatch { .. } => "prompt_mismatch",
            Self::HiddenStateMismatch { .. } => "hidden_state_mismatch",
            Self::RaceLost { .. } => "race_lost",
            Self::MarginVeto { .. } => "margin_veto",
            Self::EvidenceExceeded { statistic, .. } => match statistic {
                Statistic::SketchSum => "sketch_sum_exceeded",
                Statistic::MarginSum => "margin_sum_exceeded",
                Statistic::SoftHits => "soft_hits_exceeded",
            },
            Self::RewardMismatch { .. } => "reward_mismatch",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "not a rollout file: {error}"),
            Self::MalformedGroups(error) => {
                write!(
                    f,
                    "the body is no encoding of groups (offsets count from its start): {error}"
                )
            }
            Self::WrongSeal { expected, found } => {
                write!(f, "{}, expected {}", SealedTo(*found), SealedTo(*expected))
            }
            Self::SealBroken(error) => write!(f, "the sealed body does not open: {error}"),
            Self::HeaderMismatch { field, expected, found } => {
                write!(f, "made for {} {found}, expected {expected}", field.names().1)
            }
            Self::Unsigned(error) => error.fmt(f),
            Self::GroupsNotContiguous { position, found } => {
                write!(f, "group {found} at position {position}: groups must be 0, 1, 2 and so on")
            }
            Self::WrongGroupSize { group, expected, found } => {
                write!(f, "group {group} has {found} rollouts, expected {expected}")
            }
            Self::UnknownToken { group, rollout, position, token, vocab_size } => {
                write!(f, "group {group}, ")?;
                match rollout {
                    Some(rollout) => write!(f, "rollout {rollout}")?,
                    None => f.write_str("prompt")?,
                }
                write!(f, ": token {token} at position {position} is not below {vocab_size}")
            }
            Self::SequenceTooLong { group, rollout, tokens, max } => {
                write!(
                    f,
                    "group {group}, rollout {rollout}: {tokens} tokens, at most {max} allowed"
                )
            }
            Self::BadTermination { group, rollout, fault, tokens, max_new_tokens } => {
                write!(f, "group {group}, rollout {rollout}: {tokens} tokens, ")?;
                match fault {
                    TerminationFault::GoesOn { end } => {
                        write!(f, "but the end token at position {end} ends it")
                    }
                    TerminationFault::StopsEarly => {
                        write!(f, "without an end token there must be {max_new_tokens}")
                    }
                    TerminationFault::TooLong => write!(f, "at most {max_new_tokens} allowed"),
                }
            }
            Self::PromptMismatch { group, position, expected, found } => write!(
                f,
                "group {group}: the prompt is not this miner's (at position {position} {}, \
                 expected {})",
                OrEnd(*found),
                OrEnd(*expected)
            ),
            Self::HiddenStateMismatch { group, rollout, expected, found } => write!(
                f,
                "group {group}, rollout {rollout}: hidden states hash to {found}, the checkpoint's \
                 to {expected}: other weights, precision or tokens"
            ),
            Self::RaceLost { group, rollout, position, claimed, winner, margin } => write!(
                f,
                "group {group}, rollout {rollout}: token {claimed} at position {position} was not \
                 sampled: token {winner} wins by {margin} nats"
            ),
            Self::MarginVeto { group, rollout, position, claimed, winner, margin, max } => write!(
                f,
                "group {group}, rollout {rollout}: token {claimed} at position {position} was not \
                 sampled: token {winner} wins by {margin} nats, honest rounding explains {max}"
            ),
            Self::EvidenceExceeded { group, rollout, statistic, measured, threshold } => {
                write!(f, "group {group}, rollout {rollout}: ")?;
                match statistic {
                    Statistic::SketchSum => write!(
                        f,
                        "hidden states are {measured:.2} deviations from the checkpoint's, at most \
                         {threshold} allowed: other weights, precision or tokens"
                    ),
                    Statistic::MarginSum => write!(
                        f,
                        "race margins add up to {measured:.2} deviations, at most {threshold} \
                         allowed: another sampler or other weights"
                    ),
                    Statistic::SoftHits => write!(
                        f,
                        "{measured} tokens lose their races clearly, at most {threshold} allowed"
                    ),
                }
            }
            Self::RewardMismatch {
                group,
                rollout,
                claimed_reward,
                claimed_success,
                reward,
                success,
            } => write!(
                f,
                "group {group}, rollout {rollout}: claims reward {claimed_reward} (success \
                 {claimed_success}), is worth {reward} (success {success})"
            ),
        }
    }
}

/// Shows a round that something is sealed to, or that it is open.
struct SealedTo(Option<u64>);

impl fmt::Display for SealedTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(round) => write!(f, "sealed to beacon round {round}"),
            None => f.write_str("not sealed"),
        }
    }
}

/// Shows a token, or that there is none.
struct OrEnd(Option<TokenId>);

impl fmt::Display for OrEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(token) => write!(f, "token {token}"),
            None => f.write_str("the end"),
        }
    }
}
