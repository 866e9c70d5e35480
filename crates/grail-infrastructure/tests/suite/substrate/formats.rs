//! Metadata of the formats 14 and 16 at real work: keys, calls, errors, events, extensions, by name.

use std::cell::Cell;

use grail_infrastructure::substrate::{
    DispatchError, Era, Extrinsic, Metadata, MultiSignature, SignedWith, SigningContext, Value,
};
use grail_testkit::vectors::{bytes, every_entry, list, load, path, shared, text};

use super::{SPEC_393, SPEC_425, SPEC_461, json};

const RECORDED: &str = "bittensor/recorded";
const SESSION: &str = "session_node425.json";

#[test]
fn every_format_is_read_and_no_part_of_it_is() {
    for (metadata, format) in [(&*SPEC_425, 14), (&SPEC_461, 15), (&SPEC_393, 16)] {
        assert_eq!(metadata.format(), format);
        for pallet in ["System", "SubtensorModule", "Commitments", "Drand", "Timestamp"] {
            metadata.pallet_index(pallet).unwrap();
        }
    }
    for file in ["subtensor_spec425_fast_v14.scale", "finney_spec393_v16.scale"] {
        let bytes = std::fs::read(shared("bittensor/metadata", file)).unwrap();
        for cut in [0, 3, 4, 5, 100, bytes.len() / 2, bytes.len() - 1] {
            assert!(Metadata::parse(&bytes[..cut]).is_err(), "{file} cut at {cut}");
        }
        assert!(Metadata::parse(&[bytes.as_slice(), &[0]].concat()).is_err());
    }
}

/// Names and hashers decide a key, so an item that both runtimes have has the same key in both.
#[test]
fn storage_keys_are_the_same_in_every_format() {
    let found = [Cell::new(0), Cell::new(0)];
    every_entry("bittensor/storage", "keys_spec461.json", "keys", 57, |case| {
        let keys: Vec<Value> = list(&case["params"]).iter().map(json::value).collect();
        for (metadata, found) in [&*SPEC_425, &SPEC_393].into_iter().zip(&found) {
            let item = metadata.storage(text(&case["pallet"]), text(&case["item"]));
            let Ok(item) = item else { continue };
            let key = item.key(&keys).unwrap();
            assert_eq!(key, bytes(&case["key"]), "{case}");
            if keys.len() == item.hashers().len() {
                assert_eq!(item.read_key(&key).unwrap(), keys);
            }
            if let Some(value) = item.decode(None).unwrap() {
                assert_eq!(item.encode(&value).unwrap(), item.default_bytes());
            }
            found.set(found.get() + 1);
        }
    });
    let [v14, v16] = found.map(|found| found.get());
    println!("storage items that runtimes share: {v14} of format 14, {v16} of format 16");
    assert!(!path("bittensor/storage", "keys_spec461.json").exists() || (v14 > 0 && v16 > 0));
}

#[test]
fn calls_are_written_and_read_by_name_in_every_format() {
    let found = [Cell::new(0), Cell::new(0)];
    every_entry("bittensor/calls", "calls_spec461.json", "calls", 38, |case| {
        let newest = SPEC_461.decode_call(&bytes(&case["data"])).unwrap();
        let taken = SPEC_461.arguments(&newest.pallet, &newest.name).unwrap();
        for (metadata, found) in [&*SPEC_425, &SPEC_393].into_iter().zip(&found) {
            // A call that an older runtime lacks, or that took other arguments there, is refused.
            let arguments = metadata.arguments(&newest.pallet, &newest.name);
            let names = |arguments: &[(&str, &str)]| -> Vec<String> {
                arguments.iter().map(|(name, _)| (*name).to_owned()).collect()
            };
            let is_same = arguments.as_ref().is_ok_and(|known| names(known) == names(&taken));
            let Ok(data) = metadata.encode(&newest) else {
                assert!(!is_same || newest.pallet == "Utility", "{case}");
                continue;
            };
            assert!(is_same, "{case}");
            assert_eq!(metadata.decode_call(&data).unwrap(), newest);
            assert_eq!(data[0], metadata.pallet_index(&newest.pallet).unwrap());
            found.set(found.get() + 1);
        }
    });
    let [v14, v16] = found.map(|found| found.get());
    println!("calls that runtimes share: {v14} of format 14, {v16} of format 16");
    assert!(!path("bittensor/calls", "calls_spec461.json").exists() || (v14 > 0 && v16 > 0));
}

/// What a node of another runtime did is told again in the main net's own bytes.
#[test]
fn a_session_is_told_again_in_another_format() {
    let (calls, events) = (Cell::new(0), Cell::new(0));
    every_entry(RECORDED, SESSION, "transactions", 61, |case| {
        let call = SPEC_425.decode_call(&bytes(&case["call"])).unwrap();
        if let Ok(data) = SPEC_393.encode(&call) {
            assert_eq!(SPEC_393.decode_call(&data).unwrap(), call);
            calls.set(calls.get() + 1);
        }
        let Some(scale) = case.get("events_scale") else { return };
        let told = SPEC_425.decode_events(Some(&bytes(scale))).unwrap();
        for event in told {
            let one = [event];
            if let Ok(scale) = SPEC_393.encode_events(&one) {
                // A failure's numbers are the other runtime's; everything else is the same.
                assert_eq!(SPEC_393.decode_events(Some(&scale)).unwrap(), one);
                events.set(events.get() + 1);
            }
        }
    });
    println!("told again: {} calls, {} events", calls.get(), events.get());
    assert!(!path(RECORDED, SESSION).exists() || (calls.get() > 0 && events.get() > 0));
}

#[test]
fn errors_have_names_in_every_format() {
    for name in ["SettingWeightsTooFast", "NeuronNoValidatorPermit", "HotKeyNotRegisteredInSubNet"]
    {
        for metadata in [&*SPEC_425, &SPEC_461, &SPEC_393] {
            let value = metadata.error_value("SubtensorModule", name).unwrap();
            let Ok(DispatchError::Module(error)) = metadata.dispatch_error(&value) else {
                panic!("{value:?}")
            };
            assert_eq!(error.name, name);
            assert!(!error.docs.is_empty());
        }
    }
    assert!(SPEC_393.error_value("SubtensorModule", "NoSuchError").is_err());
    assert!(SPEC_393.error(255, [0; 4]).is_err());
    assert!(SPEC_425.error(0, [255, 0, 0, 0]).is_err());
}

#[test]
fn extrinsics_are_signed_with_the_extensions_of_every_format() {
    let context = SigningContext { genesis: [3; 32], spec_version: 393, transaction_version: 1 };
    for metadata in [&*SPEC_425, &SPEC_461, &SPEC_393] {
        let remark = [("remark", Value::bytes(b"grail"))];
        let call = metadata.encode_call("System", "remark", remark).unwrap();
        for era in [Era::Immortal, Era::mortal(16, 1_000), Era::mortal(4_096, 7)] {
            let with = SignedWith { era, nonce: 300, tip: 5 };
            let payload = metadata.signing_payload(&call, with, &context, [4; 32]).unwrap();
            let signature = MultiSignature::Sr25519([5; 64]);
            let extrinsic = payload.into_extrinsic([6; 32], &signature);
            let Extrinsic::Signed(read) = metadata.decode_extrinsic(&extrinsic).unwrap() else {
                panic!("it is signed")
            };
            assert_eq!((read.account, read.with, &read.call), ([6; 32], with, &call));
            assert!(
                read.verify(metadata, &context, [4; 32]).unwrap().is_err(),
                "a made-up signature"
            );
        }
        for name in ["CheckNonZeroSender", "CheckMortality", "CheckNonce", "CheckMetadataHash"] {
            assert!(metadata.extensions().iter().any(|known| known.identifier == name), "{name}");
        }
    }
}

#[test]
fn extensions_stand_in_the_order_of_the_runtime() {
    let place = Cell::new(0);
    let (file, key) = ("subtensor_spec461.json", "transaction_extensions_in_order");
    every_entry("bittensor/metadata", file, key, 13, |name| {
        assert_eq!(SPEC_461.extensions()[place.get()].identifier, text(name));
        place.set(place.get() + 1);
    });
    let read = std::fs::read(shared("bittensor/metadata", "subtensor_spec461_v15.scale")).unwrap();
    if path("bittensor/metadata", file).exists() {
        let told = load("bittensor/metadata", file);
        assert_eq!(told["bytes"], read.len());
        assert_eq!(told["metadata_version"], SPEC_461.format());
        assert_eq!(SPEC_461.extensions().len(), place.get());
    }
}

/// Format 14 does not describe runtime APIs; the runtime's version lists them by hash.
#[test]
fn the_runtime_has_the_apis_that_its_metadata_does_not_describe() {
    use blake2::digest::consts::U8;
    use blake2::{Blake2b, Digest as _};
    let hash = |name: &str| format!("0x{}", hex::encode(Blake2b::<U8>::digest(name)));
    let wanted = ["Core", "Metadata", "SubnetInfoRuntimeApi", "AccountNonceApi"].map(hash);
    let found = Cell::new(0);
    every_entry("bittensor/metadata", "runtime_version_spec425.json", "apis", 24, |api| {
        assert!(api[1].as_u64().is_some_and(|version| version > 0), "{api}");
        found.set(found.get() + usize::from(wanted.iter().any(|hash| *hash == text(&api[0]))));
    });
    let is_there = path("bittensor/metadata", "runtime_version_spec425.json").exists();
    assert!(!is_there || found.get() == wanted.len(), "{} of {wanted:?}", found.get());
    for name in ["SubnetInfoRuntimeApi", "NeuronInfoRuntimeApi"] {
        let lookup = SPEC_425.runtime_function(name, "get_metagraph").unwrap_err();
        assert!(lookup.to_string().contains(name), "{lookup}");
    }
}
