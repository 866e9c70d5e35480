//! Keeps web pages out of a server that is open to this machine alone.
//!
//! A page may have its own name resolve to 127.0.0.1 (DNS rebinding) and then talk to a local server
//! as if it were its own. Its requests still carry that name, so a server without keys on loopback
//! answers to addresses and to `localhost` only.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};

use super::error::ApiError;

/// Checks the name that a request gives the server.
///
/// # Errors
/// 403 for a name that is neither an address nor `localhost`.
pub fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    if host.is_none_or(is_local) {
        return Ok(());
    }
    let message = "a server without API keys on a loopback address answers to localhost and to IP \
                   addresses alone; ask for it by one of them, or set --api-key-file";
    Err(ApiError::with(StatusCode::FORBIDDEN, "foreign_host", message))
}

fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_localhost =
        name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    is_localhost || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_refused() {
        for (host, wanted) in [
            ("localhost:8000", true),
            ("LOCALHOST", true),
            ("api.localhost:1", true),
            ("127.0.0.1:8000", true),
            ("[::1]:8000", true),
            ("evil.example:8000", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            assert_eq!(check(&headers).is_ok(), wanted, "{host}");
        }
        assert!(check(&HeaderMap::new()).is_ok(), "HTTP/1.0 has no name");
    }
}
