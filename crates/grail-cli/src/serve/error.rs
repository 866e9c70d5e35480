//! Failures as the client sees them: OpenAI's shape, with the next step in the words.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::inference::engine::SubmitError;
use crate::inference::sequence::Broken;

/// A failure on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// What happened, expected and found, the next step.
    pub message: String,
    /// The field of the request that is to blame.
    pub param: Option<String>,
    /// For programs.
    pub code: Option<&'static str>,
    /// Seconds after which another try makes sense.
    pub retry_after_s: Option<u32>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after_s: None }
    }

    /// The request makes no sense.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field of the request makes no sense.
    pub fn field(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), ..Self::bad(message) }
    }

    /// The field asks for something that this server does not do.
    pub fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self { code: Some("unsupported_parameter"), ..Self::field(param, message) }
    }

    /// Another status, with its code.
    pub fn with(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Some(code), ..Self::new(status, message) }
    }

    /// Too much is going on.
    pub fn busy(message: impl Into<String>, retry_after_s: u32) -> Self {
        let error = Self::with(StatusCode::TOO_MANY_REQUESTS, "queue_full", message);
        Self { retry_after_s: Some(retry_after_s), ..error }
    }

    /// The server is about to stop.
    pub fn draining() -> Self {
        let message = "the server is shutting down; send the request to another one";
        let error = Self::with(StatusCode::SERVICE_UNAVAILABLE, "draining", message);
        Self { retry_after_s: Some(RESTART_S), ..error }
    }

    /// The server failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::with(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// Says why the engine did not take a sequence.
    pub fn of_submit(error: SubmitError, retry_after_s: u32) -> Self {
        match error {
            SubmitError::Draining => Self::draining(),
            SubmitError::BadRequest(message) => Self::bad(message),
            full @ SubmitError::QueueFull { .. } => {
                Self::busy(format!("{full} (likely in {retry_after_s} s)"), retry_after_s)
            }
        }
    }

    /// Returns the body.
    pub fn to_json(&self) -> String {
        let r#type = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let Self { message, param, code, .. } = self;
        let error = Inner { message, r#type, param: param.as_deref(), code: *code };
        serde_json::to_string(&Body { error }).expect("texts are always JSON")
    }
}

/// What a client may expect of a restart.
const RESTART_S: u32 = 10;

impl From<Broken> for ApiError {
    fn from(broken: Broken) -> Self {
        let message = broken.to_string();
        match broken {
            Broken::TimedOut => Self::with(StatusCode::GATEWAY_TIMEOUT, "timeout", message),
            Broken::TooSlow => Self::with(StatusCode::REQUEST_TIMEOUT, "slow_reader", message),
            Broken::Model(_) | Broken::Tokenizer(_) | Broken::EngineGone => Self::internal(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() && self.status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::error!(status = self.status.as_u16(), reason = %self.message, "a request failed");
        }
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (self.status, json, self.to_json()).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A handler's answer, or a failure.
pub type Answer<T = Response> = Result<T, ApiError>;

/// Keeps `Json` in one place: everything that is answered is serialisable.
pub fn json<T: Serialize>(value: T) -> Response {
    Json(value).into_response()
}
