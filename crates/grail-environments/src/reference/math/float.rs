//! Text that Python's `float` takes.

use grail_protocol::v5::python::digits::with_ascii_digits;

/// Returns `float(text)`, if it is one.
pub fn parse(text: &str) -> Option<f64> {
    let ascii = with_ascii_digits(text.trim());
    let unsigned = ascii.strip_prefix(['+', '-']).unwrap_or(&ascii);
    let is_named =
        ["inf", "infinity", "nan"].iter().any(|name| unsigned.eq_ignore_ascii_case(name));
    if is_named {
        return ascii.parse().ok();
    }
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let is_exponent = |text: &str| are_digits(text.strip_prefix(['+', '-']).unwrap_or(text));
    let is_mantissa = match mantissa.split_once('.') {
        None => are_digits(mantissa),
        Some((whole, "")) => are_digits(whole),
        Some(("", fraction)) => are_digits(fraction),
        Some((whole, fraction)) => are_digits(whole) && are_digits(fraction),
    };
    if !is_mantissa || !exponent.is_none_or(is_exponent) {
        return None;
    }
    ascii.replace('_', "").parse().ok()
}

/// Returns whether the text is digits, with single underscores between them.
fn are_digits(text: &str) -> bool {
    text.split('_').all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_takes_is_taken() {
        for (text, want) in [
            ("1_000", Some(1000.0)),
            (" -.5e-1\u{a0}", Some(-0.05)),
            ("5.", Some(5.0)),
            ("1_0.0_1e1_0", Some(10.01e10)),
            ("٤٢", Some(42.0)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("1__0", None),
            ("\u{1c}1", None),
            ("_1", None),
            ("1_.0", None),
            ("1e", None),
            ("0x10", None),
            (".", None),
            ("", None),
            ("+-1", None),
            ("infinite", None),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
        assert!(parse("nan").unwrap().is_nan());
    }
}
