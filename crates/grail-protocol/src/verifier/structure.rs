//! The checks that need no model: from bytes to a file that is worth recomputing.

use super::rejection::{HeaderField, Rejection, TerminationFault};
use crate::constants::ROLLOUTS_PER_GROUP;
use crate::ids::{Digest, TokenId};
use crate::rollout::{
    EnvironmentFingerprint, FileHeader, Group, OpenFault, OpenedFile, RawRollouts, Rollout,
    SignedFile,
};
use crate::sampler::SamplerParams;
use crate::timelock::RoundOpener;

/// What a verifier expects of a file, from the chain, the beacon, the checkpoint and its own model.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedContext {
    /// The header that an honest file of the bucket's owner has.
    pub header: FileHeader,
    /// How an honest file is sealed.
    pub seal: ExpectedSeal,
    /// Number of tokens that the model knows.
    pub vocab_size: u32,
    /// Tokens that end a completion.
    pub eos_token_ids: Vec<TokenId>,
    /// Most tokens of prompt and completion together.
    pub sequence_tokens_max: u32,
    /// Whether engines under other numeric contracts may have made the file: their sketches can be
    /// compared with ours, and another profile judges them.
    pub accepts_other_numerics: bool,
}

/// How an honest file is sealed.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpectedSeal {
    /// To this round of the beacon, whose signature is out. Before it is out, nothing can be decided:
    /// wait, and blame nobody.
    Round(RoundOpener),
    /// Not at all: laboratories and tests, or a file that its owner opened for an archive.
    Open,
}

impl ExpectedSeal {
    fn opener(&self) -> Option<&RoundOpener> {
        match self {
            Self::Round(opener) => Some(opener),
            Self::Open => None,
        }
    }
}

/// A signed file in its right place and form: groups `0..n`, each with all its rollouts, tokens that
/// the model knows, completions that end where they must.
#[derive(Clone, Debug, PartialEq)]
pub struct StructuredFile(SignedFile);

impl StructuredFile {
    /// Returns what the file is about.
    pub fn header(&self) -> &FileHeader {
        self.0.header()
    }

    /// Returns the groups; position and index are equal.
    pub fn groups(&self) -> &[Group] {
        self.0.groups()
    }

    /// Returns the signed root.
    pub fn root(&self) -> Digest {
        self.0.root()
    }

    /// Returns the number of rollouts.
    pub fn n_rollouts(&self) -> usize {
        self.groups().iter().map(|group| group.rollouts.len()).sum()
    }
}

/// Checks everything about a file that needs no model, cheap checks first: [`open_file`], then
/// [`check_opened`].
///
/// # Errors
/// The first violation, in that order.
pub fn check_structure(
    bytes: &[u8],
    expected: &ExpectedContext,
) -> Result<StructuredFile, Rejection> {
    check_opened(open_file(bytes, expected)?, expected)
}

/// Returns a file with readable groups: size, frame, header, seal's round, signature over the root,
/// then opening and decoding. Nothing is opened or decoded for a stranger.
///
/// # Errors
/// The first violation, in that order.
pub fn open_file(bytes: &[u8], expected: &ExpectedContext) -> Result<OpenedFile, Rejection> {
    let decoded =
        RawRollouts::new(bytes).and_then(RawRollouts::decode).map_err(Rejection::Malformed)?;
    check_header(decoded.header(), expected)?;
    let opener = expected.seal.opener();
    let (wanted, found) = (opener.map(RoundOpener::round), decoded.seal_round());
    if wanted != found {
        return Err(Rejection::WrongSeal { expected: wanted, found });
    }
    let vouched = decoded.verify_signature().map_err(|bad| Rejection::Unsigned(bad.into()))?;
    vouched.open(opener).map_err(|fault| match fault {
        OpenFault::Sealed { round } => {
            Rejection::WrongSeal { expected: wanted, found: Some(round) }
        }
        OpenFault::Seal(error) => Rejection::SealBroken(error),
        OpenFault::Content(error) => Rejection::MalformedGroups(error),
    })
}

/// Checks everything about the content that needs no model: root, contiguity, tokens, lengths,
/// termination.
///
/// # Errors
/// The first violation, in that order.
pub fn check_opened(
    opened: OpenedFile,
    expected: &ExpectedContext,
) -> Result<StructuredFile, Rejection> {
    let signed = opened.verify_root().map_err(Rejection::Unsigned)?;
    for (position, group) in (0u32..).zip(signed.groups()) {
        if group.index != position {
            return Err(Rejection::GroupsNotContiguous { position, found: group.index });
        }
        if group.rollouts.len() != ROLLOUTS_PER_GROUP as usize {
            return Err(Rejection::WrongGroupSize {
                group: position,
                expected: ROLLOUTS_PER_GROUP,
                found: group.rollouts.len(),
            });
        }
    }
    for group in signed.groups() {
        check_vocabulary(group.index, None, &group.prompt, expected.vocab_size)?;
        for (index, rollout) in (0u32..).zip(&group.rollouts) {
            check_vocabulary(group.index, Some(index), &rollout.tokens, expected.vocab_size)?;
            check_lengths(group, index, rollout, expected)?;
        }
    }
    Ok(StructuredFile(signed))
}

/// A field of a file's header beside the one that an honest file has, as texts that tell any two
/// values apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldComparison {
    /// The field.
    pub field: HeaderField,
    /// Value that it must have.
    pub expected: String,
    /// Value in the file.
    pub found: String,
    /// Whether the value in the file may stand there.
    pub holds: bool,
}

/// Compares every field of a header, in the order in which [`check_structure`] does.
pub fn compare_headers(found: &FileHeader, context: &ExpectedContext) -> Vec<FieldComparison> {
    let pairs = described(&context.header).into_iter().zip(described(found));
    pairs
        .map(|((field, expected), (_, found))| {
            let is_free = field == HeaderField::Numerics && context.accepts_other_numerics;
            FieldComparison { field, holds: is_free || expected == found, expected, found }
        })
        .collect()
}

fn check_header(found: &FileHeader, context: &ExpectedContext) -> Result<(), Rejection> {
    let mut fields = compare_headers(found, context).into_iter();
    match fields.find(|it| !it.holds) {
        None => Ok(()),
        Some(FieldComparison { field, expected, found, .. }) => {
            Err(Rejection::HeaderMismatch { field, expected, found })
        }
    }
}

/// Returns each field with a text that tells any two values apart.
fn described(header: &FileHeader) -> [(HeaderField, String); 10] {
    // Destructured, so that a new field cannot be forgotten here.
    let FileHeader {
        network,
        netuid,
        window,
        hotkey,
        checkpoint,
        environment: EnvironmentFingerprint { id, params },
        sampler: SamplerParams { temperature, max_new_tokens },
        tokenizer,
        numerics,
        rollouts_per_group,
    } = header;
    [
        (HeaderField::Network, network.clone()),
        (HeaderField::Netuid, netuid.to_string()),
        (HeaderField::Window, window.to_string()),
        (HeaderField::Hotkey, hotkey.to_string()),
        (HeaderField::Checkpoint, checkpoint.to_string()),
        (HeaderField::Environment, format!("{id} with parameters {params}")),
        // Shortest round-trip digits: equal texts are equal bits.
        (HeaderField::Sampler, format!("temperature {temperature}, {max_new_tokens} tokens")),
        (HeaderField::Tokenizer, tokenizer.to_string()),
        (HeaderField::Numerics, numerics.clone()),
        (HeaderField::GroupSize, rollouts_per_group.to_string()),
    ]
}

fn check_vocabulary(
    group: u32,
    rollout: Option<u32>,
    tokens: &[TokenId],
    vocab_size: u32,
) -> Result<(), Rejection> {
    match tokens.iter().position(|&token| token >= vocab_size) {
        None => Ok(()),
        Some(position) => Err(Rejection::UnknownToken {
            group,
            rollout,
            position,
            token: tokens[position],
            vocab_size,
        }),
    }
}

fn check_lengths(
    group: &Group,
    index: u32,
    rollout: &Rollout,
    expected: &ExpectedContext,
) -> Result<(), Rejection> {
    let max_new_tokens = expected.header.sampler.max_new_tokens;
    if let Some(fault) = termination_fault(rollout, max_new_tokens, &expected.eos_token_ids) {
        return Err(Rejection::BadTermination {
            group: group.index,
            rollout: index,
            fault,
            tokens: rollout.tokens.len(),
            max_new_tokens,
        });
    }
    let tokens = group.prompt.len() + rollout.tokens.len();
    if tokens > expected.sequence_tokens_max as usize {
        return Err(Rejection::SequenceTooLong {
            group: group.index,
            rollout: index,
            tokens,
            max: expected.sequence_tokens_max,
        });
    }
    Ok(())
}

/// The first end token that wins ends the completion; one without has exactly the full length.
fn termination_fault(
    rollout: &Rollout,
    max_new_tokens: u32,
    eos_token_ids: &[TokenId],
) -> Option<TerminationFault> {
    let (length, limit) = (rollout.tokens.len(), max_new_tokens as usize);
    if length > limit {
        return Some(TerminationFault::TooLong);
    }
    match rollout.tokens.iter().position(|token| eos_token_ids.contains(token)) {
        Some(end) if end + 1 < length => Some(TerminationFault::GoesOn { end }),
        None if length < limit => Some(TerminationFault::StopsEarly),
        _ => None,
    }
}
