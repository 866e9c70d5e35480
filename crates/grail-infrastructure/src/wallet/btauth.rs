//! Checks HTTP requests that a hotkey signed, in the form `btauth/1` of Bittensor's SDK 11.
//!
//! The signature covers the method, the target, the body and the receiver, so a request can be sent
//! once more to the same receiver at most: callers keep the nonces of the last [`FRESH_NS`] and
//! refuse what they have seen. Source: spec/bittensor.md section 9.

use grail_protocol::ids::{Digest, Hotkey, Signature};

use super::keypair::Scheme;

/// How long a request is good for after its nonce, nanoseconds.
pub const FRESH_NS: u64 = 10_000_000_000;

/// How far a sender's clock may be ahead, nanoseconds.
pub const SKEW_NS: u64 = 2_000_000_000;

/// Version of the form, also in the header `X-Bittensor-Version`.
pub const VERSION: &str = "1";

/// A request as it came in, with the headers that speak of its signature.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Path and query, as sent.
    pub target: &'a str,
    /// Body.
    pub body: &'a [u8],
    /// `X-Bittensor-Version`.
    pub version: &'a str,
    /// `X-Bittensor-Hotkey`: the sender.
    pub hotkey: &'a str,
    /// `X-Bittensor-Receiver`.
    pub receiver: Option<&'a str>,
    /// `X-Bittensor-Nonce`: nanoseconds since the Unix epoch.
    pub nonce: &'a str,
    /// `X-Bittensor-Signature`: 0x and 128 hexadecimal digits.
    pub signature: &'a str,
    /// `X-Bittensor-Crypto`, sr25519 without it.
    pub crypto: Option<&'a str>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtauthError {
    /// A header that makes no sense.
    #[error("the header {0} makes no sense; sign requests as btauth/1")]
    BadHeader(&'static str),
    /// Meant for somebody else, or for nobody in particular.
    #[error("the request is not signed for this receiver")]
    WrongReceiver,
    /// Too old, or from the future.
    #[error("the request was not signed just now; check both clocks")]
    StaleRequest,
    /// Signed by another key, or altered.
    #[error("the signature does not fit the request")]
    BadSignature,
}

/// Returns the text that is signed.
pub fn signed_text(
    scheme: Scheme,
    method: &str,
    target: &str,
    body: &[u8],
    nonce_ns: u64,
    sender: Hotkey,
    receiver: Option<Hotkey>,
) -> String {
    let receiver = receiver.map_or("-".to_owned(), Hotkey::to_ss58);
    let (method, body) = (method.to_uppercase(), Digest::of(body));
    format!(
        "btauth/{VERSION}\n{scheme}\n{method}\n{target}\n{body}\n{nonce_ns}\n{sender}\n{receiver}"
    )
}

/// Returns who signed `request` for `receiver` just before `now_ns`.
///
/// # Errors
/// What is wrong first, in the order receiver, time, signature.
pub fn verify(
    request: &SignedRequest<'_>,
    receiver: Hotkey,
    now_ns: u64,
) -> Result<Hotkey, BtauthError> {
    let bad = BtauthError::BadHeader;
    if request.version != VERSION {
        return Err(bad("X-Bittensor-Version"));
    }
    if request.receiver != Some(receiver.to_ss58().as_str()) {
        return Err(BtauthError::WrongReceiver);
    }
    let scheme: Scheme = request
        .crypto
        .map_or(Ok(Scheme::Sr25519), str::parse)
        .map_err(|_| bad("X-Bittensor-Crypto"))?;
    let sender: Hotkey = request.hotkey.parse().map_err(|_| bad("X-Bittensor-Hotkey"))?;
    let nonce_ns: u64 = request.nonce.parse().map_err(|_| bad("X-Bittensor-Nonce"))?;
    let is_fresh =
        now_ns <= nonce_ns.saturating_add(FRESH_NS) && nonce_ns <= now_ns.saturating_add(SKEW_NS);
    if !is_fresh {
        return Err(BtauthError::StaleRequest);
    }
    let mut signature = [0; 64];
    let digits = request.signature.strip_prefix("0x").unwrap_or(request.signature);
    hex::decode_to_slice(digits, &mut signature).map_err(|_| bad("X-Bittensor-Signature"))?;
    let text = signed_text(
        scheme,
        request.method,
        request.target,
        request.body,
        nonce_ns,
        sender,
        Some(receiver),
    );
    if scheme.verify_wrapped(sender, text.as_bytes(), &Signature(signature)) {
        Ok(sender)
    } else {
        Err(BtauthError::BadSignature)
    }
}
