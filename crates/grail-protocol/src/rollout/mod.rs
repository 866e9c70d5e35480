//! The one record of what a miner did in a window: every role reads this and nothing else.
//!
//! A file is a header, groups, and one signature over a Merkle root of all of it; see [`encoding`]
//! for the bytes and [`commitment`] for the root. It passes through stages, each a type:
//! [`RawRollouts`] (size checked) → [`DecodedFile`] → [`SignedFile`] (root and signature checked);
//! the verifier goes on from there.

pub mod commitment;
pub mod encoding;

use crate::codec::DecodeError;
use crate::constants::{NUMERICS_EXACT, ROLLOUT_FILE_BYTES_MAX};
use crate::domain::DomainHash;
use crate::ids::{Digest, Hotkey, Netuid, Signature, TokenId, Window};
use crate::randomness::WindowRandomness;
use crate::sampler::{RaceKey, RaceKeyInputs, SamplerParams, race_key};
use crate::signature::{self, BadSignature};
use crate::sketch::Sketch;

/// Which environment, with which parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentFingerprint {
    /// Id that checkpoints carry, such as `arithmetic`.
    pub id: String,
    /// Hash of the parameters.
    pub params: Digest,
}

impl EnvironmentFingerprint {
    /// Takes the id and the parameters as canonical JSON (sorted keys, no white space).
    pub fn new(id: &str, params_json: &str) -> Self {
        let params = DomainHash::new("environment-params").text(params_json).finish();
        Self { id: id.to_owned(), params }
    }

    /// Returns the environment digest that race keys depend on.
    pub fn digest(&self) -> Digest {
        DomainHash::new("environment").text(&self.id).digest(&self.params).finish()
    }
}

/// What a whole file is about. Miner and validator each build it; they must be equal.
#[derive(Clone, Debug, PartialEq)]
pub struct FileHeader {
    /// Name of the chain's network, such as `local`.
    pub network: String,
    /// The subnet.
    pub netuid: Netuid,
    /// The window that was mined.
    pub window: Window,
    /// The miner; it owns the bucket and signs the file.
    pub hotkey: Hotkey,
    /// Digest of the checkpoint that generated.
    pub checkpoint: Digest,
    /// The environment that asked.
    pub environment: EnvironmentFingerprint,
    /// How tokens were chosen.
    pub sampler: SamplerParams,
    /// SHA-256 of `tokenizer.json`.
    pub tokenizer: Digest,
    /// Numeric contract and engine, such as `exact-1`.
    pub numerics: String,
    /// Rollouts in each group.
    pub rollouts_per_group: u32,
}

impl FileHeader {
    /// Returns the race key of a rollout (`group` and `rollout` 0-based) under this header.
    pub fn race_key(&self, randomness: WindowRandomness, group: u32, rollout: u32) -> RaceKey {
        race_key(&RaceKeyInputs {
            randomness,
            checkpoint: self.checkpoint,
            environment: self.environment.digest(),
            sampler: self.sampler.digest(),
            hotkey: self.hotkey,
            group,
            rollout,
        })
    }
}

/// One sampled answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// Completion, with the end token if one was drawn.
    pub tokens: Vec<TokenId>,
    /// Reward that the miner claims; finite. Only good for an early rejection.
    pub reward: f32,
    /// Success that the miner claims.
    pub success: bool,
    /// What ties the tokens to the weights; its kind follows from the header's `numerics`.
    pub proof: Proof,
}

/// What ties a completion to the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Of an engine under [`NUMERICS_EXACT`]: the
    /// [`HiddenStateDigest`](crate::digest::HiddenStateDigest) over the completion.
    Exact(Digest),
    /// Of any other engine: [sketches](crate::sketch), one for every
    /// [`STRIDE`](crate::sketch::STRIDE) tokens.
    Tolerant(Vec<Sketch>),
}

impl Proof {
    /// Returns the kind of a rollout's proof in a file whose header says `numerics`.
    pub fn is_exact(numerics: &str) -> bool {
        numerics == NUMERICS_EXACT
    }
}

/// The answers to one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Index in the window, 0-based; a file holds `0..n` in order.
    pub index: u32,
    /// Tokens of the prompt.
    pub prompt: Vec<TokenId>,
    /// Answers; the position is the rollout index.
    pub rollouts: Vec<Rollout>,
}

/// How the content of a file is closed until the deadline.
///
/// Timelock encryption to the beacon round of the deadline will be a second variant: root and
/// signature stand outside the content, so they can be public while the content is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// Everybody can read it at once.
    Open,
}

/// A file as its bytes say; nothing is checked but that they are a canonical encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutFile {
    /// How the content is closed.
    pub seal: Seal,
    /// The root that the miner signed.
    pub root: Digest,
    /// Signature of the header's hotkey over the root.
    pub signature: Signature,
    /// What the file is about.
    pub header: FileHeader,
    /// The work.
    pub groups: Vec<Group>,
}

/// Bytes of a size that is worth decoding.
#[derive(Clone, Copy, Debug)]
pub struct RawRollouts<'a>(&'a [u8]);

impl<'a> RawRollouts<'a> {
    /// Takes the bytes of an object.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] above [`ROLLOUT_FILE_BYTES_MAX`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        match bytes.len() as u64 {
            size if size > ROLLOUT_FILE_BYTES_MAX => {
                Err(DecodeError::TooLarge { bytes: size, max: ROLLOUT_FILE_BYTES_MAX })
            }
            _ => Ok(Self(bytes)),
        }
    }

    /// Decodes the file.
    ///
    /// # Errors
    /// When the bytes are not the one encoding of any file.
    pub fn decode(self) -> Result<DecodedFile, DecodeError> {
        RolloutFile::decode(self.0).map(DecodedFile)
    }
}

/// A file that was decoded; who made it is not known yet.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedFile(RolloutFile);

/// Why a file's content is not covered by its miner's signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsignedContent {
    /// The root in the file is not that of the content.
    #[error("the content has root {found}, the file says {claimed}; it was changed after signing")]
    RootMismatch {
        /// The root in the file.
        claimed: Digest,
        /// The root of the content.
        found: Digest,
    },
    /// The root is not signed by the header's hotkey.
    #[error(transparent)]
    BadSignature(#[from] BadSignature),
}

impl DecodedFile {
    /// Returns what the file says it is about.
    pub fn header(&self) -> &FileHeader {
        &self.0.header
    }

    /// Checks that the header's hotkey signed the whole content.
    ///
    /// # Errors
    /// When the content was changed, or signed by another key.
    pub fn verify_signature(self) -> Result<SignedFile, UnsignedContent> {
        let RolloutFile { root: claimed, signature, header, groups, .. } = self.0;
        let found = commitment::root(&header, &groups);
        if claimed != found {
            return Err(UnsignedContent::RootMismatch { claimed, found });
        }
        signature::verify(header.hotkey, &commitment::signed_message(&found), &signature)?;
        Ok(SignedFile { header, groups, root: found })
    }
}

/// A file whose whole content its hotkey signed.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedFile {
    header: FileHeader,
    groups: Vec<Group>,
    root: Digest,
}

impl SignedFile {
    /// Returns what the file is about.
    pub fn header(&self) -> &FileHeader {
        &self.header
    }

    /// Returns the groups, in the order of the file.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Returns the signed root.
    pub fn root(&self) -> Digest {
        self.root
    }
}
