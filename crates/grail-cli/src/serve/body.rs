//! Reads a request's body: bounded, in time, JSON and nothing that a web page could send unasked.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::app::App;
use super::error::{Answer, ApiError};
use super::fields::Fields;
use super::limits::{BODY_BYTES_MAX, BODY_TIME};

/// Takes a place among the requests in flight and reads the body.
///
/// # Errors
/// 503 while draining, 429 without a place, 415 for what is not JSON, 413 for what is too large,
/// 408 for what does not arrive, 400 for what cannot be read.
pub async fn read(app: &Arc<App>, request: Request) -> Answer<(Fields, OwnedSemaphorePermit)> {
    if app.is_draining() {
        return Err(ApiError::draining());
    }
    let Ok(permit) = app.in_flight.clone().try_acquire_owned() else {
        let retry = app.metrics.retry_after_s(app.engine.stats().waiting, app.limits.running_max);
        let message = format!("too many requests at a time; try again in {retry} s");
        return Err(ApiError::busy(message, retry));
    };
    // A page in a browser may send a request of another type to any address without being asked.
    if !is_json(request.headers()) {
        let message = "the body must be JSON; send it with `Content-Type: application/json`";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(ApiError::with(status, "unsupported_media_type", message));
    }
    let bytes = match timeout(BODY_TIME, Bytes::from_request(request, &())).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let message =
                format!("the body is larger than {BODY_BYTES_MAX} bytes; send less at a time");
            return Err(ApiError::with(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
        }
        Ok(Err(rejection)) => {
            return Err(ApiError::bad(format!("the body cannot be read: {rejection}")));
        }
        Err(_) => {
            let message = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
            return Err(ApiError::with(StatusCode::REQUEST_TIMEOUT, "body_timeout", message));
        }
    };
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad(format!("the body is not JSON: {error}")))?;
    Ok((Fields::new(value)?, permit))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or("").trim();
    kind.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_taken() {
        for (kind, wanted) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("application/jsonp", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(is_json(&headers), wanted, "{kind}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
