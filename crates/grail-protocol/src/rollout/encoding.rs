//! The bytes of a rollout file: exactly one byte string for each file, and every one bounded.
//!
//! ```text
//! file    = "GRAILROL" version:u16 root:32 signature:64 header body
//! header  = network:name netuid:u16 window:u64 hotkey:32 checkpoint:32
//!           environment id:name environment params:32 temperature:f32 max_new_tokens:u32
//!           tokenizer:32 numerics:name rollouts_per_group:u32
//! body    = 0:u8 groups | 1:u8 round:u64 length:u32 ciphertext
//! groups  = count:u32 group*
//! group   = index:u32 prompt:tokens count:u32 rollout*
//! rollout = tokens reward:f32 success:u8 proof
//! proof   = hidden digest:32 if numerics is exact-1, else sketch:u64 * max(1, tokens / 4)
//! name    = length:u32 printable ASCII        tokens = count:u32 token:u32*
//! ```
//!
//! Integers are little-endian, floats are their bits and finite, success is 0 or 1, and nothing
//! follows the body. The ciphertext is [`timelock::seal`](crate::timelock::seal) of `groups`.

use super::{
    Body, EnvironmentFingerprint, FileHeader, Group, Proof, Rollout, RolloutFile, SealedBody,
};
use crate::codec::{DecodeError, EncodeError, Reader, Writer};
use crate::constants::{
    COMPLETION_TOKENS_MAX, GROUPS_PER_FILE_MAX, PROMPT_TOKENS_MAX, ROLLOUT_FILE_BYTES_MAX,
    ROLLOUT_FILE_VERSION, ROLLOUTS_PER_GROUP,
};
use crate::ids::{Digest, Signature};
use crate::sampler::SamplerParams;
use crate::sketch::{Sketch, sketches_of};
use crate::timelock::OVERHEAD_BYTES;

/// First bytes of every rollout file.
pub const MAGIC: &[u8; 8] = b"GRAILROL";

const BODY_OPEN: u8 = 0;
const BODY_SEALED: u8 = 1;

/// Bytes of no group at all, sealed.
const CIPHERTEXT_BYTES_MIN: usize = OVERHEAD_BYTES + 4;
/// Least and most bytes of a ciphertext, as counts.
#[expect(clippy::cast_possible_truncation, reason = "180 and 350 MiB fit into 32 bits")]
const CIPHERTEXT_BYTES: (u32, u32) = (CIPHERTEXT_BYTES_MIN as u32, ROLLOUT_FILE_BYTES_MAX as u32);

/// Bytes of a rollout without tokens and proof.
const ROLLOUT_BYTES_MIN: usize = 4 + 4 + 1;
/// Bytes of a group without prompt and rollouts.
const GROUP_BYTES_MIN: usize = 4 + 4 + 4;

/// A file whose body is not decoded yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame<'a> {
    /// The root in the file.
    pub root: Digest,
    /// Signature over the root.
    pub signature: Signature,
    /// What the file says it is about.
    pub header: FileHeader,
    /// The rest.
    pub body: RawBody<'a>,
}

/// A body as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawBody<'a> {
    /// Bytes that [`decode_groups`] reads.
    Open(&'a [u8]),
    /// Bytes that the round's signature opens.
    Sealed {
        /// The round.
        round: u64,
        /// The ciphertext.
        ciphertext: &'a [u8],
    },
}

impl<'a> Frame<'a> {
    /// Reads everything but the groups; takes the same time for a file of any size.
    ///
    /// # Errors
    /// When the bytes are not the frame of any file.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.magic("rollout file", MAGIC, ROLLOUT_FILE_VERSION)?;
        let root = reader.digest("root")?;
        let signature = reader.signature("signature")?;
        let header = read_header(&mut reader)?;
        let at = reader.offset();
        let body = match reader.u8("body")? {
            BODY_OPEN => RawBody::Open(reader.rest()),
            BODY_SEALED => {
                let round = reader.u64("seal round")?;
                let length = reader.count("sealed bytes", CIPHERTEXT_BYTES, 1)?;
                let ciphertext = reader.bytes("sealed bytes", length)?;
                reader.finish()?;
                RawBody::Sealed { round, ciphertext }
            }
            found => return Err(DecodeError::BadTag { what: "kind of body", at, found }),
        };
        Ok(Self { root, signature, header, body })
    }
}

impl RolloutFile {
    /// Returns the bytes of the file.
    ///
    /// # Errors
    /// When a reader would refuse them: a count, name or size beyond its bound, a reward that is
    /// not finite.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut writer = Writer::new();
        writer.magic(MAGIC, ROLLOUT_FILE_VERSION);
        writer.raw(&self.root.0);
        writer.raw(&self.signature.0);
        write_header(&mut writer, &self.header)?;
        match &self.body {
            Body::Open(groups) => {
                writer.raw(&[BODY_OPEN]);
                write_groups(&mut writer, &self.header.numerics, groups)?;
            }
            Body::Sealed(SealedBody { round, ciphertext }) => {
                writer.raw(&[BODY_SEALED]);
                writer.u64(*round);
                writer.count("sealed bytes", CIPHERTEXT_BYTES, ciphertext.len())?;
                writer.raw(ciphertext);
            }
        }
        writer.finish(ROLLOUT_FILE_BYTES_MAX)
    }

    /// Reads the bytes of a file; a sealed body stays sealed.
    ///
    /// # Errors
    /// When they are not the one encoding of any file.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Frame { root, signature, header, body } = Frame::decode(bytes)?;
        let body = match body {
            RawBody::Open(groups) => Body::Open(decode_groups(&header.numerics, groups)?),
            RawBody::Sealed { round, ciphertext } => {
                Body::Sealed(SealedBody { round, ciphertext: ciphertext.to_vec() })
            }
        };
        Ok(Self { root, signature, header, body })
    }
}

/// Returns the bytes of groups under a header with `numerics`: the content of a sealed body.
///
/// # Errors
/// When a reader would refuse them.
pub fn encode_groups(numerics: &str, groups: &[Group]) -> Result<Vec<u8>, EncodeError> {
    let mut writer = Writer::new();
    write_groups(&mut writer, numerics, groups)?;
    writer.finish(ROLLOUT_FILE_BYTES_MAX)
}

/// Reads the bytes of groups under a header with `numerics`.
///
/// # Errors
/// When they are not the one encoding of any groups.
pub fn decode_groups(numerics: &str, bytes: &[u8]) -> Result<Vec<Group>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let count = reader.count("groups", (0, GROUPS_PER_FILE_MAX), GROUP_BYTES_MIN)?;
    let groups = (0..count).map(|_| read_group(&mut reader, numerics)).collect::<Result<_, _>>()?;
    reader.finish()?;
    Ok(groups)
}

fn write_groups(writer: &mut Writer, numerics: &str, groups: &[Group]) -> Result<(), EncodeError> {
    writer.count("groups", (0, GROUPS_PER_FILE_MAX), groups.len())?;
    groups.iter().try_for_each(|group| write_group(writer, numerics, group))
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
