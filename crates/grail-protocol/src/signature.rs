//! Checks sr25519 signatures, as the chain's wallets make them.

use schnorrkel::PublicKey;

use crate::ids::{Hotkey, Signature};

/// Signing context of every wallet of the chain.
pub const SIGNING_CONTEXT: &[u8] = b"substrate";

/// A signature that its key did not make for this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not that of hotkey {0} for this message; sign it with that key")]
pub struct BadSignature(pub Hotkey);

/// Checks that `hotkey` signed exactly `message` (sr25519, context [`SIGNING_CONTEXT`]).
///
/// Unlike the wallet library, no other wrapping of the message is tried: one message, one meaning.
///
/// # Errors
/// [`BadSignature`] also when the key or the signature are no points and scalars at all.
pub fn verify(hotkey: Hotkey, message: &[u8], signature: &Signature) -> Result<(), BadSignature> {
    let checked = PublicKey::from_bytes(&hotkey.0).and_then(|key| {
        let signature = schnorrkel::Signature::from_bytes(&signature.0)?;
        key.verify_simple(SIGNING_CONTEXT, message, &signature)
    });
    checked.map_err(|_| BadSignature(hotkey))
}
