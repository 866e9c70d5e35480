//! What a validator hands to the trainer: rollouts it checked, with its own rewards and
//! log-probabilities. Nothing that a miner claimed is in it.
//!
//! ```text
//! file    = "GRAILVAL" version:u16 signature:64 body
//! body    = network:name netuid:u16 window:u64 validator:32 checkpoint:32 count:u32 group*
//! group   = hotkey:32 index:u32 prompt:tokens rollout*16
//! rollout = tokens logprob:f32*count reward:f32 success:u8
//! ```
//!
//! The types are those of [the rollout file](crate::rollout::encoding); groups ascend by hotkey and
//! index. The signature covers the domain `signed-validated` and the SHA-256 of the body.

use crate::codec::{DecodeError, EncodeError, Reader, Writer};
use crate::constants::{
    COMPLETION_TOKENS_MAX, GROUPS_PER_VALIDATED_FILE_MAX, PROMPT_TOKENS_MAX, PROTOCOL_VERSION,
    ROLLOUTS_PER_GROUP, VALIDATED_FILE_BYTES_MAX,
};
use crate::domain;
use crate::ids::{Digest, Hotkey, Netuid, TokenId, Window};
use crate::prover::Sign;
use crate::signature::{self, BadSignature};

const MAGIC: &[u8; 8] = b"GRAILVAL";

/// Bytes of a rollout without tokens.
const ROLLOUT_BYTES_MIN: usize = 4 + 4 + 1;
/// Bytes of a group without tokens.
const GROUP_BYTES_MIN: usize = 32 + 4 + 4 + ROLLOUTS_PER_GROUP as usize * ROLLOUT_BYTES_MIN;

/// The rollouts of a window that a validator accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedFile {
    /// Name of the chain's network.
    pub network: String,
    /// The subnet.
    pub netuid: Netuid,
    /// The window.
    pub window: Window,
    /// Who checked and signed.
    pub validator: Hotkey,
    /// Digest of the checkpoint that the log-probabilities belong to.
    pub checkpoint: Digest,
    /// Groups, ascending by hotkey and index.
    pub groups: Vec<ValidatedGroup>,
}

/// One accepted group.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedGroup {
    /// The miner.
    pub hotkey: Hotkey,
    /// Index in the miner's file.
    pub index: u32,
    /// Tokens of the prompt.
    pub prompt: Vec<TokenId>,
    /// All rollouts of the group, in order.
    pub rollouts: Vec<ValidatedRollout>,
}

/// One accepted rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedRollout {
    /// Completion, with the end token if one was drawn.
    pub tokens: Vec<TokenId>,
    /// Log-probability of each token under the raw logits, nats, as recomputed.
    pub logprobs: Vec<f32>,
    /// Reward, as recomputed.
    pub reward: f32,
    /// Success, as recomputed.
    pub success: bool,
}

/// Why validated rollouts cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidatedError {
    /// The bytes are no such file.
    #[error("not a file of validated rollouts: {0}")]
    Malformed(#[from] DecodeError),
    /// Another validator's file, or a changed one.
    #[error("the validated rollouts are not the validator's: {0}")]
    BadSignature(#[from] BadSignature),
    /// The file names another validator than the owner of the bucket.
    #[error("the file is that of validator {found}, expected {expected}; it was copied")]
    WrongValidator {
        /// Owner of the bucket.
        expected: Hotkey,
        /// Validator in the file.
        found: Hotkey,
    },
}

impl ValidatedFile {
    /// Returns the bytes of the file; `sign` must use the validator's secret key.
    ///
    /// # Errors
    /// When a reader would refuse them: a count, name or size beyond its bound, a float that is not
    /// finite, groups that do not ascend or lack rollouts.
    pub fn seal(&self, sign: &Sign<'_>) -> Result<Vec<u8>, EncodeError> {
        let head_bytes = (MAGIC.len() + 2 + 64) as u64;
        let body = self.body()?.finish(VALIDATED_FILE_BYTES_MAX - head_bytes)?;
        let mut writer = Writer::new();
        writer.magic(MAGIC, PROTOCOL_VERSION);
        writer.raw(&sign(&signed_message(&body)).0);
        writer.raw(&body);
        writer.finish(VALIDATED_FILE_BYTES_MAX)
    }

    /// Reads a file from the bucket of `validator` and verifies its signature.
    ///
    /// # Errors
    /// When it is not one that this validator sealed.
    pub fn open(bytes: &[u8], validator: Hotkey) -> Result<Self, ValidatedError> {
        let size = bytes.len() as u64;
        if size > VALIDATED_FILE_BYTES_MAX {
            let too_large = DecodeError::TooLarge { bytes: size, max: VALIDATED_FILE_BYTES_MAX };
            return Err(too_large.into());
        }
        let mut reader = Reader::new(bytes);
        reader.magic("file of validated rollouts", MAGIC, PROTOCOL_VERSION)?;
        let signature = reader.signature("signature")?;
        let body = reader.rest();
        // Before decoding: only what the validator signed is worth the memory.
        signature::verify(validator, &signed_message(body), &signature)?;
        let file = Self::read(body)?;
        if file.validator != validator {
            return Err(ValidatedError::WrongValidator {
                expected: validator,
                found: file.validator,
            });
        }
        Ok(file)
    }

    fn body(&self) -> Result<Writer, EncodeError> {
        let mut writer = Writer::new();
        writer.name("network", &self.network)?;
        writer.netuid(self.netuid);
        writer.window(self.window);
        writer.raw(&self.validator.0);
        writer.raw(&self.checkpoint.0);
        writer.count("groups", (0, GROUPS_PER_VALIDATED_FILE_MAX), self.groups.len())?;
        if let Some(position) = first_out_of_order(&self.groups) {
            return Err(EncodeError::NotAscending { what: "validated group", position });
        }
        for group in &self.groups {
            write_group(&mut writer, group)?;
        }
        Ok(writer)
    }

    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let network = reader.name("network")?;
        let netuid = reader.netuid()?;
        let window = reader.window()?;
        let validator = reader.hotkey("validator")?;
        let checkpoint = reader.digest("checkpoint")?;
        let count = reader.count("groups", (0, GROUPS_PER_VALIDATED_FILE_MAX), GROUP_BYTES_MIN)?;
        let groups = (0..count).map(|_| read_group(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        reader.finish()?;
        if let Some(position) = first_out_of_order(&groups) {
            return Err(DecodeError::NotAscending { what: "validated group", position });
        }
        Ok(Self { network, netuid, window, validator, checkpoint, groups })
    }
}

fn signed_message(body: &[u8]) -> Vec<u8> {
    [domain::prefix("signed-validated").as_slice(), &Digest::of(body).0].concat()
}

fn first_out_of_order(groups: &[ValidatedGroup]) -> Option<usize> {
    let place = |group: &ValidatedGroup| (group.hotkey, group.index);
    let ascends = |pair: &[ValidatedGroup]| place(&pair[0]) < place(&pair[1]);
    groups.windows(2).position(|pair| !ascends(pair)).map(|position| position + 1)
}

fn write_group(writer: &mut Writer, group: &ValidatedGroup) -> Result<(), EncodeError> {
    if group.rollouts.len() != ROLLOUTS_PER_GROUP as usize {
        return Err(EncodeError::BadCount {
            what: "rollouts",
            count: group.rollouts.len(),
            min: ROLLOUTS_PER_GROUP.into(),
            max: ROLLOUTS_PER_GROUP.into(),
        });
    }
    writer.raw(&group.hotkey.0);
    writer.u32(group.index);
    writer.tokens("prompt tokens", PROMPT_TOKENS_MAX, &group.prompt)?;
    for rollout in &group.rollouts {
        write_rollout(writer, rollout)?;
    }
    Ok(())
}

fn write_rollout(writer: &mut Writer, rollout: &ValidatedRollout) -> Result<(), EncodeError> {
    let ValidatedRollout { tokens, logprobs, reward, success } = rollout;
    if tokens.len() != logprobs.len() {
        let (found, expected) = (logprobs.len(), tokens.len());
        return Err(EncodeError::NotOnePerToken { what: "log-probabilities", found, expected });
    }
    writer.tokens("completion tokens", COMPLETION_TOKENS_MAX, tokens)?;
    for logprob in logprobs {
        writer.f32("log-probability", *logprob)?;
    }
    writer.f32("reward", *reward)?;
    writer.bool(*success);
    Ok(())
}

fn read_group(reader: &mut Reader<'_>) -> Result<ValidatedGroup, DecodeError> {
    let hotkey = reader.hotkey("hotkey")?;
    let index = reader.u32("group index")?;
    let prompt = reader.tokens("prompt tokens", PROMPT_TOKENS_MAX)?;
    let rollouts =
        (0..ROLLOUTS_PER_GROUP).map(|_| read_rollout(reader)).collect::<Result<_, _>>()?;
    Ok(ValidatedGroup { hotkey, index, prompt, rollouts })
}

fn read_rollout(reader: &mut Reader<'_>) -> Result<ValidatedRollout, DecodeError> {
    let tokens = reader.tokens("completion tokens", COMPLETION_TOKENS_MAX)?;
    let logprobs =
        tokens.iter().map(|_| reader.f32("log-probability")).collect::<Result<_, _>>()?;
    let reward = reader.f32("reward")?;
    let success = reader.bool("success")?;
    Ok(ValidatedRollout { tokens, logprobs, reward, success })
}
