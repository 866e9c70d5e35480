//! The miner's side of the proof: signs rollouts and seals them into the one file that is uploaded.

use crate::codec::EncodeError;
use crate::domain::{self, DomainHash};
use crate::ids::{Digest, Signature};
use crate::rollout::encoding::encode_groups;
use crate::rollout::{Body, FileHeader, Group, RolloutFile, SealedBody, commitment};
use crate::timelock::{self, SealError, SealTo};

/// Signs a message with the miner's hotkey (sr25519, context `substrate`).
pub type Sign<'a> = dyn Fn(&[u8]) -> Signature + 'a;

/// Why no file can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProverError {
    /// The content does not fit into a file; see [`RolloutFile::encode`].
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Nothing can be sealed to this beacon.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Returns the bytes of a rollout file with everything in it signed, and its groups sealed; `sign`
/// must use the secret key of the header's hotkey.
///
/// # Errors
/// When the content does not fit into a file, or the beacon's key is none.
pub fn seal(
    header: FileHeader,
    groups: Vec<Group>,
    to: SealTo,
    sign: &Sign<'_>,
) -> Result<Vec<u8>, ProverError> {
    let root: Digest = commitment::root(&header, &groups);
    let signature = sign(&commitment::signed_message(&root));
    let content = encode_groups(&header.numerics, &groups)?;
    drop(groups);
    let ciphertext = timelock::seal(to, content, &entropy(&root, to.round, sign))?;
    let body = Body::Sealed(SealedBody { round: to.round, ciphertext });
    Ok(RolloutFile { root, signature, header, body }.encode()?)
}

/// Returns the bytes of a rollout file with everything in it signed, for everybody to read.
///
/// # Errors
/// When the content does not fit into a file.
pub fn sign_open(
    header: FileHeader,
    groups: Vec<Group>,
    sign: &Sign<'_>,
) -> Result<Vec<u8>, EncodeError> {
    let root: Digest = commitment::root(&header, &groups);
    let signature = sign(&commitment::signed_message(&root));
    RolloutFile { root, signature, header, body: Body::Open(groups) }.encode()
}

/// Returns the seed of a file's key: the hash of a signature that is never published.
///
/// Nobody without the secret key can make that signature, so nobody can guess its hash; and another
/// content has another root, so no seed serves twice.
fn entropy(root: &Digest, round: u64, sign: &Sign<'_>) -> [u8; 32] {
    let message =
        [domain::prefix("seal-entropy").as_slice(), &root.0, &round.to_le_bytes()].concat();
    DomainHash::new("seal-key").bytes(&sign(&message).0).finish().0
}
