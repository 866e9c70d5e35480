//! A real sr25519 key made from a seed.

use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Signature};
use rand_core::{CryptoRng, RngCore};
use schnorrkel::context::attach_rng;
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey, signing_context};

use crate::draw;

/// Signs like a wallet, but with a key that everybody can make and with equal signatures for equal
/// messages, so that whole files can be compared between two runs.
pub struct FakeSigner {
    keypair: Keypair,
}

impl FakeSigner {
    /// Makes the key of `seed`.
    pub fn new(seed: u64) -> Self {
        let secret = draw::digest("grail/testkit/signer", seed, &[]);
        let secret = MiniSecretKey::from_bytes(&secret.0).expect("any 32 bytes are a mini secret");
        Self { keypair: secret.expand_to_keypair(ExpansionMode::Ed25519) }
    }
}

impl Signer for FakeSigner {
    fn hotkey(&self) -> Hotkey {
        Hotkey(self.keypair.public.to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let transcript = attach_rng(signing_context(b"substrate").bytes(message), NoEntropy);
        Signature(self.keypair.sign(transcript).to_bytes())
    }
}

/// Adds nothing to the nonce, which then depends on the secret key and the message alone.
struct NoEntropy;

impl CryptoRng for NoEntropy {}

impl RngCore for NoEntropy {
    fn next_u32(&mut self) -> u32 {
        0
    }

    fn next_u64(&mut self) -> u64 {
        0
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        dest.fill(0);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_verifies_and_depends_on_key_and_message_alone() {
        let (alice, bob) = (FakeSigner::new(1), FakeSigner::new(2));
        assert_ne!(alice.hotkey(), bob.hotkey());
        let signature = alice.sign(b"root");
        assert_eq!(signature, FakeSigner::new(1).sign(b"root"));
        assert_ne!(signature, alice.sign(b"other root"));

        let check = |message: &[u8], signer: &FakeSigner| {
            let signature = schnorrkel::Signature::from_bytes(&signature.0).unwrap();
            signer.keypair.public.verify_simple(b"substrate", message, &signature).is_ok()
        };
        assert!(check(b"root", &alice));
        assert!(!check(b"root", &bob));
        assert!(!check(b"toor", &alice));
    }
}
