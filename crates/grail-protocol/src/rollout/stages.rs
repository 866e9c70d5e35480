//! The stages of a file on its way from bytes to content that its miner signed, cheap ones first.

use super::encoding::{Frame, RawBody, decode_groups};
use super::{FileHeader, Group, commitment};
use crate::codec::DecodeError;
use crate::constants::ROLLOUT_FILE_BYTES_MAX;
use crate::ids::Digest;
use crate::signature::{self, BadSignature};
use crate::timelock::{OpenError, RoundOpener};

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

    /// Decodes the frame: root, signature and header.
    ///
    /// # Errors
    /// When the bytes are not the frame of any file.
    pub fn decode(self) -> Result<DecodedFile<'a>, DecodeError> {
        Frame::decode(self.0).map(DecodedFile)
    }
}

/// A file whose frame was decoded; who made it is not known yet.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedFile<'a>(Frame<'a>);

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

impl<'a> DecodedFile<'a> {
    /// Returns what the file says it is about.
    pub fn header(&self) -> &FileHeader {
        &self.0.header
    }

    /// Returns the round that the body is sealed to, or `None` if it is open.
    pub fn seal_round(&self) -> Option<u64> {
        match self.0.body {
            RawBody::Open(_) => None,
            RawBody::Sealed { round, .. } => Some(round),
        }
    }

    /// Checks that the header's hotkey signed the root. Needs no content, so it comes before
    /// opening; whether the content has that root is seen later.
    ///
    /// # Errors
    /// When another key signed, or another root was signed.
    pub fn verify_signature(self) -> Result<VouchedFile<'a>, BadSignature> {
        let Frame { root, signature, header, .. } = &self.0;
        signature::verify(header.hotkey, &commitment::signed_message(root), signature)?;
        Ok(VouchedFile(self.0))
    }
}

/// A file whose root its hotkey signed.
#[derive(Clone, Debug, PartialEq)]
pub struct VouchedFile<'a>(Frame<'a>);

/// Why the groups of a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenFault {
    /// The body is sealed, and no opener was given.
    #[error("sealed to beacon round {round}; that round's signature opens it")]
    Sealed {
        /// The round.
        round: u64,
    },
    /// The seal does not open.
    #[error(transparent)]
    Seal(#[from] OpenError),
    /// What it holds is no encoding of groups.
    #[error(transparent)]
    Content(#[from] DecodeError),
}

impl VouchedFile<'_> {
    /// Opens the body, if it is sealed, and decodes the groups.
    ///
    /// # Errors
    /// When the seal does not open, or holds no groups.
    pub fn open(self, opener: Option<&RoundOpener>) -> Result<OpenedFile, OpenFault> {
        let Frame { root, header, body, .. } = self.0;
        let groups = match body {
            RawBody::Open(groups) => decode_groups(&header.numerics, groups)?,
            RawBody::Sealed { round, ciphertext } => {
                let opener = opener.ok_or(OpenFault::Sealed { round })?;
                decode_groups(&header.numerics, &opener.open(ciphertext)?)?
            }
        };
        Ok(OpenedFile { header, groups, root })
    }
}

/// A file with readable groups; whether they are what its hotkey signed is not known yet.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenedFile {
    header: FileHeader,
    groups: Vec<Group>,
    root: Digest,
}

impl OpenedFile {
    /// Returns the groups, in the order of the file.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Checks that the signed root is that of the content.
    ///
    /// # Errors
    /// [`UnsignedContent::RootMismatch`].
    pub fn verify_root(self) -> Result<SignedFile, UnsignedContent> {
        let Self { header, groups, root: claimed } = self;
        match commitment::root(&header, &groups) {
            found if found == claimed => Ok(SignedFile { header, groups, root: found }),
            found => Err(UnsignedContent::RootMismatch { claimed, found }),
        }
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
