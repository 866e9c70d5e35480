//! The bytes of a rollout file: exactly one byte string for each file, and every one bounded.
//!
//! ```text
//! file    = "GRAILROL" version:u16 seal:u8 root:32 signature:64 header groups
//! header  = network:name netuid:u16 window:u64 hotkey:32 checkpoint:32
//!           environment id:name environment params:32 temperature:f32 max_new_tokens:u32
//!           tokenizer:32 numerics:name rollouts_per_group:u32
//! groups  = count:u32 group*
//! group   = index:u32 prompt:tokens count:u32 rollout*
//! rollout = tokens reward:f32 success:u8 proof
//! proof   = hidden digest:32 if numerics is exact-1, else sketch:u64 * ceil(tokens / 4)
//! name    = length:u32 printable ASCII        tokens = count:u32 token:u32*
//! ```
//!
//! Integers are little-endian, floats are their bits and finite, seal is 0 (open), success is 0 or
//! 1, and nothing follows the last group.

use super::{EnvironmentFingerprint, FileHeader, Group, Proof, Rollout, RolloutFile, Seal};
use crate::codec::{DecodeError, EncodeError, Reader, Writer};
use crate::constants::{
    COMPLETION_TOKENS_MAX, GROUPS_PER_FILE_MAX, PROMPT_TOKENS_MAX, PROTOCOL_VERSION,
    ROLLOUT_FILE_BYTES_MAX, ROLLOUTS_PER_GROUP,
};
use crate::sampler::SamplerParams;
use crate::sketch::{Sketch, sketches_of};

/// First bytes of every rollout file.
pub const MAGIC: &[u8; 8] = b"GRAILROL";

const SEAL_OPEN: u8 = 0;

/// Bytes of a rollout without tokens and proof.
const ROLLOUT_BYTES_MIN: usize = 4 + 4 + 1;
/// Bytes of a group without prompt and rollouts.
const GROUP_BYTES_MIN: usize = 4 + 4 + 4;

impl RolloutFile {
    /// Returns the bytes of the file.
    ///
    /// # Errors
    /// When a reader would refuse them: a count, name or size beyond its bound, a reward that is
    /// not finite.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut writer = Writer::new();
        writer.magic(MAGIC, PROTOCOL_VERSION);
        match self.seal {
            Seal::Open => writer.raw(&[SEAL_OPEN]),
        }
        writer.raw(&self.root.0);
        writer.raw(&self.signature.0);
        write_header(&mut writer, &self.header)?;
        writer.count("groups", (0, GROUPS_PER_FILE_MAX), self.groups.len())?;
        for group in &self.groups {
            write_group(&mut writer, &self.header.numerics, group)?;
        }
        writer.finish(ROLLOUT_FILE_BYTES_MAX)
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// When they are not the one encoding of any file.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.magic("rollout file", MAGIC, PROTOCOL_VERSION)?;
        let at = reader.offset();
        let seal = match reader.u8("seal")? {
            SEAL_OPEN => Seal::Open,
            found => return Err(DecodeError::BadTag { what: "seal", at, found }),
        };
        let root = reader.digest("root")?;
        let signature = reader.signature("signature")?;
        let header = read_header(&mut reader)?;
        let count = reader.count("groups", (0, GROUPS_PER_FILE_MAX), GROUP_BYTES_MIN)?;
        let groups = (0..count)
            .map(|_| read_group(&mut reader, &header.numerics))
            .collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { seal, root, signature, header, groups })
    }
}

fn write_header(writer: &mut Writer, header: &FileHeader) -> Result<(), EncodeError> {
    writer.name("network", &header.network)?;
    writer.netuid(header.netuid);
    writer.window(header.window);
    writer.raw(&header.hotkey.0);
    writer.raw(&header.checkpoint.0);
    writer.name("environment id", &header.environment.id)?;
    writer.raw(&header.environment.params.0);
    writer.f32("temperature", header.sampler.temperature)?;
    writer.u32(header.sampler.max_new_tokens);
    writer.raw(&header.tokenizer.0);
    writer.name("numerics", &header.numerics)?;
    writer.u32(header.rollouts_per_group);
    Ok(())
}

fn read_header(reader: &mut Reader<'_>) -> Result<FileHeader, DecodeError> {
    Ok(FileHeader {
        network: reader.name("network")?,
        netuid: reader.netuid()?,
        window: reader.window()?,
        hotkey: reader.hotkey("hotkey")?,
        checkpoint: reader.digest("checkpoint")?,
        environment: EnvironmentFingerprint {
            id: reader.name("environment id")?,
            params: reader.digest("environment params")?,
        },
        sampler: SamplerParams {
            temperature: reader.f32("temperature")?,
            max_new_tokens: reader.u32("max_new_tokens")?,
        },
        tokenizer: reader.digest("tokenizer")?,
        numerics: reader.name("numerics")?,
        rollouts_per_group: reader.u32("rollouts_per_group")?,
    })
}

fn write_group(writer: &mut Writer, numerics: &str, group: &Group) -> Result<(), EncodeError> {
    writer.u32(group.index);
    writer.tokens("prompt tokens", PROMPT_TOKENS_MAX, &group.prompt)?;
    writer.count("rollouts", (0, ROLLOUTS_PER_GROUP), group.rollouts.len())?;
    for rollout in &group.rollouts {
        writer.tokens("completion tokens", COMPLETION_TOKENS_MAX, &rollout.tokens)?;
        writer.f32("reward", rollout.reward)?;
        writer.bool(rollout.success);
        write_proof(writer, numerics, rollout)?;
    }
    Ok(())
}

/// A proof of another kind than the header's could not be read back.
fn write_proof(writer: &mut Writer, numerics: &str, rollout: &Rollout) -> Result<(), EncodeError> {
    match &rollout.proof {
        Proof::Exact(digest) if Proof::is_exact(numerics) => writer.raw(&digest.0),
        Proof::Tolerant(sketches)
            if !Proof::is_exact(numerics)
                && sketches.len() == sketches_of(rollout.tokens.len()) =>
        {
            sketches.iter().for_each(|sketch| writer.u64(sketch.0));
        }
        _ => return Err(EncodeError::WrongProof),
    }
    Ok(())
}

fn read_group(reader: &mut Reader<'_>, numerics: &str) -> Result<Group, DecodeError> {
    let index = reader.u32("group index")?;
    let prompt = reader.tokens("prompt tokens", PROMPT_TOKENS_MAX)?;
    let count = reader.count("rollouts", (0, ROLLOUTS_PER_GROUP), ROLLOUT_BYTES_MIN)?;
    let rollouts = (0..count).map(|_| read_rollout(reader, numerics)).collect::<Result<_, _>>()?;
    Ok(Group { index, prompt, rollouts })
}

fn read_rollout(reader: &mut Reader<'_>, numerics: &str) -> Result<Rollout, DecodeError> {
    let tokens = reader.tokens("completion tokens", COMPLETION_TOKENS_MAX)?;
    let reward = reader.f32("reward")?;
    let success = reader.bool("success")?;
    let proof = if Proof::is_exact(numerics) {
        Proof::Exact(reader.digest("hidden digest")?)
    } else {
        let sketches = (0..sketches_of(tokens.len())).map(|_| reader.u64("sketch").map(Sketch));
        Proof::Tolerant(sketches.collect::<Result<_, _>>()?)
    };
    Ok(Rollout { tokens, reward, success, proof })
}
