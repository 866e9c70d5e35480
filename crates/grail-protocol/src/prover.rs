//! The miner's side of the proof: seals rollouts into the one file that is uploaded.

use crate::codec::EncodeError;
use crate::ids::{Digest, Signature};
use crate::rollout::{FileHeader, Group, RolloutFile, Seal, commitment};

/// Signs a message with the miner's hotkey (sr25519, context `substrate`).
pub type Sign<'a> = dyn Fn(&[u8]) -> Signature + 'a;

/// Returns the bytes of a rollout file with everything in it signed; `sign` must use the secret
/// key of the header's hotkey.
///
/// # Errors
/// When the content does not fit into a file; see [`RolloutFile::encode`].
pub fn seal(
    header: FileHeader,
    groups: Vec<Group>,
    sign: &Sign<'_>,
) -> Result<Vec<u8>, EncodeError> {
    let root: Digest = commitment::root(&header, &groups);
    let signature = sign(&commitment::signed_message(&root));
    RolloutFile { seal: Seal::Open, root, signature, header, groups }.encode()
}
