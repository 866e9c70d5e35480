//! The HTTP below the S3 client: bounds answers, limits bandwidth, and explains refusals.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use axum::http::Response;
use axum::http::response::Parts;
use bytes::{Bytes, BytesMut};
use futures::{Stream, TryStreamExt as _};
use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_LENGTH, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, redirect};

use super::fault::{Fault, FaultKind, Refusal};
use super::query;
use super::settings::BadSettings;
use super::throttle::{PIECE_BYTES, Throttle};
use crate::tls;

/// Time to connect.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Time after which an unused connection is closed.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Most bytes read of an answer that is no object: a full page of a listing has about 500 KiB.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Most bytes read of a refusal.
const REFUSAL_BYTES_MAX: usize = 16 << 10;

/// Sends the requests of all buckets of one server.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    service: Arc<dyn HttpService>,
}

impl Wire {
    /// Makes a client. `is_loopback` says that the server is on this machine.
    pub(super) fn new(
        allow_http: bool,
        is_loopback: bool,
        throttle: Option<Arc<Throttle>>,
    ) -> Result<Self, BadSettings> {
        tls::install_provider();
        let mut builder = Client::builder()
            .https_only(!allow_http)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIME)
            .pool_idle_timeout(IDLE_TIME)
            .tcp_nodelay(true)
            // Parts on one HTTP/2 connection would share its flow control; several connections
            // transfer more.
            .http1_only()
            .user_agent(concat!("grail/", env!("CARGO_PKG_VERSION")));
        if is_loopback {
            // A proxy from the environment cannot reach this machine's loopback.
            builder = builder.no_proxy().dns_resolver(Arc::new(Loopback));
        }
        let client = builder.build().map_err(|error| BadSettings::Client(error.to_string()))?;
        Ok(Self::over(Network { client, throttle }))
    }

    /// Explains the refusals of `service`.
    pub(super) fn over(service: impl HttpService) -> Self {
        Self { service: Arc::new(Explained { inner: Arc::new(service) }) }
    }

    /// Sends one request that the S3 client has none for.
    pub(super) async fn send(&self, request: HttpRequest) -> Result<HttpResponse, Fault> {
        self.service.call(request).await.map_err(|error| Fault::of(&error))
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Shared(Arc::clone(&self.service))))
    }
}

/// Knows that every name under `localhost`, such as a bucket's, is this machine; many systems do
/// not. Source: RFC 6761, section 6.3.
struct Loopback;

impl Resolve for Loopback {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let addresses: Addrs = Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)));
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

/// One service that several clients use, so that they share its connections.
#[derive(Debug)]
struct Shared(Arc<dyn HttpService>);

#[async_trait]
impl HttpService for Shared {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.0.call(request).await
    }
}

/// The network, with a bandwidth for what is sent.
#[derive(Debug)]
struct Network {
    client: Client,
    throttle: Option<Arc<Throttle>>,
}

#[async_trait]
impl HttpService for Network {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = query::canonical(&parts.uri).parse().map_err(|error| broken(&error))?;
        let mut sent = reqwest::Request::new(parts.method, url);
        *sent.headers_mut() = parts.headers;
        let length = body.content_length();
        // Without it, some servers refuse a request that has nothing to say (411).
        if length > 0 || [Method::PUT, Method::POST].contains(sent.method()) {
            sent.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        if length > 0 {
            *sent.body_mut() = Some(match &self.throttle {
                Some(throttle) => reqwest::Body::wrap_stream(spaced(body, Arc::clone(throttle))),
                None => reqwest::Body::wrap(body),
            });
        }
        let response = self.client.execute(sent).await.map_err(http_error)?;
        let (parts, body) = Response::<reqwest::Body>::from(response).into_parts();
        Ok(Response::from_parts(parts, HttpResponseBody::new(body.map_err(http_error))))
    }
}

/// Returns the bytes of `body` in small pieces, at the pace of `throttle`.
fn spaced(
    body: HttpRequestBody,
    throttle: Arc<Throttle>,
) -> impl Stream<Item = Result<Bytes, HttpError>> {
    let pieces = body.into_data_stream().map_ok(|mut bytes| {
        futures::stream::iter(std::iter::from_fn(move || {
            let length = bytes.len().min(PIECE_BYTES);
            (length > 0).then(|| Ok(bytes.split_to(length)))
        }))
    });
    pieces.try_flatten().and_then(move |piece| {
        let throttle = Arc::clone(&throttle);
        async move {
            throttle.pass(piece.len()).await;
            Ok(piece)
        }
    })
}

/// Makes an error of every answer that is none.
#[derive(Debug)]
struct Explained {
    inner: Arc<dyn HttpService>,
}

#[async_trait]
impl HttpService for Explained {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let asks_for_object = *request.method() == Method::GET
            && !request.uri().query().is_some_and(|query| query.contains("list-type="));
        let response = self.inner.call(request).await?;
        let (parts, body) = response.into_parts();
        if parts.status.is_success() && asks_for_object {
            return Ok(Response::from_parts(parts, body));
        }
        let limit = if parts.status.is_success() { ANSWER_BYTES_MAX } else { REFUSAL_BYTES_MAX };
        let answer = beginning(body, limit).await;
        if parts.status.is_success() {
            let answer = answer?;
            // S3 begins some answers before it knows how they end.
            if !answer.starts_with(b"<Error")
                && !answer.windows(7).take(200).any(|w| w == b"<Error>")
            {
                return Ok(Response::from_parts(parts, answer.into()));
            }
            return Err(refusal(&parts, &answer));
        }
        // A refusal that broke off is still a refusal.
        Err(refusal(&parts, &answer.unwrap_or_default()))
    }
}

fn refusal(parts: &Parts, body: &[u8]) -> HttpError {
    let fault = Fault::of_refusal(&Refusal {
        status: parts.status,
        body: &String::from_utf8_lossy(body),
        retry_after_s: header(&parts.headers, RETRY_AFTER).and_then(|text| text.parse().ok()),
        ahead_s: header(&parts.headers, DATE).and_then(parse_date).and_then(|theirs| {
            let ours = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
            Some(theirs - i64::try_from(ours).ok()?)
        }),
    });
    HttpError::new(HttpErrorKind::Unknown, fault)
}

/// Returns the body, of a refusal only the beginning.
async fn beginning(mut body: HttpResponseBody, limit: usize) -> Result<Bytes, HttpError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            if limit == REFUSAL_BYTES_MAX {
                bytes.extend_from_slice(&data[..limit - bytes.len()]);
                break;
            }
            let text = format!("an answer of more than {limit} bytes");
            return Err(HttpError::new(
                HttpErrorKind::Unknown,
                Fault::new(FaultKind::Broken, text),
            ));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

fn http_error(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else {
        HttpErrorKind::Interrupted
    };
    // Addresses would make messages long; whoever shows the error knows the bucket.
    HttpError::new(kind, error.without_url())
}

fn broken(error: &dyn Display) -> HttpError {
    let fault = Fault::new(FaultKind::Broken, format!("not an address: {error}"));
    HttpError::new(HttpErrorKind::Unknown, fault)
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Returns the seconds since the Unix epoch of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, date) = text.split_once(", ")?;
    let mut parts = date.strip_suffix(" GMT")?.split([' ', ':']);
    let day: i64 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let month = i64::try_from(MONTHS.iter().position(|known| *known == month)?).ok()?;
    let mut number = || parts.next()?.parse::<u32>().ok().map(i64::from);
    let (year, hours, minutes, seconds) = (number()?, number()?, number()?, number()?);
    let clock = hours * 3600 + minutes * 60 + seconds;
    // Years that begin in March, so that the leap day is their last.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + clock)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn dates_are_read() {
        for (text, want) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
        ] {
            assert_eq!(parse_date(text), Some(want), "{text}");
        }
        for text in ["", "yesterday", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Foo 1994 08:49:37 GMT"]
        {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_request_with_nothing_to_say_says_so() {
        for (method, want) in [(Method::PUT, true), (Method::POST, true), (Method::GET, false)] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let url = format!("http://{}/bucket", listener.local_addr().unwrap());
            let request = Request::builder().method(method).uri(url);
            let request = request.body(HttpRequestBody::from(String::new())).unwrap();
            let wire = Wire::new(true, true, None).unwrap();
            let answer = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut heard = vec![0; 4096];
                let length = stream.read(&mut heard).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                String::from_utf8_lossy(&heard[..length]).to_ascii_lowercase()
            };
            let (sent, heard) = tokio::join!(wire.send(request), answer);
            sent.unwrap();
            assert_eq!(heard.contains("content-length: 0\r\n"), want, "{heard}");
        }
    }

    #[tokio::test]
    async fn what_is_sent_at_a_pace_is_the_same_bytes() {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(200_000).collect();
        let throttle = Arc::new(Throttle::new(1 << 40));
        let body = HttpRequestBody::from(bytes.clone());
        let pieces: Vec<Bytes> = spaced(body, throttle).try_collect().await.unwrap();
        assert!(pieces.len() == 4 && pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
        assert_eq!(pieces.concat(), bytes);
    }
}
