//! Tests of the failures.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use grail_ports::beacon::BeaconSchedule;
use grail_ports::chain::ChainError;
use grail_ports::object_store::StoreError;
use grail_protocol::ids::Hotkey;

use super::*;
use crate::{FakeBeacon, FakeChain, FakeChainConfig, MemoryStorage, contract};

const OWNER: Hotkey = Hotkey([1; 32]);

fn storage() -> MemoryStorage {
    MemoryStorage::new(FakeChain::new(FakeChainConfig::default()).clock())
}

fn rate(kind: FaultKind) -> FaultRates {
    let mut rates = FaultRates::default();
    match kind {
        FaultKind::Unavailable => rates.unavailable = 1000,
        FaultKind::LostAnswer => rates.lost_answer = 1000,
        FaultKind::Slow => rates.slow = 1000,
        FaultKind::Corrupt => rates.corrupt = 1000,
    }
    rates
}

#[tokio::test]
async fn without_faults_the_contracts_hold() {
    let faults = Faults::new(1, FaultRates::default());
    let storage = storage();
    let buckets = faults.buckets(storage.buckets(OWNER));
    contract::object_store(&*buckets.own()).await;
    contract::buckets(&*buckets, &*faults.buckets(storage.buckets(Hotkey([2; 32])))).await;
    assert_eq!(faults.drawn(), []);
}

#[tokio::test]
async fn an_unavailable_write_has_no_effect_and_a_lost_answer_has() {
    let storage = storage();
    let put = async |kind| {
        let store = Faults::new(1, rate(kind)).buckets(storage.buckets(OWNER)).own();
        store.put("a", Bytes::from_static(b"x")).await
    };
    assert!(matches!(put(FaultKind::Unavailable).await, Err(StoreError::Unavailable(_))));
    assert_eq!(storage.peek(OWNER, "a"), None);
    assert!(matches!(put(FaultKind::LostAnswer).await, Err(StoreError::Unavailable(_))));
    assert!(storage.peek(OWNER, "a").is_some());
}

#[tokio::test]
async fn a_slow_call_waits_for_the_next_step() {
    let faults = Faults::new(1, rate(FaultKind::Slow));
    let chain = FakeChain::new(FakeChainConfig::default());
    let handle = faults.chain("miner", chain.handle(OWNER));
    let mut call = handle.head();
    let mut context = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut context).is_pending());
    assert_eq!(faults.waiting(), 1);
    chain.advance(2);
    assert!(call.as_mut().poll(&mut context).is_pending());
    faults.advance();
    assert_eq!(call.as_mut().poll(&mut context), Poll::Ready(Ok(chain.head())));
    assert_eq!(faults.waiting(), 0);
}

#[tokio::test]
async fn corrupt_answers_differ_from_the_truth() {
    let faults = Faults::new(1, rate(FaultKind::Corrupt));
    let storage = storage();
    storage.tamper(OWNER, "a", "some bytes");
    storage.tamper(OWNER, "empty", "");
    let store = faults.buckets(storage.buckets(OWNER)).own();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let bytes = store.get("a", 1 << 20).await.unwrap().unwrap();
        assert_ne!(bytes, "some bytes");
        assert!(bytes.len() <= "some bytes".len());
        seen.insert(bytes);
    }
    assert!(seen.len() > 20, "{} kinds of damage", seen.len());
    assert_ne!(store.get("empty", 1 << 20).await.unwrap().unwrap(), "");
    assert_eq!(store.get("absent", 1 << 20).await, Ok(None));

    let chain = FakeChain::new(FakeChainConfig::default());
    let head = faults.chain("miner", chain.handle(OWNER)).head().await;
    assert!(matches!(head, Err(ChainError::Malformed { .. })));
    let schedule = BeaconSchedule { genesis_ms: 0, period_ms: 3_000 };
    let beacon = faults.beacon("miner", Arc::new(FakeBeacon::new(schedule, chain.clock(), 0)));
    assert!(beacon.round(1).await.is_err());
}

#[tokio::test]
async fn luck_depends_on_the_seed_and_the_call_but_not_on_other_calls() {
    let run = async |seed: u64, also_others: bool| {
        let faults = Faults::new(seed, FaultRates { unavailable: 300, ..FaultRates::default() });
        let store = faults.buckets(storage().buckets(OWNER)).own();
        let mut outcomes = Vec::new();
        for _ in 0..200 {
            if also_others {
                let _ = store.head("other").await;
            }
            outcomes.push(store.head("a").await.is_err());
        }
        outcomes
    };
    let outcomes = run(7, false).await;
    assert_eq!(outcomes, run(7, true).await);
    assert_ne!(outcomes, run(8, false).await);
    let failures = outcomes.iter().filter(|failed| **failed).count();
    assert!((30..=90).contains(&failures), "{failures} of 200 at 30 %");
}
