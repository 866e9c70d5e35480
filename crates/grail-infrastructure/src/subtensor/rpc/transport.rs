//! Makes the WebSocket that a connection runs over; tests put one over memory instead.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{
    Connector as TlsConnector, WebSocketStream, client_async_with_config,
    connect_async_tls_with_config,
};

use super::MESSAGE_BYTES_MIN;

/// Address of a node, `ws://` or `wss://`.
///
/// Shown without path and query: providers put access keys there.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint(String);

/// Text that is no address of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no endpoint; write ws://HOST:PORT or wss://HOST:PORT")]
pub struct InvalidEndpoint(String);

impl Endpoint {
    /// Checks `text`.
    ///
    /// # Errors
    /// Unless it is an address with scheme `ws` or `wss`, a host, and no user name.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || {
            InvalidEndpoint(text.chars().take(80).collect::<String>().escape_debug().to_string())
        };
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let is_web_socket = matches!(uri.scheme_str(), Some("ws" | "wss"));
        let host = uri.host().unwrap_or_default();
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if is_web_socket && !host.is_empty() && !has_user {
            Ok(Self(text.to_owned()))
        } else {
            Err(invalid())
        }
    }

    /// Returns the whole address, secrets included.
    pub fn url(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri: Option<Uri> = self.0.parse().ok();
        let shown = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
        match shown {
            Some((scheme, authority)) => write!(f, "{scheme}://{authority}"),
            None => write!(f, "an endpoint"),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// Messages out and in.
pub trait Wire:
    Stream<Item = Result<Message, WsError>> + Sink<Message, Error = WsError> + Send + Unpin
{
}

impl<T> Wire for T where
    T: Stream<Item = Result<Message, WsError>> + Sink<Message, Error = WsError> + Send + Unpin
{
}

/// A connection on its way.
pub type WireFuture<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Wire>, String>> + Send + 'a>>;

/// Makes connections.
pub trait Connector: Send + Sync {
    /// Connects to `endpoint`, or says why not; the caller bounds the time.
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> WireFuture<'a>;
}

/// Connects over TCP, with TLS for `wss://`.
pub struct WebSocketConnector {
    config: WebSocketConfig,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl WebSocketConnector {
    /// Trusts the system's certificates; accepts messages up to `message_bytes_max`.
    pub fn new(message_bytes_max: usize) -> Self {
        crate::tls::install_provider();
        Self { config: bounds(message_bytes_max), tls: None }
    }

    /// Trusts what `tls` trusts instead.
    pub fn with_tls(message_bytes_max: usize, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { config: bounds(message_bytes_max), tls: Some(tls) }
    }

    /// Speaks WebSocket over a byte stream that is already connected.
    ///
    /// # Errors
    /// When the other side does not speak it.
    pub async fn over<S>(&self, endpoint: &Endpoint, stream: S) -> Result<Box<dyn Wire>, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (wire, _): (WebSocketStream<S>, _) =
            client_async_with_config(endpoint.url(), stream, Some(self.config))
                .await
                .map_err(|error| error.to_string())?;
        Ok(Box::new(wire))
    }
}

fn bounds(message_bytes_max: usize) -> WebSocketConfig {
    let bytes = message_bytes_max.max(MESSAGE_BYTES_MIN);
    WebSocketConfig::default().max_message_size(Some(bytes)).max_frame_size(Some(bytes))
}

impl Connector for WebSocketConnector {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> WireFuture<'a> {
        Box::pin(async move {
            let tls = self.tls.clone().map(TlsConnector::Rustls);
            let (wire, _) =
                connect_async_tls_with_config(endpoint.url(), Some(self.config), true, tls)
                    .await
                    .map_err(|error| error.to_string())?;
            Ok(Box::new(wire) as Box<dyn Wire>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_web_socket_addresses() {
        for good in [
            "ws://127.0.0.1:9944",
            "wss://entrypoint-finney.opentensor.ai:443",
            "wss://node.example/key",
            "ws://[::1]:9944",
        ] {
            assert_eq!(Endpoint::parse(good).unwrap().url(), good);
        }
        for bad in
            ["", "finney", "http://x:1", "wss://", "ws://a b", "wss://user:pass@host:1", "ws:///x"]
        {
            let error = Endpoint::parse(bad).unwrap_err();
            assert!(error.to_string().contains("write ws://HOST:PORT"), "{bad}: {error}");
        }
    }

    #[test]
    fn what_may_be_a_key_is_not_shown() {
        let endpoint = Endpoint::parse("wss://node.example:443/secret-key?token=abc").unwrap();
        assert_eq!(endpoint.to_string(), "wss://node.example:443");
        assert_eq!(format!("{endpoint:?}"), "Endpoint(wss://node.example:443)");
    }
}
