//! Published rounds of drand, and relays on this machine that hang, lie, lag and cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use grail_infrastructure::clock::Clock;
use grail_infrastructure::drand::pulse::{self, Pulses};
use grail_infrastructure::drand::{
    Drand, DrandBeacon, DrandChain, DrandConfig, DrandConfigError, RELAYS_MAX, describe,
};
use grail_infrastructure::local::beacon::LocalBeacon;
use grail_ports::beacon::{Beacon as _, BeaconError, BeaconSchedule};
use grail_testkit::vectors::{every_case, float, integer, text};
use serde_json::{Value, json};

const QUICKNET: &str = include_str!("../vectors/quicknet_rounds.json");
const DEFAULT: &str = include_str!("../vectors/drand_default_rounds.json");
const ROUND: u64 = 1000;

fn rounds(file: &str) -> Vec<Value> {
    serde_json::from_str(file).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap_or_default()).unwrap()
}

/// What a relay does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Relay {
    Honest,
    Hangs,
    Lies,
    OtherRound,
    Floods,
    Cuts,
    Breaks,
    Lags,
    Babbles,
}

/// Starts a relay; returns its address and how often it was asked.
async fn start(kind: Relay) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let answer = move |Path((chain, round)): Path<(String, u64)>| {
        let counter = Arc::clone(&counter);
        async move {
            counter.fetch_add(1, Ordering::Relaxed);
            assert_eq!(chain, DrandChain::Quicknet.hash());
            reply(kind, round).await
        }
    };
    let app = Router::new().route("/{chain}/public/{round}", get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, asked)
}

async fn reply(kind: Relay, round: u64) -> Response {
    let mut answer = rounds(QUICKNET).into_iter().find(|known| known["round"] == round).unwrap();
    match kind {
        Relay::Honest => {}
        Relay::Hangs => std::future::pending().await,
        Relay::Lies => answer["randomness"] = json!("11".repeat(32)),
        Relay::OtherRound => {
            answer = rounds(QUICKNET).into_iter().find(|known| known["round"] != round).unwrap();
        }
        Relay::Floods => answer["padding"] = json!("x".repeat(1 << 20)),
        Relay::Cuts => {
            let start: Result<_, std::io::Error> = Ok(answer.to_string()[..40].to_owned());
            let cut = Err(std::io::Error::other("cut"));
            return Body::from_stream(futures::stream::iter([start, cut])).into_response();
        }
        Relay::Breaks => return StatusCode::BAD_GATEWAY.into_response(),
        Relay::Lags => return StatusCode::NOT_FOUND.into_response(),
        Relay::Babbles => return "<html>welcome</html>".into_response(),
    }
    answer.to_string().into_response()
}

fn late() -> Clock {
    Arc::new(|| 2_000_000_000_000)
}

fn client(relays: Vec<String>, deadline: Duration) -> Drand {
    let hedge_after = Duration::from_millis(20);
    let config = DrandConfig { relays, deadline, hedge_after, ..DrandConfig::public() };
    Drand::new(DrandChain::Quicknet, config, late()).unwrap()
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn published_rounds_verify_and_no_flipped_bit_does() {
    for (chain, file) in [(DrandChain::Quicknet, QUICKNET), (DrandChain::Default, DEFAULT)] {
        let mut verified = 0;
        for known in rounds(file) {
            let round = known["round"].as_u64().unwrap();
            let (previous, signature) =
                (bytes(&known["previous_signature"]), bytes(&known["signature"]));
            let found = chain.verify(round, &previous, &signature).unwrap();
            if let Some(randomness) = known["randomness"].as_str() {
                assert_eq!(found.randomness.to_hex(), randomness);
            }
            verified += 1;
            for bit in (0..signature.len() * 8).step_by(37) {
                let mut flipped = signature.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(chain.verify(round, &previous, &flipped).is_err(), "{chain} bit {bit}");
            }
            for other in [0, 1, round + 1] {
                assert!(chain.verify(other, &previous, &signature).is_err(), "{chain} {other}");
            }
            if chain == DrandChain::Default {
                let mut flipped = previous.clone();
                flipped[7] ^= 1;
                assert!(chain.verify(round, &flipped, &signature).is_err());
                assert!(chain.verify(round, &[], &signature).is_err());
            }
        }
        assert!(verified >= 2);
    }
}

#[test]
fn rounds_and_times_fit_the_reference() {
    every_case("beacon", "drand_rounds.json", |case| {
        let schedule = match text(&case["chain"]) {
            "quicknet" => DrandChain::Quicknet.schedule(),
            _ => DrandChain::Default.schedule(),
        };
        // Cases between whole seconds do not repeat the schedule.
        if !case["period"].is_null() {
            assert_eq!(i128::from(schedule.genesis_ms), integer(&case["genesis_time"]) * 1000);
            assert_eq!(i128::from(schedule.period_ms), integer(&case["period"]) * 1000);
        }
        let round = integer(&case["round"]);
        // The reference counts rounds below 1 for times before the first; here there are none.
        let now_ms = (float(&case["timestamp"]) * 1000.0).max(0.0) as u64;
        let newest = i128::from(schedule.first_round_after(now_ms)) - 1;
        assert_eq!(newest, round.max(0), "{case}");
    });
}

#[tokio::test]
async fn the_first_valid_answer_wins_whatever_the_others_do() {
    for kind in [
        Relay::Hangs,
        Relay::Lies,
        Relay::OtherRound,
        Relay::Floods,
        Relay::Cuts,
        Relay::Breaks,
        Relay::Lags,
        Relay::Babbles,
    ] {
        let (bad, _) = start(kind).await;
        let (good, _) = start(Relay::Honest).await;
        let drand = client(vec![bad, good], LONG);
        let round = drand.fetch(ROUND).await.unwrap().unwrap();
        assert_eq!(round.randomness.to_hex(), text(&rounds(QUICKNET)[0]["randomness"]), "{kind:?}");
    }
}

#[tokio::test]
async fn without_a_valid_answer_there_is_an_error_and_never_randomness() {
    for (kind, is_a_lie) in [
        (Relay::Lies, true),
        (Relay::OtherRound, true),
        (Relay::Floods, true),
        (Relay::Babbles, true),
        (Relay::Cuts, false),
        (Relay::Breaks, false),
    ] {
        let (relay, _) = start(kind).await;
        let error = client(vec![relay], LONG).fetch(ROUND).await.unwrap_err();
        assert_eq!(matches!(error, BeaconError::Invalid { .. }), is_a_lie, "{kind:?}: {error}");
    }
    let (silent, _) = start(Relay::Hangs).await;
    let error = client(vec![silent], Duration::from_millis(100)).fetch(ROUND).await.unwrap_err();
    assert!(matches!(error, BeaconError::Unavailable(_)), "{error}");
    let (behind, _) = start(Relay::Lags).await;
    assert_eq!(client(vec![behind], LONG).fetch(ROUND).await, Ok(None));
}

#[tokio::test]
async fn a_relay_that_failed_is_asked_last_and_no_round_twice() {
    let (bad, bad_asked) = start(Relay::Lies).await;
    let (good, good_asked) = start(Relay::Honest).await;
    let relays = vec![bad, good];
    let config = DrandConfig { relays, deadline: LONG, hedge_after: LONG, ..DrandConfig::public() };
    let drand = Drand::new(DrandChain::Quicknet, config, late()).unwrap();
    drand.fetch(ROUND).await.unwrap().unwrap();
    drand.fetch(ROUND).await.unwrap().unwrap();
    let count = |asked: &AtomicUsize| asked.load(Ordering::Relaxed);
    assert_eq!((count(&bad_asked), count(&good_asked)), (1, 1));
    drand.fetch(123).await.unwrap().unwrap();
    assert_eq!((count(&bad_asked), count(&good_asked)), (1, 2));
}

#[tokio::test]
async fn a_round_that_is_not_out_costs_no_question() {
    let (relay, asked) = start(Relay::Honest).await;
    let config = DrandConfig { relays: vec![relay], ..DrandConfig::public() };
    let clock: Clock = Arc::new(|| DrandChain::Quicknet.schedule().time_of_ms(ROUND) - 1);
    let drand = Arc::new(Drand::new(DrandChain::Quicknet, config, clock).unwrap());
    let beacon = DrandBeacon::new(drand).unwrap();
    assert_eq!(beacon.round(ROUND).await, Ok(None));
    assert_eq!(beacon.round(0).await, Ok(None));
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    assert_eq!(beacon.round(123).await.unwrap().unwrap().round, 123);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let new = |chain, relays: Vec<String>| {
        Drand::new(chain, DrandConfig { relays, ..DrandConfig::public() }, late())
    };
    for count in [0, RELAYS_MAX + 1] {
        let relays = vec!["https://api.drand.sh".to_owned(); count];
        let error = new(DrandChain::Quicknet, relays).err();
        assert_eq!(error, Some(DrandConfigError::RelayCount(count)));
    }
    for address in ["", "api.drand.sh", "ftp://api.drand.sh"] {
        let error = new(DrandChain::Quicknet, vec![address.to_owned()]).err();
        assert_eq!(error, Some(DrandConfigError::Address(address.to_owned())));
    }
    let chained = new(DrandChain::Default, vec!["https://api.drand.sh".to_owned()]).unwrap();
    let error = DrandBeacon::new(Arc::new(chained)).err();
    assert_eq!(error, Some(DrandConfigError::Chained("default")));
    assert!("fastnet".parse::<DrandChain>().is_err());
}

/// A chain whose pallet holds what it is given.
struct Pallet(Option<Vec<u8>>);

#[async_trait]
impl Pulses for Pallet {
    async fn pulse(&self, _round: u64) -> Result<Option<Vec<u8>>, BeaconError> {
        Ok(self.0.clone())
    }
}

#[tokio::test]
async fn a_pulse_of_the_chain_is_checked_as_a_relay_is() {
    let known = &rounds(QUICKNET)[0];
    let (randomness, signature) = (bytes(&known["randomness"]), bytes(&known["signature"]));
    // Both lengths are below 64, so that their SCALE length is one byte.
    let length = |bytes: &[u8]| [u8::try_from(bytes.len() << 2).unwrap()];
    let pulse = [
        &ROUND.to_le_bytes()[..],
        &length(&randomness),
        &randomness,
        &length(&signature),
        &signature,
    ]
    .concat();
    let found = pulse::fetch(&Pallet(Some(pulse.clone())), ROUND).await.unwrap().unwrap();
    assert_eq!(found.signature, signature);
    assert_eq!(pulse::fetch(&Pallet(None), ROUND).await, Ok(None));
    assert!(pulse::read(ROUND + 1, &pulse).is_err());
    for length in 0..pulse.len() {
        assert!(pulse::read(ROUND, &pulse[..length]).is_err(), "{length} bytes");
    }
    for bit in (0..pulse.len() * 8).step_by(11) {
        let mut flipped = pulse.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(pulse::read(ROUND, &flipped).is_err(), "bit {bit}");
    }
    assert!(pulse::read(ROUND, &vec![0; 600]).is_err());
}

/// Serves `info` as the description of every chain.
async fn describe_all(info: Value) -> String {
    let app = Router::new().route("/{chain}/info", get(move || async move { info.to_string() }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn a_chain_is_learnt_by_its_hash_and_from_no_liar() {
    let schedule = BeaconSchedule { genesis_ms: 1_000_000, period_ms: 500 };
    let own = LocalBeacon::from_seed(&[7; 32], schedule, late()).unwrap();
    let other = LocalBeacon::from_seed(&[8; 32], schedule, late()).unwrap();
    let truthful = describe_all(serde_json::to_value(own.info()).unwrap()).await;
    let wrong = describe_all(serde_json::to_value(other.info()).unwrap()).await;
    let mut forged = serde_json::to_value(other.info()).unwrap();
    forged["hash"] = json!(own.info().hash);
    let forged = describe_all(forged).await;
    let babbling = describe_all(json!("welcome")).await;
    let learn = |relays: Vec<String>| {
        let config = DrandConfig { relays, deadline: LONG, ..DrandConfig::public() };
        let hash = own.info().hash;
        async move { describe(hash, &config).await }
    };
    let relays = vec![wrong.clone(), forged.clone(), babbling.clone(), truthful];
    let chain = learn(relays).await.unwrap();
    assert_eq!((chain.hash(), chain.schedule()), (own.info().hash.to_hex(), schedule));
    assert_eq!(chain.sealing_key(), Some(own.public_key()));
    let signed = own.sign(3).unwrap();
    chain.verify(3, &[], &hex::decode(&signed.signature).unwrap()).unwrap();
    assert!(chain.verify(4, &[], &hex::decode(&signed.signature).unwrap()).is_err());
    for (liar, part) in [(wrong, "instead of"), (forged, "hashes to"), (babbling, "describe")] {
        let error = learn(vec![liar]).await.unwrap_err();
        assert!(matches!(error, BeaconError::Unavailable(_)), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let public = DrandConfig::public();
    let quicknet = describe(DrandChain::Quicknet.hash().parse().unwrap(), &public);
    assert_eq!(quicknet.await.unwrap(), DrandChain::Quicknet, "no relay is asked");
}
