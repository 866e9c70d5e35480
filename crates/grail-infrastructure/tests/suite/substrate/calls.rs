//! Calls, byte for byte.

use grail_infrastructure::substrate::{Address, Call, Value, blake2_256};
use grail_testkit::vectors::{bytes, every_entry, text};
use serde_json::Value as Json;

use super::{SPEC_461, json};

#[test]
fn calls_have_the_bytes_of_the_packages() {
    every_entry("bittensor/calls", "calls_spec461.json", "calls", 38, |case| {
        let data = bytes(&case["data"]);
        assert_eq!(encoded(case), data, "{case}");
        assert_eq!(blake2_256(&data).as_slice(), bytes(&case["call_hash_blake2_256"]));
        let call = SPEC_461.decode_call(&data).unwrap();
        assert_eq!(
            (call.pallet.as_str(), call.name.as_str()),
            (text(&case["module"]), text(&case["function"]))
        );
        assert_eq!(SPEC_461.encode(&call).unwrap(), data, "read and written again");
    });
}

fn encoded(case: &Json) -> Vec<u8> {
    let (pallet, name) = (text(&case["module"]), text(&case["function"]));
    let types = SPEC_461.arguments(pallet, name).unwrap();
    let params = case["params"].as_object().unwrap();
    let arguments = params.iter().map(|(name, json)| {
        let (_, ty) = types.iter().find(|(known, _)| known == name).unwrap();
        (name.as_str(), json::argument(&SPEC_461, name, ty, json))
    });
    SPEC_461.encode_call(pallet, name, arguments).unwrap()
}

#[test]
fn addresses_of_any_network_are_read_and_written() {
    every_entry("bittensor/keys", "ss58.json", "valid", 9, |case| {
        let address: Address = text(&case["address"]).parse().unwrap();
        assert_eq!(address.account.as_slice(), bytes(&case["public_key"]));
        assert_eq!(case["format"].as_u64(), Some(u64::from(address.prefix)));
        assert_eq!(address.to_string(), text(&case["address"]));
    });
    every_entry("bittensor/keys", "ss58.json", "checked", 8, |case| {
        let parsed = text(&case["address"]).parse::<Address>();
        assert_eq!(Some(parsed.is_ok()), case["ss58_decode_accepts"].as_bool(), "{case}");
    });
}

#[test]
fn arguments_that_do_not_fit_are_refused_with_their_place() {
    let weights = |dests: Value, version_key: Value| {
        let arguments = [
            ("netuid", Value::from(1_u16)),
            ("dests", dests),
            ("weights", Value::list([1_u16, 2])),
            ("version_key", version_key),
        ];
        SPEC_461.encode_call("SubtensorModule", "set_weights", arguments)
    };
    let good = Value::list([0_u16, 1]);
    assert!(weights(good.clone(), 0_u64.into()).is_ok());
    let refused = [
        (
            weights(Value::list([0_u32, 65_536]), 0_u64.into()),
            "cannot write SubtensorModule.set_weights: dests[1]: expected unsigned 16 bits, found \
             65536",
        ),
        (
            weights(good.clone(), (-1_i128).into()),
            "cannot write SubtensorModule.set_weights: version_key: expected unsigned 64 bits, \
             found -1",
        ),
        (
            weights(Value::bytes([1, 2]), 0_u64.into()),
            "cannot write SubtensorModule.set_weights: dests: expected a list, found 2 bytes",
        ),
        (
            SPEC_461.encode_call("SubtensorModule", "set_weights", [("netuid", 1_u16.into())]),
            "cannot write SubtensorModule.set_weights: expected one field `dests`, found a record \
             of 1 fields (netuid …)",
        ),
        (
            SPEC_461.encode_call("SubtensorModule", "no_such_call", []),
            "this runtime has no call `SubtensorModule.no_such_call`",
        ),
    ];
    for (result, text) in refused {
        assert_eq!(result.unwrap_err().to_string(), text);
    }
}

#[test]
fn calls_nested_without_end_are_refused() {
    // Each `Utility.batch` holds one more.
    let level = SPEC_461
        .encode(&Call {
            pallet: "Utility".to_owned(),
            name: "batch".to_owned(),
            arguments: Value::record([("calls", Value::List(Vec::new()))]),
        })
        .unwrap();
    let mut bytes = [&level[..2], &[4]].concat().repeat(1_000_000);
    bytes.extend(level);
    let error = SPEC_461.decode_call(&bytes).unwrap_err();
    assert!(error.to_string().contains("nested deeper"), "{error}");
}
