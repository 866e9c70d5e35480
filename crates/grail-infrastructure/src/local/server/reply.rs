//! Words failures as HTTP answers.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use grail_ports::object_store::StoreError;

use crate::local::store::WriteError;
use crate::local::wire::ErrorBody;

/// A failure on its way to the client.
pub(super) struct Reply(pub(super) ErrorBody);

impl Reply {
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self(ErrorBody::Malformed { message: message.into() })
    }

    pub(super) fn denied(message: impl Into<String>) -> Self {
        Self(ErrorBody::Denied { message: message.into() })
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self(ErrorBody::NotFound { message: message.into() })
    }

    #[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
    pub(super) fn unavailable(error: impl ToString) -> Self {
        Self(ErrorBody::Unavailable { message: error.to_string() })
    }
}

impl From<StoreError> for Reply {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Denied(message) => Self::denied(message),
            StoreError::TooLarge { size, limit, .. } => Self(ErrorBody::TooLarge { size, limit }),
            StoreError::Malformed(message) | StoreError::File(message) => Self::malformed(message),
            StoreError::Changed(key) => Self(ErrorBody::Changed { key }),
            StoreError::Unavailable(message) | StoreError::ClockSkewed(message) => {
                Self(ErrorBody::Unavailable { message })
            }
        }
    }
}

impl From<WriteError> for Reply {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(error) => error.into(),
            WriteError::BadNonce { expected } => Self(ErrorBody::BadNonce { expected }),
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            ErrorBody::BadNonce { .. } => StatusCode::CONFLICT,
            ErrorBody::ConditionFailed | ErrorBody::Changed { .. } => {
                StatusCode::PRECONDITION_FAILED
            }
            ErrorBody::Denied { .. } => StatusCode::FORBIDDEN,
            ErrorBody::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorBody::Malformed { .. } => StatusCode::BAD_REQUEST,
            ErrorBody::NotFound { .. } => StatusCode::NOT_FOUND,
            ErrorBody::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(self.0)).into_response()
    }
}

/// Runs `work` where it may wait for the disk.
pub(super) async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Reply>
where
    Reply: From<E>,
{
    Ok(tokio::task::spawn_blocking(work).await.map_err(Reply::unavailable)??)
}
