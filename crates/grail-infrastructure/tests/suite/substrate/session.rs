//! A whole session of a real node, spec 425: every transaction, event and read, with its own metadata
//! of format 14.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use grail_infrastructure::substrate::{
    Address, DispatchError, Era, EventRecord, Extrinsic, Header, Metadata, Phase, SignedExtrinsic,
    SigningContext, Value, blake2_256, outcome,
};
use grail_infrastructure::subtensor::schedule::EpochState;
use grail_infrastructure::subtensor::weights::quicknet_key;
use grail_protocol::timelock::drand::open_commit;
use grail_protocol::timelock::{RoundOpener, RoundSignature};
use grail_testkit::vectors::{bytes, every_entry, list, load, path, text};
use serde_json::Value as Json;

use super::extrinsics::context;
use super::{SPEC_393, SPEC_425, SPEC_461, json};

const TOPIC: &str = "bittensor/recorded";
const FILE: &str = "session_node425.json";

static SESSION: LazyLock<Json> = LazyLock::new(|| load(TOPIC, FILE));

fn bytes32(json: &Json) -> [u8; 32] {
    bytes(json).try_into().unwrap()
}

fn signed(case: &Json) -> SignedExtrinsic {
    match SPEC_425.decode_extrinsic(&bytes(&case["extrinsic"])).unwrap() {
        Extrinsic::Signed(signed) => signed,
        Extrinsic::Bare(_) => panic!("{case} is signed"),
    }
}

#[test]
fn every_transaction_is_read_by_name_and_written_again() {
    every_entry(TOPIC, FILE, "transactions", 61, |case| {
        let extrinsic = bytes(&case["extrinsic"]);
        assert_eq!(blake2_256(&extrinsic).as_slice(), bytes(&case["extrinsic_hash"]));
        let signed = signed(case);
        assert_eq!(Address::of(signed.account).to_string(), text(&case["signer"]));
        assert_eq!(Some(signed.with.nonce), case["nonce"].as_u64(), "{case}");
        assert_eq!(signed.call, bytes(&case["call"]));

        // From names and arguments alone: call, extensions, and what surrounds them.
        let call = SPEC_425.decode_call(&signed.call).unwrap();
        let Value::Record(arguments) = &call.arguments else { panic!("{call:?}") };
        let by_name = arguments.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let written = SPEC_425.encode_call(&call.pallet, &call.name, by_name).unwrap();
        assert_eq!(written, signed.call, "{case}");
        let payload =
            SPEC_425.signing_payload(&written, signed.with, &session_context(), [0; 32]).unwrap();
        assert_eq!(payload.into_extrinsic(signed.account, &signed.signature), extrinsic);
        for cut in 0..extrinsic.len() {
            assert!(SPEC_425.decode_extrinsic(&extrinsic[..cut]).is_err());
        }
    });
}

fn session_context() -> SigningContext {
    context(&SESSION)
}

/// A signature covers the hash of the block that the era begins with, where the session tells it.
#[test]
fn signatures_are_those_that_the_node_took_and_refused() {
    let blocks = || {
        let cases = list(&SESSION["transactions"]).iter();
        cases.filter_map(|case| Some((case["block"].as_u64()?, bytes32(&case["block_hash"]))))
    };
    let (good, bad, unknown) = (Cell::new(0), Cell::new(0), Cell::new(0));
    every_entry(TOPIC, FILE, "transactions", 61, |case| {
        let (context, signed) = (session_context(), signed(case));
        let hashes: BTreeMap<u64, [u8; 32]> = blocks().collect();
        let known = match (signed.with.era, case["block"].as_u64()) {
            (Era::Immortal, _) => Some(context.genesis),
            (era, Some(block)) => hashes.get(&era.birth(block - 1)).copied(),
            (_, None) => None,
        };
        let verifies = |birth: [u8; 32]| signed.verify(&SPEC_425, &context, birth).unwrap().is_ok();
        let is_refused =
            case["rpc_error"]["data"].as_str() == Some("Transaction has a bad signature");
        if is_refused {
            assert!(!verifies(known.unwrap_or_default()), "{case}");
            assert!(hashes.values().all(|hash| !verifies(*hash)), "{case}");
            bad.set(bad.get() + 1);
        } else if let Some(birth) = known {
            assert!(verifies(birth), "{case}");
            let other = SigningContext { spec_version: context.spec_version + 1, ..context };
            assert!(signed.verify(&SPEC_425, &other, birth).unwrap().is_err());
            good.set(good.get() + 1);
        } else {
            unknown.set(unknown.get() + 1);
        }
    });
    println!(
        "{} signatures, {} bad ones, {} of unknown blocks",
        good.get(),
        bad.get(),
        unknown.get()
    );
    assert!(good.get() >= unknown.get(), "almost all are of known blocks");
}

fn assert_events(found: &[EventRecord], expected: &Json) {
    let expected = list(expected);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!((found.pallet.as_str(), found.name.as_str()), {
            (text(&expected["pallet"]), text(&expected["event"]))
        });
        json::assert_is(&found.fields, &expected["fields"], &found.name);
    }
}

fn events(scale: &Json) -> Vec<EventRecord> {
    let scale = bytes(scale);
    let events = SPEC_425.decode_events(Some(&scale)).unwrap();
    assert_eq!(SPEC_425.encode_events(&events).unwrap(), scale, "read and written again");
    for cut in 0..scale.len() {
        assert!(SPEC_425.decode_events(Some(&scale[..cut])).is_err());
    }
    events
}

#[test]
fn every_event_and_every_refusal_has_its_name() {
    let names = RefCell::new(BTreeSet::new());
    every_entry(TOPIC, FILE, "transactions", 61, |case| {
        let Some(index) = case["extrinsic_index"].as_u64() else {
            assert!(case.get("events_scale").is_none(), "it is in no block");
            return;
        };
        let index = u32::try_from(index).unwrap();
        let events = events(&case["events_scale"]);
        let phase = Phase::ApplyExtrinsic(index);
        let own: Vec<EventRecord> =
            events.iter().filter(|event| event.phase == phase).cloned().collect();
        assert_events(&own, &case["events"]);

        match outcome(&SPEC_425, &events, index).unwrap().unwrap() {
            Ok(()) => assert_eq!(case["ok"], true, "{case}"),
            Err(DispatchError::Module(error)) => {
                assert_eq!(case["ok"], false, "{case}");
                assert_eq!(error.name, text(&case["error"]["name"]));
                let pallet = SPEC_425.pallet_index(&error.pallet).unwrap();
                assert_eq!(case["error"]["pallet_index"], pallet);
                assert!(!error.docs.is_empty(), "the runtime's source says what {error:?} is");
                names.borrow_mut().insert((error.pallet, error.name));
            }
            Err(other) => panic!("{other}: {case}"),
        }
    });
    println!("{} errors by name", names.borrow().len());
    // The same errors have other numbers in other runtimes, and the same names.
    for (pallet, name) in names.into_inner() {
        for metadata in [&*SPEC_393, &SPEC_425, &SPEC_461] {
            let Ok(value) = metadata.error_value(&pallet, &name) else {
                assert!(
                    metadata.pallet_index(&pallet).is_ok(),
                    "an older runtime has fewer errors"
                );
                continue;
            };
            let Ok(DispatchError::Module(error)) = metadata.dispatch_error(&value) else {
                panic!("{pallet}.{name}")
            };
            assert_eq!((&error.pallet, &error.name), (&pallet, &name));
        }
    }
}

#[test]
fn every_read_has_its_key_and_its_value() {
    every_entry(TOPIC, FILE, "reads", 60, |read| {
        if read.get("runtime_api").is_some() {
            assert_runtime_answer(read);
        } else if read.get("rpc").is_some() {
            assert_page(read);
        } else {
            assert_stored(read);
        }
    });
}

fn assert_stored(read: &Json) {
    let item = SPEC_425.storage(text(&read["pallet"]), text(&read["item"])).unwrap();
    let keys: Vec<Value> = list(&read["params"]).iter().map(json::value).collect();
    assert_eq!(item.key(&keys).unwrap(), bytes(&read["key"]), "{read}");
    let scale = read["value_scale"].as_str().map(|_| bytes(&read["value_scale"]));
    match item.decode(scale.as_deref()).unwrap() {
        None => assert!(read["decoded"].is_null() && item.is_optional(), "{read}"),
        // The packages say nothing of an absent value whose default is empty.
        Some(value) if read["decoded"].is_null() => {
            assert_eq!(item.encode(&value).unwrap(), item.default_bytes(), "{read}");
        }
        Some(value) => {
            json::assert_is(&value, &read["decoded"], item.name());
            let written = item.encode(&value).unwrap();
            assert_eq!(written, scale.unwrap_or_else(|| item.default_bytes().to_vec()));
        }
    }
}

/// A page of a map's keys: the map is the one that the session reads under that prefix.
fn assert_page(page: &Json) {
    let prefix = bytes(&page["params"][0]);
    let is_map = |read: &&Json| read["key"].is_string() && bytes(&read["key"]).starts_with(&prefix);
    let read = list(&SESSION["reads"]).iter().find(is_map).unwrap();
    let item = SPEC_425.storage(text(&read["pallet"]), text(&read["item"])).unwrap();
    let netuid = json::value(&read["params"][0]);
    assert_eq!(item.key(std::slice::from_ref(&netuid)).unwrap(), prefix);
    let keys = list(&page["result"]);
    for key in keys {
        let key = bytes(key);
        let read = item.read_key(&key).unwrap();
        assert_eq!(read[0], netuid);
        assert_eq!(item.key(&read).unwrap(), key);
    }
    assert!(!keys.is_empty() && keys.is_sorted_by_key(text), "{page}");
}

/// Format 14 describes no runtime API, so the answers are read as the two runtimes say that describe
/// theirs: one older and one newer than the recorded one.
fn assert_runtime_answer(read: &Json) {
    let (api, name) = text(&read["runtime_api"]).split_once('_').unwrap();
    assert!(SPEC_425.runtime_function(api, name).is_err(), "format 14 describes none");
    let answer = bytes(&read["result_scale"]);
    let described: [&Metadata; 2] = [&SPEC_461, &SPEC_393];
    let fitting = described.into_iter().filter_map(|metadata| {
        let function = metadata.runtime_function(api, name).ok()?;
        let arguments = function.decode_arguments(&bytes(&read["args"])).unwrap();
        assert_eq!(function.encode_arguments(&arguments).unwrap(), bytes(&read["args"]));
        let value = function.decode(&answer).ok()?;
        assert_eq!(function.encode(&value).unwrap(), answer);
        Some(value)
    });
    let values: Vec<Value> = fitting.collect();
    assert!(!values.is_empty(), "no description fits {api}.{name}");
    for value in values {
        json::assert_is(&value, &read["decoded"], name);
    }
}

#[test]
fn the_node_opened_the_seal_when_and_as_predicted() {
    every_entry(TOPIC, FILE, "headers", 1, |record| {
        assert_eq!(header(&record["result"]).hash(), bytes32(&record["params"][0]));
    });
    if !path(TOPIC, FILE).exists() {
        return;
    }
    let reveal = &SESSION["commit_reveal"];
    let state = &reveal["state_before_commit"];
    let number = |name: &str| state[name].as_u64().unwrap();
    let epochs = EpochState {
        tempo: number("Tempo"),
        last_epoch_block: number("LastEpochBlock"),
        pending_epoch_at: number("PendingEpochAt"),
        index: number("SubnetEpochIndex"),
        blocks_since_last_step: number("BlocksSinceLastStep"),
    };
    let (_, opens) = epochs.opening(number("head"), number("RevealPeriodEpochs")).unwrap();
    assert_eq!(Some(opens), reveal["revealed_block"].as_u64());

    let signature = RoundSignature(bytes(&reveal["round_signature"]).try_into().unwrap());
    let round = reveal["reveal_round"].as_u64().unwrap();
    let opener = RoundOpener::new(quicknet_key(), round, signature).unwrap();
    let payload = open_commit(&bytes(&reveal["commit"]), &opener).unwrap();
    assert_eq!(payload, bytes(&reveal["payload"]));

    // The session tells of some of that block's events.
    let told = list(&reveal["events"]);
    let mut revealed = events(&reveal["events_scale"]);
    revealed.retain(|found| {
        told.iter().any(|event| event["pallet"] == found.pallet && event["event"] == found.name)
    });
    assert_events(&revealed, &reveal["events"]);
}

pub fn header(json: &Json) -> Header {
    let number = text(&json["number"]).strip_prefix("0x").unwrap();
    Header {
        parent: bytes32(&json["parentHash"]),
        number: u32::from_str_radix(number, 16).unwrap(),
        state_root: bytes32(&json["stateRoot"]),
        extrinsics_root: bytes32(&json["extrinsicsRoot"]),
        digest: list(&json["digest"]["logs"]).iter().map(bytes).collect(),
    }
}
