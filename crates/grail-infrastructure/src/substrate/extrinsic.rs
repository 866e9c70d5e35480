//! Signed extrinsics of version 4: written, read, verified.
//!
//! ```text
//! extrinsic = compact length, 0x84, 0x00 account:32, kind:1 signature:64, extra, call
//! signed    = call, extra, additional; hashed with BLAKE2b where it has more than 256 bytes
//! ```
//!
//! `extra` and `additional` are those of the runtime's transaction extensions, in its order. An
//! extension that is not known here passes while it adds nothing; else nothing is signed.

use ed25519_dalek::Verifier as _;
use grail_protocol::ids::{Hotkey, Signature};
use grail_protocol::signature;
use parity_scale_codec::{Compact, Encode as _};

use super::decode::{DecodeError, DecodeErrorKind, compact, decode_prefix, take_array};
use super::era::{Era, EraError};
use super::hash::blake2_256;
use super::metadata::{Extension, Metadata};

/// Longest payload that is signed as it is, bytes.
const PAYLOAD_BYTES_MAX: usize = 256;

/// Version bytes: signed, and without signature (inherents; blocks have them in either version).
const SIGNED: u8 = 0x84;
const BARE: [u8; 2] = [0x04, 0x05];

/// `MultiAddress::Id`.
const ADDRESS_ID: u8 = 0;

/// What every signature of a chain's extrinsics covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigningContext {
    /// Hash of the chain's first block.
    pub genesis: [u8; 32],
    /// Version of the runtime.
    pub spec_version: u32,
    /// Version of the extrinsics' format.
    pub transaction_version: u32,
}

/// What a signer chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedWith {
    /// Blocks that may carry the extrinsic.
    pub era: Era,
    /// Number of extrinsics of the account before this one.
    pub nonce: u64,
    /// Paid to the block's author, in the chain's smallest unit.
    pub tip: u128,
}

/// A signature with its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultiSignature {
    /// By an ed25519 key.
    Ed25519([u8; 64]),
    /// By an sr25519 key, in the context `substrate`.
    Sr25519([u8; 64]),
}

/// An extension that stands in the way of a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// The runtime wants something that this program does not know.
    #[error(
        "the runtime's transaction extension {0} is not known here and takes part in signatures; \
         update this program"
    )]
    Unknown(String),
    /// The extension has another form than it had.
    #[error("the runtime's transaction extension {name} does not take {what}; update this program")]
    Changed {
        /// Name of the extension.
        name: String,
        /// What it was given, and why it does not fit.
        what: String,
    },
}

/// Bytes that are no extrinsic which this program can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtrinsicError {
    /// The bytes end early, or more follow.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// A version byte that is not known here.
    #[error("an extrinsic of version byte {0:#04x}; 0x84, 0x04 and 0x05 are known")]
    Version(u8),
    /// The sender is not named by its account id.
    #[error("the sender is an address of kind {0}; only account ids (0) are known")]
    Address(u8),
    /// A signature that is neither ed25519 nor sr25519.
    #[error("a signature of kind {0}; only ed25519 (0) and sr25519 (1) are known")]
    SignatureKind(u8),
    /// An era that is none.
    #[error(transparent)]
    Era(#[from] EraError),
    /// An extension that is not known.
    #[error(transparent)]
    Extension(#[from] ExtensionError),
}

/// A signature that its account did not make for this extrinsic on this chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not that of the extrinsic's sender for this chain and runtime")]
pub struct BadExtrinsicSignature;

/// An extrinsic that waits for its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningPayload {
    call: Vec<u8>,
    extra: Vec<u8>,
    additional: Vec<u8>,
}

/// An extrinsic of a block or from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extrinsic {
    /// Without signature: the call.
    Bare(Vec<u8>),
    /// With one.
    Signed(SignedExtrinsic),
}

/// A signed extrinsic, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedExtrinsic {
    /// The sender.
    pub account: [u8; 32],
    /// Its signature.
    pub signature: MultiSignature,
    /// What it chose.
    pub with: SignedWith,
    /// The encoded call; see [`Metadata::decode_call`].
    pub call: Vec<u8>,
}

impl Metadata {
    /// Prepares a call for its signature. `birth_hash` is the hash of block [`Era::birth`], or of
    /// the first block for [`Era::Immortal`].
    ///
    /// # Errors
    /// When the runtime has an extension that is not known here and adds anything.
    pub fn signing_payload(
        &self,
        call: &[u8],
        with: SignedWith,
        context: &SigningContext,
        birth_hash: [u8; 32],
    ) -> Result<SigningPayload, ExtensionError> {
        let (mut extra, mut additional) = (Vec::new(), Vec::new());
        for extension in self.extensions() {
            let (own_extra, own_additional) = match extension.identifier.as_str() {
                "CheckSpecVersion" => (vec![], context.spec_version.encode()),
                "CheckTxVersion" => (vec![], context.transaction_version.encode()),
                "CheckGenesis" => (vec![], context.genesis.to_vec()),
                "CheckMortality" | "CheckEra" => (with.era.encode(), birth_hash.to_vec()),
                "CheckNonce" => (Compact(with.nonce).encode(), vec![]),
                "ChargeTransactionPayment" => (Compact(with.tip).encode(), vec![]),
                // Mode 0: the hash of the metadata is not signed, `None`.
                "CheckMetadataHash" => (vec![0], vec![0]),
                _ => (vec![], vec![]),
            };
            self.check_extension(extension, extension.extra, &own_extra)?;
            self.check_extension(extension, extension.additional, &own_additional)?;
            extra.extend(own_extra);
            additional.extend(own_additional);
        }
        Ok(SigningPayload { call: call.to_vec(), extra, additional })
    }

    /// Checks that an extension takes these bytes.
    fn check_extension(
        &self,
        extension: &Extension,
        ty: u32,
        bytes: &[u8],
    ) -> Result<(), ExtensionError> {
        let name = &extension.identifier;
        match self.read(ty, bytes, || format!("0x{}", hex::encode(bytes))) {
            Ok(_) => Ok(()),
            Err(_) if bytes.is_empty() => Err(ExtensionError::Unknown(name.clone())),
            Err(error) => {
                Err(ExtensionError::Changed { name: name.clone(), what: error.to_string() })
            }
        }
    }

    /// Reads an extrinsic with its length prefix.
    ///
    /// # Errors
    /// When the bytes are no extrinsic of this runtime that this program can read.
    pub fn decode_extrinsic(&self, bytes: &[u8]) -> Result<Extrinsic, ExtrinsicError> {
        let mut rest = bytes;
        let length = compact(&mut rest)?;
        if u128::try_from(rest.len()) != Ok(length) {
            return Err(DecodeErrorKind::Mismatch("its length is another").into());
        }
        let [version] = take_array(&mut rest)?;
        if BARE.contains(&version) {
            return Ok(Extrinsic::Bare(rest.to_vec()));
        }
        if version != SIGNED {
            return Err(ExtrinsicError::Version(version));
        }
        match take_array(&mut rest)? {
            [ADDRESS_ID] => {}
            [other] => return Err(ExtrinsicError::Address(other)),
        }
        let account = take_array(&mut rest)?;
        let signature = match take_array(&mut rest)? {
            [0] => MultiSignature::Ed25519(take_array(&mut rest)?),
            [1] => MultiSignature::Sr25519(take_array(&mut rest)?),
            [other] => return Err(ExtrinsicError::SignatureKind(other)),
        };
        let with = self.decode_extra(&mut rest)?;
        Ok(Extrinsic::Signed(SignedExtrinsic { account, signature, with, call: rest.to_vec() }))
    }

    /// Reads what the extensions put before the call.
    fn decode_extra(&self, rest: &mut &[u8]) -> Result<SignedWith, ExtrinsicError> {
        let mut with = SignedWith { era: Era::Immortal, nonce: 0, tip: 0 };
        for extension in self.extensions() {
            let name = extension.identifier.as_str();
            let reading = |kind: DecodeErrorKind| kind.reading(name);
            let start = *rest;
            decode_prefix(self.types(), extension.extra, rest).map_err(reading)?;
            let mut own = &start[..start.len() - rest.len()];
            match name {
                "CheckMortality" | "CheckEra" => {
                    with.era = Era::decode(&mut own).map_err(reading)??;
                }
                "CheckNonce" => {
                    let nonce = compact(&mut own).map_err(reading)?;
                    with.nonce = nonce.try_into().map_err(|_| reading(DecodeErrorKind::Compact))?;
                }
                "ChargeTransactionPayment" => with.tip = compact(&mut own).map_err(reading)?,
                // What would be signed with another mode is the hash of the metadata.
                "CheckMetadataHash" if own == [0] => own = &[],
                _ => {}
            }
            if !own.is_empty() {
                return Err(ExtensionError::Unknown(name.to_owned()).into());
            }
        }
        Ok(with)
    }
}

impl SigningPayload {
    /// Returns what the extensions put into the extrinsic.
    pub fn extra(&self) -> &[u8] {
        &self.extra
    }

    /// Returns what the extensions sign in addition.
    pub fn additional(&self) -> &[u8] {
        &self.additional
    }

    /// Returns the bytes that the sender signs.
    pub fn bytes_to_sign(&self) -> Vec<u8> {
        let payload = [self.call.as_slice(), &self.extra, &self.additional].concat();
        if payload.len() > PAYLOAD_BYTES_MAX { blake2_256(&payload).to_vec() } else { payload }
    }

    /// Returns the extrinsic, with its length prefix. Its hash is [`blake2_256`] of all its bytes.
    pub fn into_extrinsic(self, account: [u8; 32], signature: &MultiSignature) -> Vec<u8> {
        let mut body = vec![SIGNED, ADDRESS_ID];
        body.extend(account);
        let (kind, signature) = match signature {
            MultiSignature::Ed25519(signature) => (0, signature),
            MultiSignature::Sr25519(signature) => (1, signature),
        };
        body.push(kind);
        body.extend(signature);
        body.extend(self.extra);
        body.extend(self.call);
        body.encode()
    }
}

impl SignedExtrinsic {
    /// Checks that the sender signed this extrinsic for this chain and runtime, with the hash of
    /// the era's first block.
    ///
    /// # Errors
    /// When it did not, or the runtime has an extension that is not known here.
    pub fn verify(
        &self,
        metadata: &Metadata,
        context: &SigningContext,
        birth_hash: [u8; 32],
    ) -> Result<Result<(), BadExtrinsicSignature>, ExtensionError> {
        let payload = metadata.signing_payload(&self.call, self.with, context, birth_hash)?;
        let message = payload.bytes_to_sign();
        Ok(self.signature.verify(self.account, &message))
    }
}

impl MultiSignature {
    /// Checks that `account` signed `message`.
    ///
    /// # Errors
    /// When it did not.
    pub fn verify(&self, account: [u8; 32], message: &[u8]) -> Result<(), BadExtrinsicSignature> {
        let is_good = match self {
            Self::Sr25519(bytes) => {
                signature::verify(Hotkey(account), message, &Signature(*bytes)).is_ok()
            }
            Self::Ed25519(bytes) => {
                ed25519_dalek::VerifyingKey::from_bytes(&account).is_ok_and(|key| {
                    key.verify(message, &ed25519_dalek::Signature::from_bytes(bytes)).is_ok()
                })
            }
        };
        if is_good { Ok(()) } else { Err(BadExtrinsicSignature) }
    }
}

impl From<DecodeErrorKind> for ExtrinsicError {
    fn from(kind: DecodeErrorKind) -> Self {
        Self::Malformed(kind.reading("an extrinsic"))
    }
}
