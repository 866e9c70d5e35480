//! Storage keys and values, byte for byte.

use grail_infrastructure::substrate::Value;
use grail_testkit::vectors::{bytes, every_entry, list, text};

use super::{SPEC_461, json};

#[test]
fn keys_have_the_bytes_of_the_packages() {
    every_entry("bittensor/storage", "keys_spec461.json", "keys", 57, |case| {
        let item = SPEC_461.storage(text(&case["pallet"]), text(&case["item"])).unwrap();
        let keys: Vec<Value> = list(&case["params"]).iter().map(json::value).collect();
        let key = item.key(&keys).unwrap();
        assert_eq!(key, bytes(&case["key"]), "{case}");
        let hashers: Vec<String> =
            item.hashers().iter().map(|hasher| format!("{hasher:?}")).collect();
        let expected = list(&case["hashers"]);
        assert_eq!(hashers, expected.iter().map(text).collect::<Vec<_>>());
        let modifier = if item.is_optional() { "Optional" } else { "Default" };
        assert_eq!(modifier, text(&case["modifier"]));
        assert_eq!(item.default_bytes(), bytes(&case["default"]));
        // Absent is `None`, or a default that reads and is written back.
        match item.decode(None).unwrap() {
            None => assert!(item.is_optional()),
            Some(value) => assert_eq!(item.encode(&value).unwrap(), item.default_bytes()),
        }
        if keys.len() == hashers.len() {
            assert_eq!(item.read_key(&key).unwrap(), keys);
        } else {
            assert!(item.read_key(&key).is_err(), "a prefix is no key");
        }
        let too_many = [keys.as_slice(), &[Value::from(0_u16), Value::from(0_u16)]].concat();
        assert!(item.key(&too_many).is_err());
    });
}

#[test]
fn a_key_of_another_item_or_with_a_wrong_hash_is_refused() {
    let uids = SPEC_461.storage("SubtensorModule", "Uids").unwrap();
    let key = uids.key(&[Value::from(81_u16), Value::bytes([7; 32])]).unwrap();
    assert!(uids.read_key(&key).is_ok());
    for at in 0..key.len() {
        let mut damaged = key.clone();
        damaged[at] ^= 1;
        // The netuid stands there without a hash.
        let is_netuid = (32..34).contains(&at);
        assert_eq!(uids.read_key(&damaged).is_ok(), is_netuid, "byte {at}");
        assert!(uids.read_key(&key[..at]).is_err());
    }
}

#[test]
fn commitments_of_every_kind_are_read() {
    every_entry("bittensor/storage", "values_commitments_spec461.json", "values", 4, |case| {
        let item = SPEC_461.storage("Commitments", "CommitmentOf").unwrap();
        let scale = bytes(&case["scale"]);
        let value = item.decode(Some(&scale)).unwrap().unwrap();
        json::assert_is(&value, &case["decoded"], text(&case["label"]));
        assert_eq!(item.encode(&value).unwrap(), scale);
        for cut in 0..scale.len() {
            assert!(item.decode(Some(&scale[..cut])).is_err());
        }
    });
}
