//! A server on a free port, and a client that speaks its JSON.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use grail_protocol::ids::TokenId;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;

use super::super::{App, Keys, Limits, Server};
use crate::inference::engine::{SequenceEngine, SequenceRequest};
use crate::inference::fake::model;

/// The end token of the embedded model.
pub const END: TokenId = 2;

/// Bounds that fit the embedded model and the fake engine.
pub const LIMITS: Limits = Limits {
    context_max: 512,
    running_max: 64,
    queue_max: 64,
    request_time: Duration::from_secs(120),
};

/// A running server.
pub struct Up {
    pub server: Server,
    pub client: Client,
    pub base: String,
}

/// Starts a server that is open to everybody.
pub async fn up(engine: Arc<dyn SequenceEngine>, limits: Limits) -> Up {
    up_with(engine, limits, Keys::default()).await
}

/// Starts a server.
pub async fn up_with(engine: Arc<dyn SequenceEngine>, limits: Limits, keys: Keys) -> Up {
    let app = Arc::new(App::new("tiny".to_owned(), model(), engine, limits, keys));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::start(app, address).await.unwrap();
    let base = format!("http://{}", server.address());
    grail_infrastructure::tls::install_provider();
    let client = Client::builder().no_proxy().build().unwrap();
    Up { server, client, base }
}

impl Up {
    pub fn request(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.base)).json(body)
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.client.get(format!("{}{path}", self.base)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Posts and returns status and body.
    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let answer = self.request(path, &body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Posts what must be answered.
    pub async fn ok(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Posts and returns the events of the stream; the last one must be `[DONE]`.
    pub async fn events(&self, path: &str, body: Value) -> Vec<Value> {
        let mut events = self.raw_events(path, body).await;
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    /// Posts and returns the data of the stream's events.
    pub async fn raw_events(&self, path: &str, body: Value) -> Vec<String> {
        let answer = self.request(path, &body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let text = answer.text().await.unwrap();
        let events = text.split("\n\n").filter(|event| !event.is_empty());
        events.filter_map(|event| Some(event.strip_prefix("data: ")?.to_owned())).collect()
    }
}

/// Returns a script that says `text` and ends.
pub fn says(text: &str) -> impl Fn(&SequenceRequest) -> Vec<TokenId> + Send + Sync + 'static {
    let ids = [ids(text), vec![END]].concat();
    move |_| ids.clone()
}

/// Returns the token ids of a text.
pub fn ids(text: &str) -> Vec<TokenId> {
    model().tokenizer().encode(text, false).unwrap()
}

/// Returns the seconds of a refusal's `Retry-After`.
pub fn retry_after(answer: &Response) -> u32 {
    answer.headers()["retry-after"].to_str().unwrap().parse().unwrap()
}
