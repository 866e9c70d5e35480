//! A real sr25519 key made from a seed.

use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Signature};
use rand_core::{CryptoRng, RngCore};
use schnorrkel::context::attach_rng;
use schnorrkel::derive::ChainCode;
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

    /// Makes the key of a development address such as `//Alice` or `//Alice//stash`, which vectors
    /// are signed with; `None` for any other text.
    pub fn development(uri: &str) -> Option<Self> {
        let names: Vec<&str> = uri.strip_prefix("//")?.split("//").collect();
        // A name that is a number, soft or long is derived in other ways.
        let is_plain = |name: &&str| {
            (1..32).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && name.parse::<u64>().is_err()
        };
        if !names.iter().all(is_plain) {
            return None;
        }
        let root = MiniSecretKey::from_bytes(&DEVELOPMENT_SEED).expect("any 32 bytes will do");
        let secret = names.into_iter().fold(root, |secret, name| {
            let mut code = [0; 32];
            // SCALE's length of a text below 64 bytes: four times it.
            code[0] = 4 * u8::try_from(name.len()).expect("checked to be below 32");
            code[1..=name.len()].copy_from_slice(name.as_bytes());
            let parent = secret.expand_to_keypair(ExpansionMode::Ed25519);
            parent.hard_derive_mini_secret_key(Some(ChainCode(code)), b"").0
        });
        Some(Self { keypair: secret.expand_to_keypair(ExpansionMode::Ed25519) })
    }
}

/// The seed of Substrate's development phrase (`bottom drive obey …`), which everybody knows.
const DEVELOPMENT_SEED: [u8; 32] = [
    0xfa, 0xc7, 0x95, 0x9d, 0xbf, 0xe7, 0x2f, 0x05, 0x2e, 0x5a, 0x0c, 0x3c, 0x8d, 0x65, 0x30, 0xf2,
    0x02, 0xb0, 0x2f, 0xd8, 0xf9, 0xf5, 0xca, 0x35, 0x80, 0xec, 0x8d, 0xeb, 0x77, 0x97, 0x47, 0x9e,
];

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
    use crate::vectors::{every_entry, text};

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

    #[test]
    fn development_addresses_have_their_known_keys() {
        every_entry("sr25519", "signatures.json", "keys", 2, |key| {
            let Some(signer) = FakeSigner::development(text(&key["secret"])) else { return };
            assert_eq!(signer.hotkey().to_ss58(), text(&key["ss58"]));
        });
        let alice = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
        assert_eq!(FakeSigner::development("//Alice").unwrap().hotkey().to_ss58(), alice);
        for other in ["Alice", "//", "//1", "/Alice", "//a/b", "//Alice///x"] {
            assert!(FakeSigner::development(other).is_none(), "{other}");
        }
    }
}
