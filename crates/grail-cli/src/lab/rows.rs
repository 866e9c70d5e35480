//! The rows of the table: every honest variation and every attack, and how each must end.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which proof a miner makes, and which rules it is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Proof v6 of an exact engine: equality.
    Exact,
    /// Proof v6 of any other engine, here bf16: calibrated thresholds.
    Tolerant,
    /// The published proof v5, for comparison.
    V5,
}

impl Profile {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Tolerant, Self::V5];

    /// Returns the name, as on the command line and in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Tolerant => "tolerant",
            Self::V5 => "v5",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|profile| profile.name() == text);
        found.ok_or_else(|| format!("`{text}` is no profile; use exact, tolerant or v5"))
    }
}

/// What a row does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// Mines by the rules, in one way or another.
    Honest(Honest),
    /// Honest tokens, another proof.
    Proof(ProofForgery),
    /// Other weights behind the published digest.
    Weights(Variant),
    /// Tokens of other weights, with a proof by the published ones.
    CheapTokens(Variant),
    /// The published weights, another way to choose tokens.
    Sampling(Sampler),
    /// Tokens changed after sampling, with a proof computed for what came out.
    Edit(Edit),
    /// Another engine that claims to be exact.
    FalseExact,
    /// Other log-probabilities than the engine's, in formats that carry any.
    Logprobs,
    /// A forged file; judged as bytes.
    File(FileForgery),
    /// Chooses the direction of near ties among this many variants of each rollout.
    Grind(u32),
    /// Nothing to forge in this format, or nothing that one machine can run.
    Documented,
}

/// A way to mine honestly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Honest {
    /// Decodes in large batches; the verifier recomputes in one pass.
    Decode,
    /// Takes its proofs from one pass over the finished text.
    Prefill,
    /// Decodes three sequences at once.
    BatchSize,
    /// Computes with another number of threads.
    Threads,
    /// Computes with another instruction set.
    InstructionSet,
    /// Takes the proofs of two rollouts from the portable kernels.
    Portable,
}

/// Another proof than the one that the engine captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofForgery {
    /// Zeros.
    Constant,
    /// Random bits; in v5, random values of honest size.
    Random,
    /// Real values at other positions, or of other rollouts of the group.
    Shuffled,
    /// The proof of an earlier window.
    Replayed,
    /// All bits set; in v5, 10^18.
    OutOfRange,
}

/// Weights that are not the published ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Variant {
    /// Half of the layers.
    Smaller,
    /// Fine-tuned on other problems.
    FineTuned,
    /// Rounded to this many bits.
    Bits(u32),
    /// Each weight times one plus this many thousandths of a normal draw.
    Noise,
    /// This many optimiser steps away.
    Stale(u32),
}

/// A way to choose tokens that is not the published one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// Races with keys of its own.
    Free,
    /// The likeliest token.
    Greedy,
    /// The published temperature times this.
    Temperature(f32),
    /// Only the likeliest tokens of this mass.
    TopP(f32),
    /// The best rewarded of this many samples.
    BestOf(u32),
}

/// A change to tokens that were sampled honestly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// One digit of the last number.
    AnswerToken,
    /// One digit before the last number.
    ArithmeticToken,
    /// A sentence in the middle.
    Sentence,
    /// The known answer instead of a sampled one.
    Prefilled,
    /// Half of the completion and an end token.
    EarlyEnd,
    /// Other tokens in place of the end token, up to the limit.
    NoEnd,
    /// The group's first rollout in place of every other.
    Duplicate,
}

/// A forgery of the file around the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileForgery {
    /// Half of each completion, without an end token.
    Truncated,
    /// More tokens behind the end token.
    Padded,
    /// Answers to problems of its own choice.
    WrongPrompt,
    /// Another miner's groups.
    CopiedGroups,
    /// A group left out.
    SkippedGroup,
    /// A rollout left out.
    SkippedRollout,
    /// The full reward for every answer.
    Reward,
    /// Success for every answer.
    Success,
    /// A reward that is not a number.
    RewardNotFinite,
    /// A file signed and bound to another hotkey.
    Hotkey,
    /// A file of another window.
    Window,
    /// Randomness of its own choice.
    Beacon,
    /// Root and sealed body of another miner's file.
    CopiedSeal,
    /// Sealed to a later round.
    WrongRound,
    /// Not sealed.
    OpenBody,
    /// A sealed body with a bit changed.
    BrokenSeal,
    /// Content changed after it was signed.
    ChangedAfterSigning,
    /// A signature by another key.
    Signature,
    /// Bytes that are no file.
    Garbage,
}

/// How a row must end under a profile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// Honest: nothing is rejected.
    Accepted,
    /// Every counted rollout is rejected, for one of these reasons.
    Rejected(&'static [&'static str]),
    /// Rejected for one of these reasons where it is seen at all; the share is the finding.
    Gap(&'static [&'static str], &'static str),
    /// Not run, and why.
    NotRun(&'static str),
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Stable name, kebab-case.
    pub id: &'static str,
    /// What the miner does, for a person.
    pub what: &'static str,
    /// What is run.
    pub act: Act,
    /// How it must end in the exact profile.
    pub exact: Ending,
    /// How it must end in the tolerant profile.
    pub tolerant: Ending,
    /// How it ends under proof v5.
    pub v5: Ending,
}

impl Row {
    /// Returns how the row must end under `profile`.
    pub fn ending(&self, profile: Profile) -> Ending {
        match profile {
            Profile::Exact => self.exact,
            Profile::Tolerant => self.tolerant,
            Profile::V5 => self.v5,
        }
    }

    /// Returns whether an honest miner is behind it.
    pub fn is_honest(&self) -> bool {
        matches!(self.act, Act::Honest(_)) || self.exact == Ending::Accepted
    }

    /// Returns whether the row is run under `profile`.
    pub fn runs(&self, profile: Profile) -> bool {
        !matches!(self.ending(profile), Ending::NotRun(_))
    }
}

/// Returns the row with this id.
pub fn find(id: &str) -> Option<&'static Row> {
    ALL.iter().find(|row| row.id == id)
}

const HIDDEN: &[&str] = &["hidden_state_mismatch"];
const RACE: &[&str] = &["race_lost"];
/// Whatever the tolerant checks of tokens and states say.
const EVIDENCE: &[&str] =
    &["margin_veto", "soft_hits_exceeded", "margin_sum_exceeded", "sketch_sum_exceeded"];
const TOKENS: &[&str] = &["margin_veto", "soft_hits_exceeded", "margin_sum_exceeded"];
const SKETCH: &[&str] = &["sketch_sum_exceeded"];
const V5: &[&str] = &["v5_sketch", "v5_logprobs", "v5_termination"];
/// Of rows that are about the v6 file alone.
const NOT_V5: Ending = Ending::NotRun("about the v6 file");
const LOOSE: &str = "v5 accepts any sketch within 6,000 of a value that rarely exceeds 5,000";
const UNBOUND: &str = "v5 ties tokens to no sampler";
const HIDES: &str = "hides in bf16 rounding; only the exact profile sees it";
const SHORT: &str = "a short rollout may hold too few tokens to decide; evidence adds up";

const AS_ABOVE: Ending = Ending::NotRun("as with 4 variants");

const fn exact_only(id: &'static str, what: &'static str, honest: Honest) -> Row {
    let (exact, tolerant) =
        (Ending::Accepted, Ending::NotRun("a property of the exact engine alone"));
    Row { id, what, act: Act::Honest(honest), exact, tolerant, v5: Ending::NotRun("as honest") }
}

const fn honest(id: &'static str, what: &'static str, honest: Honest) -> Row {
    let (exact, tolerant) = (Ending::Accepted, Ending::Accepted);
    Row { id, what, act: Act::Honest(honest), exact, tolerant, v5: Ending::NotRun("as honest") }
}

const fn proof(id: &'static str, what: &'static str, forgery: ProofForgery, v5: Ending) -> Row {
    let (exact, tolerant) = (Ending::Rejected(HIDDEN), Ending::Rejected(SKETCH));
    Row { id, what, act: Act::Proof(forgery), exact, tolerant, v5 }
}

const fn weights(id: &'static str, what: &'static str, variant: Variant, gap: &'static str) -> Row {
    Row {
        id,
        what,
        act: Act::Weights(variant),
        exact: Ending::Rejected(HIDDEN),
        tolerant: Ending::Gap(EVIDENCE, gap),
        v5: Ending::Gap(V5, LOOSE),
    }
}

const fn sampling(id: &'static str, what: &'static str, sampler: Sampler) -> Row {
    Row {
        id,
        what,
        act: Act::Sampling(sampler),
        exact: Ending::Rejected(RACE),
        tolerant: Ending::Gap(TOKENS, SHORT),
        v5: Ending::Gap(V5, UNBOUND),
    }
}

const fn edit(id: &'static str, what: &'static str, edit: Edit) -> Row {
    Row {
        id,
        what,
        act: Act::Edit(edit),
        exact: Ending::Rejected(RACE),
        tolerant: Ending::Gap(TOKENS, "an edit to a token that nearly won is not seen"),
        v5: Ending::Gap(V5, UNBOUND),
    }
}

const fn file(
    id: &'static str,
    what: &'static str,
    forgery: FileForgery,
    codes: &'static [&'static str],
) -> Row {
    let ending = Ending::Rejected(codes);
    Row { id, what, act: Act::File(forgery), exact: ending, tolerant: ending, v5: NOT_V5 }
}

const fn grind(id: &'static str, what: &'static str, variants: u32) -> Row {
    Row {
        id,
        what,
        act: Act::Grind(variants),
        exact: Ending::Rejected(RACE),
        tolerant: Ending::Gap(TOKENS, "ties below the noise of bf16 go either way"),
        v5: Ending::NotRun(UNBOUND),
    }
}

/// Every row, in the order of the table.
pub const ALL: &[Row] = &[
    Row {
        v5: Ending::Accepted,
        ..honest("honest", "decodes 64 at once; verified in one pass", Honest::Decode)
    },
    honest("honest-prefill", "takes its proof from one pass over the text", Honest::Prefill),
    honest("honest-batch-size", "decodes 3 at once", Honest::BatchSize),
    honest("honest-threads", "another number of threads", Honest::Threads),
    honest(
        "honest-instruction-set",
        "another instruction set with vector registers",
        Honest::InstructionSet,
    ),
    exact_only(
        "honest-portable",
        "the proofs of 2 rollouts from the portable kernels",
        Honest::Portable,
    ),
    Row {
        id: "honest-other-machine",
        what: "another CPU architecture",
        act: Act::Documented,
        exact: Ending::NotRun(
            "one machine cannot show it: the test suite compares golden bits on any it runs on",
        ),
        tolerant: Ending::NotRun("the bf16 engine is as exact as the other"),
        v5: NOT_V5,
    },
    proof("proof-constant", "zeros", ProofForgery::Constant, Ending::Gap(V5, LOOSE)),
    proof("proof-random", "random values", ProofForgery::Random, Ending::Gap(V5, LOOSE)),
    proof(
        "proof-shuffled",
        "real values of other positions or rollouts",
        ProofForgery::Shuffled,
        Ending::Gap(V5, LOOSE),
    ),
    proof(
        "proof-replayed",
        "the proof of an earlier window",
        ProofForgery::Replayed,
        Ending::Gap(V5, LOOSE),
    ),
    proof(
        "proof-out-of-range",
        "all bits set; 10^18 in v5",
        ProofForgery::OutOfRange,
        Ending::Gap(V5, "v5 reduces no claimed value, and its distance wraps below 0"),
    ),
    weights("weights-smaller", "half of the layers", Variant::Smaller, SHORT),
    weights("weights-fine-tune", "fine-tuned on other problems", Variant::FineTuned, SHORT),
    weights("weights-int8", "weights rounded to 8 bits", Variant::Bits(8), HIDES),
    weights("weights-int4", "weights rounded to 4 bits", Variant::Bits(4), SHORT),
    weights("weights-int3", "weights rounded to 3 bits", Variant::Bits(3), SHORT),
    weights("weights-noise", "weights with 0.1 % of noise", Variant::Noise, HIDES),
    weights("stale-1", "1 optimiser step away", Variant::Stale(1), HIDES),
    weights("stale-3", "3 optimiser steps away", Variant::Stale(3), HIDES),
    weights("stale-10", "10 optimiser steps away", Variant::Stale(10), HIDES),
    weights("stale-30", "30 optimiser steps away", Variant::Stale(30), HIDES),
    Row {
        act: Act::CheapTokens(Variant::Bits(4)),
        ..sampling("cheap-tokens", "4-bit weights sample, the right ones prove", Sampler::Free)
    },
    sampling("free-sampling", "samples with keys of its own", Sampler::Free),
    sampling("greedy", "takes the likeliest token", Sampler::Greedy),
    sampling("temperature-0.9", "temperature times 0.9", Sampler::Temperature(0.9)),
    sampling("temperature-1.1", "temperature times 1.1", Sampler::Temperature(1.1)),
    sampling("top-p-0.95", "leaves out the least likely 5 %", Sampler::TopP(0.95)),
    sampling("best-of-n", "keeps the best rewarded of 4 samples", Sampler::BestOf(4)),
    edit("edited-answer", "another digit in the answer", Edit::AnswerToken),
    edit("edited-arithmetic", "another digit before the answer", Edit::ArithmeticToken),
    edit("inserted-sentence", "a sentence put into the middle", Edit::Sentence),
    edit("prefilled-answer", "the known answer, never sampled", Edit::Prefilled),
    edit("early-end", "an end token in the middle", Edit::EarlyEnd),
    edit("suppressed-end", "goes on where the end token won", Edit::NoEnd),
    edit("copied-rollout", "one rollout for the whole group", Edit::Duplicate),
    file(
        "truncated",
        "stops early without an end token",
        FileForgery::Truncated,
        &["bad_termination"],
    ),
    file("padded", "tokens after the end token", FileForgery::Padded, &["bad_termination"]),
    file(
        "wrong-prompt",
        "answers problems of its own choice",
        FileForgery::WrongPrompt,
        &["prompt_mismatch"],
    ),
    file("copied-file", "another miner's groups", FileForgery::CopiedGroups, &["prompt_mismatch"]),
    file(
        "skipped-group",
        "leaves out a group",
        FileForgery::SkippedGroup,
        &["groups_not_contiguous"],
    ),
    file(
        "skipped-rollout",
        "leaves out a rollout",
        FileForgery::SkippedRollout,
        &["wrong_group_size"],
    ),
    file("forged-reward", "claims the full reward", FileForgery::Reward, &["reward_mismatch"]),
    file("forged-success", "claims success", FileForgery::Success, &["reward_mismatch"]),
    file(
        "reward-not-finite",
        "claims a reward of NaN",
        FileForgery::RewardNotFinite,
        &["malformed"],
    ),
    Row {
        id: "forged-logprob",
        what: "claims other log-probabilities",
        act: Act::Logprobs,
        exact: Ending::NotRun("not in the file: the verifier computes its own"),
        tolerant: Ending::NotRun("not in the file: the verifier computes its own"),
        v5: Ending::Gap(V5, "v5 decides on the median of 32 positions: 15 of them may be anything"),
    },
    file(
        "substituted-hotkey",
        "bound to another hotkey",
        FileForgery::Hotkey,
        &["hotkey_mismatch"],
    ),
    file(
        "substituted-window",
        "a file of another window",
        FileForgery::Window,
        &["window_mismatch"],
    ),
    file(
        "substituted-beacon",
        "randomness of its own choice",
        FileForgery::Beacon,
        &["prompt_mismatch"],
    ),
    Row {
        id: "false-exact",
        what: "a bf16 engine that claims exact-1",
        act: Act::FalseExact,
        exact: Ending::Rejected(HIDDEN),
        tolerant: Ending::NotRun("a claim to be exact is judged by the exact profile"),
        v5: NOT_V5,
    },
    file(
        "copied-seal",
        "a rival's root and sealed body",
        FileForgery::CopiedSeal,
        &["root_mismatch"],
    ),
    file("wrong-round", "sealed to a later beacon round", FileForgery::WrongRound, &["wrong_seal"]),
    file("open-body", "not sealed at all", FileForgery::OpenBody, &["wrong_seal"]),
    file(
        "broken-seal",
        "a bit of the sealed body changed",
        FileForgery::BrokenSeal,
        &["seal_broken"],
    ),
    file(
        "changed-after-signing",
        "content changed, same signature",
        FileForgery::ChangedAfterSigning,
        &["root_mismatch"],
    ),
    file("foreign-signature", "signed by another key", FileForgery::Signature, &["bad_signature"]),
    file("garbage", "bytes that are no file", FileForgery::Garbage, &["malformed"]),
    grind("near-tie-1", "one run at a temperature off by 0.1 %", 1),
    grind("near-tie-4", "the best of 4 near-tie variants", 4),
    Row { exact: AS_ABOVE, ..grind("near-tie-16", "the best of 16 near-tie variants", 16) },
    Row { exact: AS_ABOVE, ..grind("near-tie-64", "the best of 64 near-tie variants", 64) },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_distinct_and_kebab_case() {
        let ids: BTreeSet<&str> = ALL.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), ALL.len());
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        assert!(ids.iter().all(|id| id.chars().all(allowed)));
        assert_eq!(find("greedy").map(|row| row.act), Some(Act::Sampling(Sampler::Greedy)));
        assert!(find("bribery").is_none());
    }

    #[test]
    fn no_attack_on_the_exact_profile_may_end_as_a_gap() {
        for row in ALL {
            assert!(!matches!(row.exact, Ending::Gap(..)), "{}", row.id);
            assert_eq!(row.is_honest(), row.exact == Ending::Accepted, "{}", row.id);
        }
    }

    #[test]
    fn profiles_are_named_as_on_the_command_line() {
        for profile in Profile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
            assert_eq!(serde_json::to_value(profile).unwrap(), profile.name());
        }
        assert!("v7".parse::<Profile>().unwrap_err().contains("tolerant"));
    }
}
