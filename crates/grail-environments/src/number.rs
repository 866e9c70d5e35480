//! Finds the number that a text ends on.
//!
//! Only the last number of a text counts, so listing many numbers wins nothing. If the last digits
//! belong to something that is no integer (`14.5`, `x14`, `1,2,14`), the text has no number at all,
//! rather than an earlier one.

/// Digits of the longest number, without leading zeros; such a number fits an i64.
const DIGITS_MAX: usize = 18;

/// Returns the last integer of `text`, if its last digits are one.
///
/// Digits are ASCII. Groups of three may be split by commas (`1,234`), a fraction of zeros is
/// allowed (`14.0`), and a sign (`-`, `+` or U+2212) counts where it touches the digits and does
/// not follow a letter, a digit, a closing bracket or another sign, so that `22-8` ends on 8.
/// Linear time.
pub(crate) fn last_integer(text: &str) -> Option<i64> {
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    if text[end..].starts_with(is_word) {
        return None;
    }
    let before =
        text[..end].trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, ',' | '.'));
    let run = &text[before.len()..end];
    let body = run.trim_start_matches([',', '.']);
    // One dot right before digits makes a fraction; several are an ellipsis.
    if before.ends_with(is_word) || run.strip_suffix(body) == Some(".") {
        return None;
    }
    let magnitude = integer(body)?;
    // A sign must touch the digits: punctuation between them would have been trimmed from the run.
    let is_negative = body.len() == run.len() && is_minus(before);
    Some(if is_negative { -magnitude } else { magnitude })
}

/// Returns whether `text` is an integer as Rust writes it: no white space, plus sign, leading zero
/// or negative zero.
pub(crate) fn is_canonical_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_short = (1..=DIGITS_MAX).contains(&digits.len());
    is_short
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !digits.starts_with('0'))
}

/// Letters, digits and the underscore of any script: what digits must not be glued to.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns whether `before` ends with a minus that is a sign and not an operator.
fn is_minus(before: &str) -> bool {
    let Some(rest) = before.strip_suffix(['-', '\u{2212}']) else { return false };
    let follows = |c: char| is_word(c) || matches!(c, ')' | ']' | '}' | '-' | '+' | '\u{2212}');
    !rest.ends_with(follows)
}

/// Reads digits with optional groups of three and an optional fraction of zeros.
fn integer(body: &str) -> Option<i64> {
    let whole = match body.split_once('.') {
        None => body,
        Some((whole, fraction)) if fraction.bytes().all(|byte| byte == b'0') => whole,
        Some(_) => return None,
    };
    let mut groups = whole.split(',');
    let first = groups.next()?;
    let is_grouped = whole.len() > first.len();
    if first.is_empty() || (is_grouped && (first.len() > 3 || groups.any(|group| group.len() != 3)))
    {
        return None;
    }
    let digits = whole.trim_start_matches(['0', ',']);
    let mut value = 0i64;
    let mut n_digits = 0;
    for byte in digits.bytes().filter(|&byte| byte != b',') {
        n_digits += 1;
        if n_digits > DIGITS_MAX {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_number_counts() {
        for (text, want) in [
            ("14", 14),
            ("-3", -3),
            ("+3", 3),
            ("\u{2212}3", -3),
            ("17 + 5 - 8 = 14", 14),
            ("17 + 5 - 8 = 14.", 14),
            ("The answer is **14**!\n", 14),
            ("\\boxed{-14}", -14),
            ("14, of course", 14),
            ("$1,234", 1_234),
            ("12,345,678", 12_345_678),
            ("14.0", 14),
            ("14.000, yes", 14),
            ("007", 7),
            ("-0", 0),
            ("22-8", 8),
            ("(3)-8", 8),
            ("= -8", -8),
            ("=-8", -8),
            ("3 - -8", -8),
            ("--8", 8),
            ("...14", 14),
            (", 14", 14),
            ("1 2 3 14 15", 15),
            ("14/15", 15),
            ("９ 14", 14),
            ("999999999999999999", 999_999_999_999_999_999),
            ("-999,999,999,999,999,999", -999_999_999_999_999_999),
        ] {
            assert_eq!(last_integer(text), Some(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_integer_is_no_number() {
        for text in [
            "",
            "-",
            "no digits",
            "14.5",
            "3 or 14.5",
            "1.2.14",
            ".5",
            "is.5",
            "x14",
            "14th",
            "14_",
            "14é",
            "é14",
            "1e5",
            "0x1F",
            "1,2,14",
            "1,23",
            "1234,567",
            "14,",
            "1000000000000000000",
            "9,999,999,999,999,999,999",
            "１４",
            "٣",
            "14٣",
        ] {
            let want = (text == "14,").then_some(14);
            assert_eq!(last_integer(text), want, "{text}");
        }
    }

    #[test]
    fn the_exact_form_is_narrow() {
        for text in ["0", "7", "-7", "10", "123456789012345678"] {
            assert!(is_canonical_integer(text), "{text}");
        }
        for text in [
            "",
            "-",
            "-0",
            "00",
            "07",
            "-07",
            "+7",
            " 7",
            "7 ",
            "7\n",
            "7.",
            "7.0",
            "1,000",
            "7 7",
            "\u{2212}7",
            "７",
            "1234567890123456789",
        ] {
            assert!(!is_canonical_integer(text), "{text:?}");
        }
    }

    #[test]
    fn megabytes_of_hostile_text_take_linear_time() {
        // Quadratic work on a megabyte would take hours, so finishing is the assertion.
        for unit in ["1", "1,", "1.", "-", "0", ",", ".", "1 ", "é", "1-", "000,", "9\u{2212}"] {
            let text = unit.repeat(1 << 20);
            let _ = last_integer(&text);
            assert!(!is_canonical_integer(&text));
            assert_eq!(last_integer(&(text + " = 5")), Some(5), "after many {unit}");
        }
        assert_eq!(last_integer(&format!("{}7", "0".repeat(1 << 20))), Some(7));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = last_integer(&text);
            let _ = is_canonical_integer(&text);
        }

        #[test]
        fn soups_of_number_parts_are_read_without_a_panic(text in "[-+0-9.,x \u{2212}é]{0,40}") {
            if let Some(value) = last_integer(&text) {
                prop_assert!(value.unsigned_abs() < 10u64.pow(18));
                prop_assert!(text.contains(|c: char| c.is_ascii_digit()));
            }
        }

        #[test]
        fn a_number_is_found_behind_any_prose(
            prose in any::<String>(), value in -(10i64.pow(18) - 1)..10i64.pow(18),
            tail in "[ .!?\n*}]{0,5}",
        ) {
            prop_assert_eq!(last_integer(&format!("{prose} {value}{tail}")), Some(value));
            prop_assert!(is_canonical_integer(&value.to_string()));
        }

        #[test]
        fn numbers_in_front_change_nothing(
            list in prop::collection::vec(any::<i32>(), 0..50), value in any::<i32>(),
        ) {
            let list: Vec<String> = list.iter().map(ToString::to_string).collect();
            let text = format!("{} {value}", list.join(" "));
            prop_assert_eq!(last_integer(&text), Some(i64::from(value)));
        }
    }
}
