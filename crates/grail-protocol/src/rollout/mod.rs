//! The one record of what a miner did in a window: every role reads this and nothing else.
//!
//! A file is a header, groups, and one signature over a Merkle root of all of it; see [`encoding`]
//! for the bytes and [`commitment`] for the root. Root, signature and header are public at once; the
//! groups are sealed to the beacon round of the deadline ([`timelock`](crate::timelock)). A file
//! passes through stages, each a type that proves a check: [`RawRollouts`] (size) →
//! [`DecodedFile`] (frame) → [`VouchedFile`] (the root is signed) → [`OpenedFile`] (the groups are
//! readable) → [`SignedFile`] (they have that root); the verifier goes on from there.

pub mod commitment;
pub mod encoding;
mod stages;

use std::fmt;

pub use stages::{
    DecodedFile, OpenFault, OpenedFile, RawRollouts, SignedFile, UnsignedContent, VouchedFile,
};

use crate::constants::NUMERICS_EXACT;
use crate::domain::DomainHash;
use crate::ids::{Digest, Hotkey, Netuid, Signature, TokenId, Window};
use crate::randomness::WindowRandomness;
use crate::sampler::{RaceKey, RaceKeyInputs, SamplerParams, race_key};
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

/// The work in a file: for everybody to read, or sealed until the deadline.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// The groups.
    Open(Vec<Group>),
    /// The groups, sealed.
    Sealed(SealedBody),
}

/// Groups that open with a round of the beacon.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedBody {
    /// The round whose signature opens it.
    pub round: u64,
    /// What [`timelock::seal`](crate::timelock::seal) makes of the encoded groups.
    pub ciphertext: Vec<u8>,
}

impl fmt::Debug for SealedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedBody(round {}, {} bytes)", self.round, self.ciphertext.len())
    }
}

/// A file as its bytes say; nothing is checked but that they are a canonical encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutFile {
    /// The root that the miner signed; of the groups as they are when opened.
    pub root: Digest,
    /// Signature of the header's hotkey over the root.
    pub signature: Signature,
    /// What the file is about.
    pub header: FileHeader,
    /// The work.
    pub body: Body,
}
