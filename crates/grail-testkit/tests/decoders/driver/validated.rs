//! Files of validated rollouts: as they come, and with their validator's signature renewed.

use grail_ports::signer::Signer;
use grail_protocol::domain;
use grail_protocol::ids::Digest;
use grail_protocol::validated::ValidatedFile;

use super::{SIGNER, hotkey};

/// Bytes before the signature, and of it.
const SIGNATURE_AT: usize = 8 + 2;
const SIGNATURE_BYTES: usize = 64;

pub fn drive(data: &[u8]) -> bool {
    let validator = hotkey();
    // Whatever opens as it comes is opened again below; the outcome is compared there.
    let untouched = ValidatedFile::open(data, validator);
    let Some((head, body)) = data.split_at_checked(SIGNATURE_AT + SIGNATURE_BYTES) else {
        assert!(untouched.is_err());
        return false;
    };
    let message = [domain::prefix("signed-validated").as_slice(), &Digest::of(body).0].concat();
    let signature = SIGNER.sign(&message);
    let signed = [&head[..SIGNATURE_AT], &signature.0, body].concat();
    let Ok(file) = ValidatedFile::open(&signed, validator) else { return false };
    let again = file.seal(&|message| SIGNER.sign(message)).expect("it was read, so it fits");
    assert!(again == signed, "a file of validated rollouts has a second encoding");
    true
}
