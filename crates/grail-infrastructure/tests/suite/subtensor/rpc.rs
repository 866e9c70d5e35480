//! Calls end in time, whatever the nodes do, and come back without a restart.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grail_infrastructure::subtensor::rpc::{
    ConnectionCount, Endpoint, MESSAGE_BYTES_MIN, Repeat, RpcClient, RpcConfig, RpcError,
    WebSocketConnector,
};
use grail_ports::observer::{Observation, Observer, Outcome, Service};
use grail_testkit::vectors;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::node::{Answer, Memory, Node, client, config, recorded_answer, url};

fn read(client: &RpcClient) -> impl Future<Output = Result<Value, RpcError>> {
    client.call("chain_getHeader", json!([]), Repeat::Allowed)
}

#[tokio::test(start_paused = true)]
async fn answers_find_their_callers() {
    let node = Node::new(|method, params| {
        let wait = params[0].as_u64().unwrap();
        let answer = Answer::Result(json!([method, params]));
        Answer::After(Duration::from_millis(wait), Box::new(answer))
    });
    let (client, _) = client(&[("a", node.clone())]);
    let calls = [30, 10, 20].map(|wait| client.call("x", json!([wait]), Repeat::Never));
    let answers = futures::future::join_all(calls).await;
    for (answer, wait) in answers.into_iter().zip([30, 10, 20]) {
        assert_eq!(answer.unwrap(), json!(["x", [wait]]));
    }
    assert_eq!(client.connections(), ConnectionCount(1));
    assert_eq!(client.peer(), Ok(url("a")));
    client.close().await;
    assert_eq!(read(&client).await, Err(RpcError::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_passed_over_at_once() {
    let (dead, alive) = (Node::echo(), Node::echo());
    dead.set_down(true);
    let (client, memory) = client(&[("dead", dead), ("alive", alive)]);
    let start = Instant::now();
    read(&client).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    let tried: Vec<String> = memory.tried().into_iter().map(|(name, _)| name).collect();
    assert_eq!(tried, [url("dead"), url("alive")]);
}

#[tokio::test(start_paused = true)]
async fn waits_between_rounds_grow_to_the_cap_and_calls_end_in_time() {
    let node = Node::echo();
    node.set_down(true);
    let (client, memory) = client(&[("a", node.clone()), ("b", node.clone())]);
    let start = Instant::now();
    let error = read(&client).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::from_secs(15));
    assert!(matches!(&error, RpcError::Disconnected(why) if why.contains("connection refused")));
    tokio::time::sleep(Duration::from_secs(300)).await;
    let tried = memory.tried();
    let rounds: Vec<Duration> =
        tried.chunks(2).map(|round| round[0].1.duration_since(start)).collect();
    for (n, pair) in rounds.windows(2).enumerate() {
        let bound = Duration::from_secs(30).min(Duration::from_secs(1 << n.min(10)));
        let wait = pair[1] - pair[0];
        assert!(wait <= bound && wait >= bound / 2, "round {n}: {wait:?} of {bound:?}");
    }
    assert!(rounds.len() > 10, "it goes on for ever: {}", rounds.len());
    // Once the node is back, so are we, after one wait at most and without a restart.
    node.set_down(false);
    let back = Instant::now();
    while read(&client).await.is_err() {}
    assert!(back.elapsed() <= Duration::from_secs(30), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_is_left_for_the_next() {
    let hanging = Node::new(|_, _| Answer::Silence);
    let (client, _) = client(&[("hanging", hanging), ("alive", Node::echo())]);
    let start = Instant::now();
    let error = read(&client).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::from_secs(15));
    assert!(matches!(error, RpcError::TimedOut { .. }), "{error}");
    read(&client).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(15));
    assert_eq!(client.peer(), Ok(url("alive")));
}

/// Keeps what it is told.
#[derive(Default)]
struct Seen(Mutex<Vec<Observation>>);

impl Observer for Seen {
    fn observe(&self, observation: Observation) {
        self.0.lock().unwrap().push(observation);
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_calls_and_connections() {
    let (dead, hanging) = (Node::echo(), Node::new(|_, _| Answer::Silence));
    dead.set_down(true);
    let nodes = [("dead", dead), ("hanging", hanging), ("alive", Node::echo())];
    let names = nodes.each_ref().map(|(name, _)| *name);
    let seen = Arc::new(Seen::default());
    let client = RpcClient::start_observed(config(&names), Memory::new(&nodes), seen.clone());
    read(&client).await.unwrap_err();
    read(&client).await.unwrap();
    client.close().await;
    read(&client).await.unwrap_err();
    let call = |outcome, took_s| Observation::Call {
        service: Service::ChainNode,
        call: "chain_getHeader",
        outcome,
        took: Duration::from_secs(took_s),
    };
    let connected = |name| Observation::Connected { endpoint: url(name) };
    let disconnected = |name| Observation::Disconnected { endpoint: url(name) };
    assert_eq!(
        *seen.0.lock().unwrap(),
        [
            disconnected("dead"),
            connected("hanging"),
            call(Outcome::TimedOut, 15),
            disconnected("hanging"),
            connected("alive"),
            call(Outcome::Ok, 0),
            disconnected("alive"),
            call(Outcome::Closed, 0),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_does_not_cost_the_connection_while_others_come() {
    let node = Node::new(|method, _| match method {
        "slow" => Answer::After(Duration::from_secs(40), Box::new(Answer::Result(json!(1)))),
        _ => Answer::Result(json!(2)),
    });
    let (client, _) = client(&[("a", node)]);
    let slow = client.call("slow", json!([]), Repeat::Allowed);
    let quick = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        read(&client).await
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert!(matches!(slow, Err(RpcError::TimedOut { .. })));
    assert_eq!(quick, Ok(json!(2)));
    // The answer comes when nobody waits for it any more.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(read(&client).await, Ok(json!(2)));
    assert_eq!(client.connections(), ConnectionCount(1));
    // A call that may take longer is given longer.
    let limit = Duration::from_secs(60);
    let answer = client.call_within("slow", json!([]), Repeat::Never, limit).await;
    assert_eq!(answer, Ok(json!(1)));
}

#[tokio::test(start_paused = true)]
async fn reads_are_sent_again_and_changes_are_not() {
    let calls = Arc::new(AtomicU32::new(0));
    let count = calls.clone();
    let node = Node::new(move |_, _| match count.fetch_add(1, Ordering::SeqCst) {
        0 | 2 => Answer::HangUp,
        n => Answer::Result(json!(n)),
    });
    let (client, _) = client(&[("a", node)]);
    assert_eq!(read(&client).await, Ok(json!(1)));
    let error = client.call("author_submitExtrinsic", json!([]), Repeat::Never).await.unwrap_err();
    assert!(
        matches!(&error, RpcError::Disconnected(why) if why.contains("ws://a.test")),
        "{error}"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 3, "it was not sent again");
    assert_eq!(read(&client).await, Ok(json!(3)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_kills_every_connection_is_given_up() {
    let node = Node::new(|_, _| Answer::HangUp);
    let (client, _) = client(&[("a", node.clone()), ("b", node.clone())]);
    assert!(matches!(read(&client).await, Err(RpcError::Disconnected(_))));
    assert_eq!(node.calls().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_time_is_over_is_never_sent() {
    let node = Node::echo();
    node.set_down(true);
    let (client, _) = client(&[("a", node.clone())]);
    assert!(client.call("author_submitExtrinsic", json!([]), Repeat::Never).await.is_err());
    node.set_down(false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    read(&client).await.unwrap();
    assert_eq!(node.calls(), ["chain_getHeader"]);
}

#[tokio::test(start_paused = true)]
async fn nonsense_ends_the_connection_and_wrong_answers_do_not() {
    for text in ["not JSON", "[1]", "{\"jsonrpc\":\"2.0\"}", "\u{feff}{}"] {
        let broken = text.to_owned();
        let node = Node::new(move |_, _| Answer::Text(broken.clone()));
        let (client, _) = client(&[("a", node)]);
        let error = client.call("x", json!([]), Repeat::Never).await.unwrap_err();
        assert!(matches!(error, RpcError::Disconnected(_)), "{text}: {error}");
    }
    let node = Node::new(|method, _| match method {
        "string" => Answer::Error(json!("refused")),
        "none" => Answer::Text(r#"{"jsonrpc":"2.0","id":2}"#.to_owned()),
        "unasked" => Answer::Text(r#"{"jsonrpc":"2.0","id":99,"result":1}"#.to_owned()),
        _ => Answer::Text(r#"{"jsonrpc":"2.0","id":4,"error":null,"result":7}"#.to_owned()),
    });
    let (client, _) = client(&[("a", node)]);
    let string = client.call("string", json!([]), Repeat::Never).await;
    assert!(matches!(string, Err(RpcError::Malformed { .. })));
    let none = client.call("none", json!([]), Repeat::Never).await;
    assert!(matches!(none, Err(RpcError::Malformed { .. })));
    let unasked = client.call("unasked", json!([]), Repeat::Never).await;
    assert!(matches!(unasked, Err(RpcError::TimedOut { .. })));
    assert_eq!(client.connections(), ConnectionCount(1));
    assert_eq!(client.call("null error", json!([]), Repeat::Never).await, Ok(json!(7)));
}

#[tokio::test(start_paused = true)]
async fn subscriptions_end_with_their_connection_and_say_so() {
    let node = Node::new(|method, _| match method {
        "chain_subscribeNewHeads" => Answer::Messages {
            id: json!("0xab"),
            method: "chain_newHead".to_owned(),
            messages: (0..3).map(|n| (Duration::from_secs(12), json!(n))).collect(),
        },
        "break" => Answer::HangUp,
        _ => Answer::Result(json!(true)),
    });
    let (client, _) = client(&[("a", node.clone())]);
    let subscribe =
        || client.subscribe("chain_subscribeNewHeads", json!([]), "chain_unsubscribeNewHeads");
    let mut heads = subscribe().await.unwrap();
    for n in 0..3 {
        assert_eq!(heads.next().await, Ok(json!(n)));
    }
    let broken = client.call("break", json!([]), Repeat::Never).await;
    assert!(matches!(broken, Err(RpcError::Disconnected(_))));
    assert!(matches!(heads.next().await, Err(RpcError::Disconnected(_))));
    let mut heads = subscribe().await.unwrap();
    assert_eq!(heads.next().await, Ok(json!(0)));
    // A reader that leaves is noticed with the next message, and the node is told.
    drop(heads);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.calls().last().unwrap(), "chain_unsubscribeNewHeads");
    assert_eq!(client.connections(), ConnectionCount(2));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_too_slow_loses_the_subscription_not_the_memory() {
    let node = Node::new(|_, _| Answer::Messages {
        id: json!(5),
        method: "chain_newHead".to_owned(),
        messages: (0..1_000).map(|n| (Duration::ZERO, json!(n))).collect(),
    });
    let (client, _) = client(&[("a", node)]);
    let mut heads = client.subscribe("s", json!([]), "u").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut got = 0;
    let end = loop {
        match heads.next().await {
            Ok(n) => {
                assert_eq!(n, json!(got));
                got += 1;
            }
            Err(end) => break end,
        }
    };
    assert_eq!((got, end), (256, RpcError::Lagged));
}

#[tokio::test(start_paused = true)]
async fn a_line_that_went_dead_is_noticed_without_a_call() {
    // The duplex stays open; nobody reads it.
    struct Dead;
    impl grail_infrastructure::subtensor::rpc::Connector for Dead {
        fn connect<'a>(
            &'a self,
            endpoint: &'a Endpoint,
        ) -> grail_infrastructure::subtensor::rpc::WireFuture<'a> {
            Box::pin(async move {
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move {
                    let wire = tokio_tungstenite::accept_async(theirs).await.unwrap();
                    std::future::pending::<()>().await;
                    drop(wire);
                });
                WebSocketConnector::new(0).over(endpoint, ours).await
            })
        }
    }
    let client = RpcClient::start(config(&["dead"]), Arc::new(Dead));
    tokio::time::sleep(Duration::from_secs(39)).await;
    assert_eq!(client.connections(), ConnectionCount(1));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(client.connections(), ConnectionCount(2));
}

#[tokio::test(start_paused = true)]
async fn the_last_client_takes_the_connection_with_it() {
    let node = Node::echo();
    let (client, _) = client(&[("a", node.clone())]);
    read(&client).await.unwrap();
    let second = client.clone();
    drop(client);
    read(&second).await.unwrap();
    drop(second);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.connections(), 1);
    assert_eq!(node.calls().len(), 2);
}

#[tokio::test]
async fn large_messages_pass_over_a_socket_up_to_the_bound() {
    let node = Node::new(|_, params| {
        Answer::Result(json!("f".repeat(params[0].as_u64().unwrap() as usize)))
    });
    let endpoint = serve(node.clone(), None).await;
    let config = RpcConfig { message_bytes_max: 0, ..RpcConfig::new(vec![endpoint]) };
    let client = RpcClient::connect(config);
    let ask = |bytes: usize| client.call("x", json!([bytes]), Repeat::Never);
    let fits = MESSAGE_BYTES_MIN - 100;
    assert_eq!(ask(fits).await.unwrap().as_str().unwrap().len(), fits);
    let error = ask(MESSAGE_BYTES_MIN + 1).await.unwrap_err();
    assert!(matches!(error, RpcError::Disconnected(_)), "{error}");
    assert_eq!(ask(3).await, Ok(json!("fff")));
    client.close().await;
}

#[tokio::test]
async fn tls_is_spoken_and_certificates_are_checked() {
    grail_infrastructure::tls::install_provider();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der());
    let server = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key.into())
        .unwrap();
    let endpoint = serve(Node::echo(), Some(Arc::new(server))).await;
    let config =
        RpcConfig { call_timeout: Duration::from_millis(500), ..RpcConfig::new(vec![endpoint]) };

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.cert.der().clone()).unwrap();
    let trusting =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = WebSocketConnector::with_tls(0, Arc::new(trusting));
    let client = RpcClient::start(config.clone(), Arc::new(connector));
    assert_eq!(read(&client).await, Ok(json!(["chain_getHeader", []])));

    let client = RpcClient::connect(config);
    let error = read(&client).await.unwrap_err();
    assert!(
        matches!(&error, RpcError::Disconnected(why) if why.contains("certificate")),
        "{error}"
    );
}

/// Serves `node` on a free port of 127.0.0.1 and returns its address.
async fn serve(node: Node, tls: Option<Arc<rustls::ServerConfig>>) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let scheme = if tls.is_some() { "wss" } else { "ws" };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (node, tls) = (node.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => node.serve(stream).await,
                    Some(tls) => {
                        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
                        if let Ok(stream) = acceptor.accept(stream).await {
                            node.serve(stream).await;
                        }
                    }
                }
            });
        }
    });
    Endpoint::parse(&format!("{scheme}://localhost:{port}")).unwrap()
}

/// Every recorded answer of a real node comes out as it was: results, errors and messages.
#[test]
fn recorded_answers_are_understood() {
    vectors::every_entry("bittensor/recorded", "rpc_node425.json", "records", 37, |record| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(replay(record));
    });
}

async fn replay(record: &Value) {
    let script = record.clone();
    let node = Node::new(move |_, _| recorded_answer(&script));
    let (client, _) = client(&[("a", node)]);
    if record["subscription"].is_string() {
        let mut subscription = client.subscribe("s", json!([]), "u").await.unwrap();
        for message in record["messages"].as_array().unwrap() {
            assert_eq!(subscription.next().await.as_ref(), Ok(&message["params"]["result"]));
        }
        return;
    }
    let outcome = client.call("recorded", record["params"].clone(), Repeat::Never).await;
    match record.get("error") {
        None => assert_eq!(outcome.as_ref(), Ok(&record["result"])),
        Some(error) => {
            let Err(RpcError::Node { error: got, .. }) = outcome else {
                panic!("{outcome:?} is not the error {error}");
            };
            assert_eq!(json!(got.code), error["code"]);
            assert!(got.says(error["message"].as_str().unwrap()));
            let data = error.get("data").and_then(Value::as_str);
            assert!(got.data.as_deref().zip(data).is_none_or(|(got, data)| data.starts_with(got)));
        }
    }
}
