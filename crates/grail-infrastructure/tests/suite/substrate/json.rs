//! Values as the vectors write them.

use grail_infrastructure::substrate::{Address, Metadata, Value};
use grail_testkit::vectors::{bytes, integer, list, text};
use serde_json::Value as Json;

/// Returns the value that JSON stands for: `0x…` is bytes, an address an account, an object with a
/// capital letter a variant.
pub fn value(json: &Json) -> Value {
    match json {
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => match number.as_u64() {
            Some(value) => value.into(),
            None => integer(json).into(),
        },
        Json::String(text) if text.starts_with("0x") => Value::bytes(bytes(json)),
        Json::String(text) => match text.parse::<Address>() {
            Ok(address) => Value::bytes(address.account),
            Err(_) => Value::unit(text),
        },
        Json::Array(items) => Value::list(items.iter().map(value)),
        Json::Object(fields) => {
            let record =
                Value::record(fields.iter().map(|(name, json)| (name.as_str(), value(json))));
            let capital = |(name, _): &(&String, _)| name.starts_with(char::is_uppercase);
            match fields.iter().find(capital) {
                Some((name, inner)) if inner.is_object() => {
                    Value::Variant(name.clone(), Box::new(value(inner)))
                }
                Some((name, inner)) => Value::variant(name, value(inner)),
                None => record,
            }
        }
        Json::Null => Value::unit("None"),
    }
}

/// Returns the value of a call's argument.
pub fn argument(metadata: &Metadata, name: &str, ty: &str, json: &Json) -> Value {
    match ty {
        "AccountIdLookupOf<T>" => Value::address(text(json).parse::<Address>().unwrap().account),
        _ if name == "calls" => Value::list(
            list(json).iter().map(|call| metadata.decode_call(&bytes(call)).unwrap().into_value()),
        ),
        _ => value(json),
    }
}

/// Panics unless `found` is what the JSON says. The packages write an account as its address, other
/// bytes as text where they are UTF-8 and else as `0x…`, and leave out `Some`.
pub fn assert_is(found: &Value, json: &Json, path: &str) {
    match (found, json) {
        (Value::Bool(found), Json::Bool(value)) => assert_eq!(found, value, "{path}"),
        (Value::Unsigned(_) | Value::Signed(_), Json::Number(_)) => {
            assert!(is_number(found, json), "{path}: {found:?} is not {json}");
        }
        (Value::Bytes(found), Json::String(text)) => assert!(are_bytes(found, text), "{path}"),
        // `[u8; n]` of an event, and vectors of `Compact<u8>`.
        (Value::Bytes(found), Json::Array(_)) => {
            let items = Value::list(found.iter().copied());
            assert_is(&items, json, path);
        }
        (Value::Text(found), Json::String(text)) => assert_eq!(found, text, "{path}"),
        (Value::List(found), Json::Array(items)) => {
            assert_eq!(found.len(), items.len(), "{path}");
            for (index, (found, json)) in found.iter().zip(items).enumerate() {
                assert_is(found, json, &format!("{path}[{index}]"));
            }
        }
        (Value::List(found), Json::String(text)) => {
            let bytes: Vec<u8> = found.iter().map(|item| item.as_uint().unwrap()).collect();
            assert!(are_bytes(&bytes, text), "{path}");
        }
        (Value::Record(found), Json::Object(fields)) => {
            assert_eq!(found.len(), fields.len(), "{path}: {found:?}");
            for (name, value) in found {
                let json = fields.get(name).unwrap_or_else(|| panic!("{path} has no {name}"));
                assert_is(value, json, &format!("{path}.{name}"));
            }
        }
        (Value::Variant(name, _), Json::Null) => assert_eq!(name, "None", "{path}"),
        (Value::Variant(name, fields), _) if name == "Some" => {
            assert_is(fields.item(0).unwrap(), json, path);
        }
        (Value::Variant(name, _), Json::String(text)) => {
            let unit = Value::unit(name);
            let is_id = name == "Id" && are_bytes(found.item(0).unwrap().as_bytes().unwrap(), text);
            assert!(is_id || (name == text && *found == unit), "{path}: {found:?}");
        }
        (Value::Variant(name, fields), Json::Object(object)) => {
            let json = object.get(name).unwrap_or_else(|| panic!("{path} is {name}"));
            let is_single = matches!(fields.as_list(), Ok([_]));
            let inner = if is_single { fields.item(0).unwrap() } else { fields };
            assert_is(inner, json, &format!("{path}.{name}"));
        }
        _ => panic!("{path}: {found:?} is not {json}"),
    }
}

/// JSON's own reader keeps integers beyond 64 bits as floats.
fn is_number(found: &Value, json: &Json) -> bool {
    match (found, json.is_f64()) {
        (Value::Unsigned(found), true) => Some(*found as f64) == json.as_f64(),
        (Value::Signed(found), true) => Some(*found as f64) == json.as_f64(),
        _ => format!("{found:?}") == format!("{json}"),
    }
}

fn are_bytes(found: &[u8], text: &str) -> bool {
    let is_account = || {
        let account = found.try_into().ok();
        account.is_some_and(|account| Address::of(account).to_string() == text)
    };
    found == text.as_bytes() || format!("0x{}", hex::encode(found)) == *text || is_account()
}
