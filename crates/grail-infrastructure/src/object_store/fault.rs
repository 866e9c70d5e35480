//! Sorts what can go wrong with a request by what the caller can do about it.

use std::error::Error;
use std::time::Duration;

use grail_ports::object_store::StoreError;
use object_store::client::{HttpError, HttpErrorKind};
use reqwest::StatusCode;

use super::settings::shown;
use crate::source::BadFile;

/// Longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// A difference between the clocks that explains why a request was denied. Source: S3 allows 15 min.
const CLOCK_SKEW_MAX_S: i64 = 15 * 60;

/// What can be done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// No such object.
    Absent,
    /// No such bucket.
    NoBucket,
    /// The bucket that was to be made is ours already.
    OwnBucket,
    /// The multipart upload is over or was aborted.
    NoUpload,
    /// The credentials do not allow it.
    Denied,
    /// The clocks differ too much.
    ClockSkewed,
    /// The condition of the request does not hold.
    Condition,
    /// The object has no such bytes.
    Range,
    /// Too many requests; come back later.
    Throttled,
    /// The server failed, or the bytes were damaged on the way.
    Server,
    /// No answer, or not all of it: the request may have been carried out.
    NoAnswer,
    /// The request or the answer makes no sense.
    Broken,
    /// The file to upload cannot be read, or changed.
    File,
}

/// Why a request was not answered as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// How long the server wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    text: String,
}

/// The parts of a refusal that matter.
#[derive(Debug)]
pub(super) struct Refusal<'a> {
    pub(super) status: StatusCode,
    /// The beginning of the answer's body: S3's XML, if anything.
    pub(super) body: &'a str,
    /// Seconds from the `retry-after` header.
    pub(super) retry_after_s: Option<u64>,
    /// The server's time minus ours, seconds.
    pub(super) ahead_s: Option<i64>,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self { kind, retry_after: None, text: text.into() }
    }

    /// Sorts a refusal of the server.
    pub(super) fn of_refusal(refusal: &Refusal<'_>) -> Self {
        let Refusal { status, body, retry_after_s, ahead_s } = refusal;
        let code = element(body, "Code");
        let kind = kind_of(*status, code, *ahead_s);
        let mut text = format!("HTTP {}", status.as_u16());
        for part in [code, element(body, "Message")].into_iter().filter(|part| !part.is_empty()) {
            text.push_str(": ");
            text.push_str(&shown(part));
        }
        match kind {
            FaultKind::ClockSkewed => {
                text.push_str(&ahead_s.map_or_else(
                    || ", our clock is wrong".to_owned(),
                    |seconds| format!(", its clock is {seconds} s ahead of ours"),
                ));
            }
            FaultKind::Broken if is_misplaced(*status, code) => {
                text.push_str("; check the store's region, endpoint and addressing");
            }
            _ => {}
        }
        let retry_after = retry_after_s.map(|s| Duration::from_secs(s).min(RETRY_AFTER_MAX));
        Self { kind, retry_after, text }
    }

    /// Finds the fault in an error of the S3 client.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        let mut innermost = error;
        while let Some(error) = cause {
            if let Some(fault) = error.downcast_ref::<Self>() {
                return fault.clone();
            }
            if let Some(http) = error.downcast_ref::<HttpError>()
                && http.source().is_none_or(|source| !source.is::<Self>())
            {
                let kind = match http.kind() {
                    HttpErrorKind::Decode => FaultKind::Server,
                    _ => FaultKind::NoAnswer,
                };
                return Self::new(kind, shown(&deepest(http).to_string()));
            }
            innermost = error;
            cause = error.source();
        }
        // Neither a refusal nor a broken connection: an answer that cannot be understood. Cut or
        // garbled answers look like this too, so trying again may help.
        Self::new(FaultKind::Server, shown(&innermost.to_string()))
    }

    /// Returns what is wrong with a file of ours.
    #[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
    pub(super) fn of_file(bad: BadFile) -> Self {
        Self::new(FaultKind::File, bad.to_string())
    }

    /// Returns whether trying again may help.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.kind, FaultKind::Throttled | FaultKind::Server | FaultKind::NoAnswer)
    }

    /// Returns whether the request may have been carried out all the same.
    pub(super) fn leaves_doubt(&self) -> bool {
        matches!(self.kind, FaultKind::Server | FaultKind::NoAnswer)
    }

    /// Returns the fault with more said about it.
    pub(super) fn explained(mut self, what: &str) -> Self {
        self.text = format!("{}; {what}", self.text);
        self
    }

    /// Words the fault for the port: what happened to `key` in `bucket`.
    pub(super) fn into_store_error(self, bucket: &str, key: &str) -> StoreError {
        let Self { kind, text, .. } = self;
        match kind {
            FaultKind::Denied => StoreError::Denied(format!("bucket {bucket} ({text})")),
            FaultKind::NoBucket => {
                StoreError::Denied(format!("bucket {bucket}, which does not exist ({text})"))
            }
            FaultKind::ClockSkewed => StoreError::ClockSkewed(text),
            FaultKind::File => StoreError::File(text),
            FaultKind::Condition => StoreError::Changed(key.to_owned()),
            FaultKind::Throttled
            | FaultKind::Server
            | FaultKind::NoAnswer
            | FaultKind::NoUpload => StoreError::Unavailable(format!("bucket {bucket}: {text}")),
            FaultKind::OwnBucket | FaultKind::Absent | FaultKind::Range | FaultKind::Broken => {
                StoreError::Malformed(format!("bucket {bucket}, object `{}`: {text}", shown(key)))
            }
        }
    }
}

fn kind_of(status: StatusCode, code: &str, ahead_s: Option<i64>) -> FaultKind {
    let is_skewed = || ahead_s.is_some_and(|seconds| seconds.abs() > CLOCK_SKEW_MAX_S);
    match code {
        "NoSuchBucket" => return FaultKind::NoBucket,
        "BucketAlreadyOwnedByYou" => return FaultKind::OwnBucket,
        "NoSuchUpload" => return FaultKind::NoUpload,
        "RequestTimeTooSkewed" => return FaultKind::ClockSkewed,
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "RequestThrottled"
        | "TooManyRequests"
        | "ServiceUnavailable" => return FaultKind::Throttled,
        // Damaged, cut or given up on the way to the server.
        "InternalError" | "BadDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch" => {
            return FaultKind::Server;
        }
        "RequestTimeout" => return FaultKind::NoAnswer,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "AccessDenied" => {
            // A signature is made of the time too.
            return if is_skewed() { FaultKind::ClockSkewed } else { FaultKind::Denied };
        }
        _ => {}
    }
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_skewed() => FaultKind::ClockSkewed,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FaultKind::Denied,
        StatusCode::NOT_FOUND => FaultKind::Absent,
        StatusCode::PRECONDITION_FAILED | StatusCode::NOT_MODIFIED => FaultKind::Condition,
        StatusCode::RANGE_NOT_SATISFIABLE => FaultKind::Range,
        StatusCode::REQUEST_TIMEOUT => FaultKind::NoAnswer,
        // Two conditional writes at once: one of them is to come again.
        StatusCode::CONFLICT if code != "BucketAlreadyExists" => FaultKind::Server,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => FaultKind::Throttled,
        StatusCode::NOT_IMPLEMENTED => FaultKind::Broken,
        // An error in an answer that began well, without a code that says more.
        status if status.is_success() || status.is_server_error() => FaultKind::Server,
        _ => FaultKind::Broken,
    }
}

/// Returns whether the request went to the wrong place.
fn is_misplaced(status: StatusCode, code: &str) -> bool {
    status.is_redirection()
        || matches!(code, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "InvalidRegion")
}

/// Returns the text of the first element `name` in S3's XML, or nothing.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let find = || {
        let (_, rest) = xml.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
    };
    find().unwrap_or_default()
}

fn deepest<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(status: u16, body: &str, ahead_s: Option<i64>) -> Fault {
        let status = StatusCode::from_u16(status).unwrap();
        Fault::of_refusal(&Refusal { status, body, retry_after_s: None, ahead_s })
    }

    fn coded(status: u16, code: &str) -> Fault {
        fault(status, &format!("<Error><Code>{code}</Code><Message>why</Message></Error>"), None)
    }

    #[test]
    fn refusals_are_sorted_by_what_can_be_done() {
        use FaultKind::*;
        for (status, code, want) in [
            (404, "NoSuchKey", Absent),
            (404, "", Absent),
            (404, "NoSuchBucket", NoBucket),
            (404, "NoSuchUpload", NoUpload),
            (403, "AccessDenied", Denied),
            (403, "SignatureDoesNotMatch", Denied),
            (403, "", Denied),
            (401, "Unauthorized", Denied),
            (400, "ExpiredToken", Denied),
            (403, "RequestTimeTooSkewed", ClockSkewed),
            (412, "PreconditionFailed", Condition),
            (304, "", Condition),
            (409, "ConditionalRequestConflict", Server),
            (416, "InvalidRange", Range),
            (503, "SlowDown", Throttled),
            (200, "SlowDown", Throttled),
            (429, "", Throttled),
            (500, "InternalError", Server),
            (200, "InternalError", Server),
            (502, "", Server),
            (504, "", Server),
            (400, "BadDigest", Server),
            (400, "RequestTimeout", NoAnswer),
            (501, "NotImplemented", Broken),
            (400, "InvalidArgument", Broken),
            (301, "PermanentRedirect", Broken),
        ] {
            assert_eq!(coded(status, code).kind, want, "{status} {code}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in [400, 401, 403, 404, 412, 416, 501] {
            assert!(!fault(status, "", None).is_transient(), "{status}");
        }
        for status in [408, 409, 429, 500, 502, 503, 504] {
            assert!(fault(status, "", None).is_transient(), "{status}");
        }
    }

    #[test]
    fn a_wrong_clock_is_told_even_without_a_code() {
        assert_eq!(fault(403, "", Some(60)).kind, FaultKind::Denied);
        for ahead in [-7200, 7200] {
            let fault = fault(403, "", Some(ahead));
            assert_eq!(fault.kind, FaultKind::ClockSkewed);
            let error = fault.into_store_error("box", "a");
            let text = error.to_string();
            assert!(text.contains(&format!("{ahead} s ahead")) && text.contains("synchronise"));
        }
    }

    #[test]
    fn a_wrong_region_is_advised_on() {
        let text = coded(400, "AuthorizationHeaderMalformed").to_string();
        assert!(text.contains("why") && text.contains("region"), "{text}");
    }

    #[test]
    fn what_servers_say_is_bounded_and_printable() {
        let long = format!("<Code>\u{1b}[31m{}</Code>", "x".repeat(10_000));
        let text = fault(400, &long, None).to_string();
        assert!(text.len() < 400 && !text.contains('\u{1b}'), "{text}");
        assert_eq!(fault(500, "<Code>cut", None).to_string(), "HTTP 500");
    }
}
