//! Signs with the hotkey of this neuron.

use grail_protocol::ids::{Hotkey, Signature};

/// The key that a neuron acts with; the secret never leaves the implementation.
pub trait Signer: Send + Sync {
    /// Returns the public key.
    fn hotkey(&self) -> Hotkey;

    /// Signs `message` with sr25519 in the context `substrate`.
    fn sign(&self, message: &[u8]) -> Signature;
}
