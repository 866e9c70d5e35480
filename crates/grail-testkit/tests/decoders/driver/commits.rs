//! JSON of proof v5 as Python reads it: commits, payloads and rows.

use grail_protocol::v5::binding::commitments_hash;
use grail_protocol::v5::envelope::{challenge, is_signed};
use grail_protocol::v5::python::json::parse;
use grail_protocol::v5::python::print::{Keys, to_int, to_json, to_str};
use grail_protocol::v5::schema::check_commit;

pub fn drive(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(value) = parse(text) else { return false };
    for keys in [Keys::AsInserted, Keys::Sorted] {
        let printed = to_json(&value, keys);
        assert!(printed.is_ascii());
        // By its text and not by the value: a NaN is not equal to itself.
        let again = parse(&printed).expect("what was printed is read");
        assert_eq!(to_json(&again, keys), printed, "a value is printed in two ways");
    }
    let _ = (to_str(&value), to_int(&value), commitments_hash(&value));
    let _ = (check_commit(&value), challenge(&value), is_signed(&value));
    true
}
