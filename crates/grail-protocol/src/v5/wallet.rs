//! Checks signatures as the Python wallet library does, with its two readings of a message.

use std::borrow::Cow;

use super::randomness::from_hex;
use crate::ids::{Hotkey, Signature};
use crate::signature;

/// Whether `key` signed the message, as it is or between `<Bytes>` and `</Bytes>`.
pub fn verify(key: Hotkey, message: &[u8], signed: &Signature) -> bool {
    if signature::verify(key, message, signed).is_ok() {
        return true;
    }
    let wrapped = [b"<Bytes>", message, b"</Bytes>"].concat();
    signature::verify(key, &wrapped, signed).is_ok()
}

/// Whether `key` signed a text; one that starts with `0x` stands for the bytes it spells.
pub fn verify_text(key: Hotkey, message: &str, signed: &Signature) -> bool {
    let message = match message.strip_prefix("0x") {
        Some(digits) => match from_hex(digits) {
            Ok(bytes) => Cow::Owned(bytes),
            Err(_) => return false,
        },
        None => Cow::Borrowed(message.as_bytes()),
    };
    verify(key, &message, signed)
}
