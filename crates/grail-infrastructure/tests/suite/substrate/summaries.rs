//! What the runtime tells of a whole subnet at once: metagraphs and neurons, encoded by the packages.

use grail_infrastructure::substrate::{RuntimeFunction, Value};
use grail_testkit::vectors::{bytes, every_entry, load, size, text};
use serde_json::Value as Json;

use super::{SPEC_461, json};

const TOPIC: &str = "bittensor/metagraph";

/// Reads an answer whole, writes it again, and checks that no part of it passes for an answer.
fn assert_answer(function: &RuntimeFunction<'_>, answer: &[u8]) -> Value {
    let value = function.decode(answer).unwrap();
    assert_eq!(function.encode(&value).unwrap(), answer);
    // What newer runtimes append does not disturb, and is not taken for anything.
    let longer = [answer, &[1, 2, 3]].concat();
    assert_eq!(function.decode_start(&longer).unwrap(), value);
    assert!(function.decode(&longer).is_err());
    // A blob has thousands of bytes: a few hundred places are enough.
    for cut in (0..answer.len()).step_by(answer.len() / 256 + 1) {
        assert!(function.decode_start(&answer[..cut]).is_err(), "cut at {cut}");
    }
    value
}

#[test]
fn whole_metagraphs_are_read() {
    every_entry(TOPIC, "synthetic_metagraph_spec461.json", "cases", 4, |case| {
        let (api, name) = text(&case["runtime_api"]).split_once('_').unwrap();
        let function = SPEC_461.runtime_function(api, name).unwrap();
        let answer = bytes(&case["option_scale"]);
        assert_eq!(answer, [&[1], bytes(&case["scale"]).as_slice()].concat());
        let value = assert_answer(&function, &answer);
        json::assert_is(&value, &case["decoded"], name);
        let hotkeys = value.as_option().unwrap().unwrap().field("hotkeys").unwrap();
        assert_eq!(hotkeys.as_list().unwrap().len(), size(&case["n"]));
        assert_eq!(function.decode(&[0]).unwrap().as_option(), Ok(None), "no such subnet");
    });
}

#[test]
fn neurons_are_read() {
    every_entry(TOPIC, "synthetic_neurons_lite_spec461.json", "cases", 4, |case| {
        let api = "NeuronInfoRuntimeApi";
        let function = SPEC_461.runtime_function(api, "get_neurons_lite").unwrap();
        let value = assert_answer(&function, &bytes(&case["scale"]));
        json::assert_is(&value, &case["decoded"], "neurons");
        assert_eq!(value.as_list().unwrap().len(), size(&case["n"]));
    });
}

#[test]
fn chosen_parts_of_metagraphs_are_read() {
    let file = "synthetic_selective_metagraph_spec461.json";
    every_entry(TOPIC, file, "cases", 3, |case| {
        let api = "SubnetInfoRuntimeApi";
        let function = SPEC_461.runtime_function(api, "get_selective_metagraph").unwrap();
        let answer = bytes(&case["option_scale"]);
        assert_eq!(answer, [&[1], bytes(&case["scale"]).as_slice()].concat());
        let value = assert_answer(&function, &answer);
        let found = value.as_option().unwrap().unwrap();
        let Value::Record(fields) = found else { panic!("{found:?}") };
        let indices = load(TOPIC, file)["field_order_index"].clone();
        let requested: Vec<&str> =
            grail_testkit::vectors::list(&case["requested"]).iter().map(text).collect();
        for (index, (name, value)) in fields.iter().enumerate() {
            assert_eq!(indices[name.as_str()], index, "fields are asked for by their place");
            let is_asked = requested.contains(&name.as_str());
            // The subnet's number is no option.
            if index > 0 {
                assert_eq!(value.as_option().unwrap().is_some(), is_asked, "{name}");
            }
            json::assert_is(value, &of(&case["decoded"], name), name);
        }
        assert_eq!(fields.len(), indices.as_object().unwrap().len());
    });
}

/// Fields that were not asked for may be left out of the decoded form.
fn of(decoded: &Json, name: &str) -> Json {
    decoded.get(name).cloned().unwrap_or_default()
}
