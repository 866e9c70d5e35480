//! What was recorded of a real local node, spec 461: keys, calls, payloads, maps, events, a block.

use std::sync::LazyLock;

use grail_infrastructure::substrate::{
    Address, Call, Era, EventRecord, Extrinsic, MultiSignature, Phase, SignedWith, SigningContext,
    Value, blake2_256, outcome,
};
use grail_infrastructure::wallet::{Key, Scheme};
use grail_testkit::vectors::{bytes, every_entry, integer, list, load, path, text};
use parity_scale_codec::Encode as _;
use serde_json::Value as Json;

use super::session::header;
use super::{SPEC_461, json};

const TOPIC: &str = "bittensor/recorded";
const FILE: &str = "localnet_spec461.json";

static RECORDED: LazyLock<Json> = LazyLock::new(|| load(TOPIC, FILE));

fn keys(case: &Json) -> Vec<Value> {
    list(&case["params"]).iter().map(json::value).collect()
}

#[test]
fn keys_and_values_of_storage_are_those_of_the_node() {
    every_entry(TOPIC, FILE, "storage_keys", 10, |case| {
        let item =
            SPEC_461.storage(text(&case["pallet"]), text(&case["storage_function"])).unwrap();
        let key = item.key(&keys(case)).unwrap();
        assert_eq!(key, bytes(&case["key_hex"]), "{case}");
        if !item.hashers().is_empty() {
            assert_eq!(item.read_key(&key).unwrap(), keys(case), "{case}");
        }
    });
    every_entry(TOPIC, FILE, "storage_values", 8, |case| {
        let item =
            SPEC_461.storage(text(&case["pallet"]), text(&case["storage_function"])).unwrap();
        assert_eq!(item.key(&keys(case)).unwrap(), bytes(&case["key_hex"]));
        let raw = case["raw_hex"].as_str().map(|_| bytes(&case["raw_hex"]));
        let value = item.decode(raw.as_deref()).unwrap().unwrap();
        json::assert_is(&value, &case["decoded"], item.name());
        let written = item.encode(&value).unwrap();
        assert_eq!(written, raw.unwrap_or_else(|| item.default_bytes().to_vec()));
    });
}

#[test]
fn pages_of_maps_are_read_with_their_keys() {
    every_entry(TOPIC, FILE, "query_maps", 4, |case| {
        let item =
            SPEC_461.storage(text(&case["pallet"]), text(&case["storage_function"])).unwrap();
        let fixed = keys(case);
        let prefix = item.key(&fixed).unwrap();
        assert_eq!(prefix, bytes(&case["prefix_hex"]));
        let changes = list(&case["raw_changes"]);
        let (raw_keys, pairs) = (list(&case["raw_keys"]), list(&case["pairs"]));
        assert_eq!((raw_keys.len(), pairs.len()), (changes.len(), changes.len()));
        for ((raw_key, change), pair) in raw_keys.iter().zip(changes).zip(pairs) {
            assert_eq!(*raw_key, change[0]);
            let key = bytes(raw_key);
            assert!(key.starts_with(&prefix));
            let rest = item.read_key(&key).unwrap().split_off(fixed.len());
            match rest.as_slice() {
                [one] => json::assert_is(one, &pair[0], item.name()),
                several => json::assert_is(&Value::List(several.to_vec()), &pair[0], item.name()),
            }
            let value = item.decode(Some(&bytes(&change[1]))).unwrap().unwrap();
            json::assert_is(&value, &pair[1], item.name());
        }
    });
}

#[test]
fn calls_are_those_of_the_node() {
    every_entry(TOPIC, FILE, "calls", 10, |case| {
        let (pallet, name) = (text(&case["module"]), text(&case["function"]));
        let data = bytes(&case["data_hex"]);
        let call = SPEC_461.decode_call(&data).unwrap();
        assert_eq!((call.pallet.as_str(), call.name.as_str()), (pallet, name));
        assert_eq!(SPEC_461.encode(&call).unwrap(), data);
        let types = SPEC_461.arguments(pallet, name).unwrap();
        let params = case["params"].as_object().unwrap();
        let mut arguments = Vec::new();
        for (name, param) in params {
            let (_, ty) = types.iter().find(|(known, _)| known == name).unwrap();
            let value = match nested(name, param) {
                Some(value) => value,
                None => json::argument(&SPEC_461, name, ty, param),
            };
            let value =
                if *name == "force_proxy_type" { Value::option(Some(value)) } else { value };
            arguments.push((name.as_str(), value));
        }
        assert_eq!(SPEC_461.encode_call(pallet, name, arguments).unwrap(), data, "{case}");
    });
}

/// Returns a call that is an argument; transfers are told in words.
fn nested(name: &str, param: &Json) -> Option<Value> {
    match (name, param) {
        ("call", Json::Object(call)) => {
            let fields =
                call.iter().filter(|(key, _)| !["module", "function"].contains(&key.as_str()));
            let arguments = fields.map(|(key, value)| (key.as_str(), json::value(value)));
            let call = Call {
                pallet: text(&call["module"]).to_owned(),
                name: text(&call["function"]).to_owned(),
                arguments: Value::record(arguments),
            };
            Some(call.into_value())
        }
        ("call", Json::String(words)) => Some(transfer(words)),
        ("calls", Json::Array(calls)) => {
            Some(Value::list(calls.iter().map(|words| transfer(text(words)))))
        }
        ("real", Json::String(address)) => {
            Some(Value::address(address.parse::<Address>().unwrap().account))
        }
        _ => None,
    }
}

/// Reads `transfer 1 to bob`.
fn transfer(words: &str) -> Value {
    let (amount, name) = words.strip_prefix("transfer ").unwrap().split_once(" to ").unwrap();
    let seed = format!("//{}{}", name[..1].to_uppercase(), &name[1..]);
    let key = Key::from_secret_uri(Scheme::Sr25519, &seed).unwrap();
    let call = Call {
        pallet: "Balances".to_owned(),
        name: "transfer_keep_alive".to_owned(),
        arguments: Value::record([
            ("dest", Value::address(key.address().0)),
            ("value", Value::from(amount.parse::<u64>().unwrap())),
        ]),
    };
    call.into_value()
}

/// Returns what the signer chose, and the hash that its era begins with.
fn chosen(case: &Json, context: &SigningContext) -> (SignedWith, [u8; 32]) {
    let number = |json: &Json| json.as_u64().unwrap();
    let era = match &case["era"] {
        Json::Object(era) => Era::mortal(number(&era["period"]), number(&era["current"])),
        _ => Era::Immortal,
    };
    let birth = match case.get("era_birth_block_hash") {
        Some(hash) => bytes(hash).try_into().unwrap(),
        None => context.genesis,
    };
    let tip = u128::try_from(integer(&case["tip"])).unwrap();
    (SignedWith { era, nonce: number(&case["nonce"]), tip }, birth)
}

fn context() -> SigningContext {
    let network = &RECORDED["network"];
    let number = |key: &str| u32::try_from(network[key].as_u64().unwrap()).unwrap();
    SigningContext {
        genesis: bytes(&network["genesis_hash"]).try_into().unwrap(),
        spec_version: number("spec_version"),
        transaction_version: number("transaction_version"),
    }
}

#[test]
fn payloads_and_extrinsics_are_those_of_the_node() {
    every_entry(TOPIC, FILE, "signature_payloads", 2, |case| {
        let context = context();
        let (with, birth) = chosen(case, &context);
        let call = bytes(&case["call_data_hex"]);
        let payload = SPEC_461.signing_payload(&call, with, &context, birth).unwrap();
        assert_eq!(payload.bytes_to_sign(), bytes(&case["payload_hex"]), "{case}");
    });
    every_entry(TOPIC, FILE, "extrinsics", 2, |case| {
        let context = context();
        let (with, birth) = chosen(case, &context);
        let call = bytes(&case["call_data_hex"]);
        let payload = SPEC_461.signing_payload(&call, with, &context, birth).unwrap();
        assert_eq!(case["crypto_type"], 1);
        let signature = MultiSignature::Sr25519(bytes(&case["signature_hex"]).try_into().unwrap());
        let account = bytes(&case["public_key_hex"]).try_into().unwrap();
        assert_eq!(Address::of(account).to_string(), text(&case["address"]));
        let extrinsic = payload.into_extrinsic(account, &signature);
        assert_eq!(extrinsic, bytes(&case["extrinsic_hex"]), "{case}");
        let Extrinsic::Signed(read) = SPEC_461.decode_extrinsic(&extrinsic).unwrap() else {
            panic!("it is signed")
        };
        assert_eq!((read.account, read.with, read.call), (account, with, call));
    });
}

/// The account of several owners is the hash of their sorted keys; Source: FRAME's `pallet-multisig`.
#[test]
fn addresses_are_those_of_the_node() {
    every_entry(TOPIC, FILE, "ss58", 4, |case| {
        let address: Address = text(&case["address"]).parse().unwrap();
        assert_eq!(address.account.as_slice(), bytes(&case["public_key_hex"]));
        assert_eq!(Address::of(address.account).to_string(), text(&case["address"]));
    });
    every_entry(TOPIC, FILE, "multisig", 3, |case| {
        let owners = list(&case["signatories"]).iter();
        let mut owners: Vec<[u8; 32]> =
            owners.map(|owner| text(owner).parse::<Address>().unwrap().account).collect();
        owners.sort_unstable();
        let threshold = u16::try_from(case["threshold"].as_u64().unwrap()).unwrap();
        let account = blake2_256(&(*b"modlpy/utilisuba", owners, threshold).encode());
        assert_eq!(Address::of(account).to_string(), text(&case["ss58_address"]));
    });
}

#[test]
fn constants_and_runtime_functions_are_those_of_the_node() {
    every_entry(TOPIC, FILE, "constants", 3, |case| {
        let value = SPEC_461.constant(text(&case["module"]), text(&case["name"])).unwrap();
        json::assert_is(&value, &case["decoded"], text(&case["name"]));
    });
    every_entry(TOPIC, FILE, "runtime_calls", 4, |case| {
        let (api, method) = (text(&case["api"]), text(&case["method"]));
        let function = SPEC_461.runtime_function(api, method).unwrap();
        let arguments = function.encode_arguments(&keys(case)).unwrap();
        assert_eq!(arguments, bytes(&case["encoded_params_hex"]));
        let answer = bytes(&case["raw_hex"]);
        let value = function.decode(&answer).unwrap();
        json::assert_is(&value, &case["decoded"], method);
        assert_eq!(function.encode(&value).unwrap(), answer);
    });
}

#[test]
fn the_block_and_its_events_are_read() {
    if !path(TOPIC, FILE).exists() {
        return;
    }
    let block = &RECORDED["block"];
    let raw = &block["raw"]["block"];
    assert_eq!(header(&raw["header"]).hash().as_slice(), bytes(&block["block_hash"]));
    let decoded = list(&block["decoded_extrinsics"]);
    let extrinsics = list(&raw["extrinsics"]);
    assert_eq!(extrinsics.len(), decoded.len());
    for (raw, decoded) in extrinsics.iter().zip(decoded) {
        let raw = bytes(raw);
        assert_eq!(blake2_256(&raw).as_slice(), bytes(&decoded["extrinsic_hash"]));
        let call = match SPEC_461.decode_extrinsic(&raw).unwrap() {
            Extrinsic::Bare(call) => call,
            Extrinsic::Signed(signed) => signed.call,
        };
        let read = SPEC_461.decode_call(&call).unwrap();
        assert_eq!(SPEC_461.encode(&read).unwrap(), call);
        let expected = &decoded["call"];
        assert_eq!(blake2_256(&call).as_slice(), bytes(&expected["call_hash"]));
        assert_eq!((read.pallet.as_str(), read.name.as_str()), {
            (text(&expected["call_module"]), text(&expected["call_function"]))
        });
        for argument in list(&expected["call_args"]) {
            let name = text(&argument["name"]);
            let found = read.arguments.field(name).unwrap();
            json::assert_is(found, &argument["value"], name);
        }
    }

    let events = &RECORDED["events"];
    let raw = bytes(&events["raw_hex"]);
    let read = SPEC_461.decode_events(Some(&raw)).unwrap();
    assert_eq!(SPEC_461.encode_events(&read).unwrap(), raw);
    assert_records(&read, &events["decoded"]);
    let receipt = &RECORDED["receipt"];
    let index = u32::try_from(receipt["extrinsic_idx"].as_u64().unwrap()).unwrap();
    let phase = Phase::ApplyExtrinsic(index);
    let own: Vec<EventRecord> = read.iter().filter(|event| event.phase == phase).cloned().collect();
    assert_records(&own, &receipt["triggered_events"]);
    let result = outcome(&SPEC_461, &read, index).unwrap().unwrap();
    assert_eq!(Some(result.is_ok()), receipt["is_success"].as_bool());
}

fn assert_records(found: &[EventRecord], expected: &Json) {
    let expected = list(expected);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!((found.pallet.as_str(), found.name.as_str()), {
            (text(&expected["module_id"]), text(&expected["event_id"]))
        });
        let phase = match found.phase {
            Phase::ApplyExtrinsic(index) => {
                assert_eq!(expected["extrinsic_idx"], index);
                "ApplyExtrinsic"
            }
            Phase::Finalization => "Finalization",
            Phase::Initialization => "Initialization",
        };
        assert_eq!(expected["phase"], phase);
        json::assert_is(&found.fields, &expected["attributes"], &found.name);
    }
}
