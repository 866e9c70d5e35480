//! Reads an assignment out of a text.
//!
//! An assignment of a variable is `x`, its number without leading zeros, `=` and `0` or `1`, with
//! white space around `=` allowed, `X` for `x` too, and no letter, digit or underscore touching
//! either end. Everything else is prose. If a variable is assigned more than once, the last one
//! counts, so trying many assignments wins nothing; if one is never assigned, there is no answer.

/// Returns the value of each of the `n_variables` variables, or `None` if one has none. Linear time.
pub(super) fn parse(text: &str, n_variables: usize) -> Option<Vec<bool>> {
    let mut values = vec![None; n_variables];
    let mut rest = text;
    let mut previous = None;
    while let Some(c) = rest.chars().next() {
        let tail = &rest[c.len_utf8()..];
        let is_start = matches!(c, 'x' | 'X') && !previous.is_some_and(is_word);
        previous = Some(c);
        rest = tail;
        if !is_start {
            continue;
        }
        // Whatever was looked at is skipped, so that no character is read twice.
        let (assignment, after) = read_assignment(tail);
        let read = &tail[..tail.len() - after.len()];
        previous = read.chars().next_back().or(previous);
        rest = after;
        if let Some((number, value)) = assignment
            && let Some(slot) = number.checked_sub(1).and_then(|index| values.get_mut(index))
        {
            *slot = Some(value);
        }
    }
    values.into_iter().collect()
}

/// Reads what follows an `x`; returns the assignment, if it is one, and the rest of the text.
fn read_assignment(text: &str) -> (Option<(usize, bool)>, &str) {
    let after_number = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - after_number.len()];
    let number = (digits.len() <= 3 && !digits.starts_with('0')).then(|| digits.parse().ok());
    let after_space = after_number.trim_start();
    let Some(after_equals) = after_space.strip_prefix('=') else { return (None, after_space) };
    let after_equals = after_equals.trim_start();
    let value = match after_equals.bytes().next() {
        Some(b'0') => false,
        Some(b'1') => true,
        _ => return (None, after_equals),
    };
    let rest = &after_equals[1..];
    if rest.starts_with(is_word) {
        return (None, rest);
    }
    (number.flatten().map(|number| (number, value)), rest)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Writes an assignment in the form that is asked for.
pub(super) fn write(values: &[bool]) -> String {
    let one = |(index, value): (usize, &bool)| format!("x{}={}", index + 1, u8::from(*value));
    values.iter().enumerate().map(one).collect::<Vec<_>>().join(" ")
}

/// Returns whether `text` is exactly `values` in the form that is asked for.
pub(super) fn is_exact(text: &str, values: &[bool]) -> bool {
    text == write(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: bool = true;
    const F: bool = false;

    #[test]
    fn assignments_are_found_in_prose() {
        for text in [
            "x1=1 x2=0 x3=1",
            "x1=1, x2=0, x3=1.",
            "X1 = 1\nX2 = 0\nX3 = 1",
            "x3=1 x2=0 x1=1",
            "(x1=1)(x2=0)(x3=1)",
            "I try x1=0 first. No: x1=1 x2=0 x3=1",
            "x1=1 x2=0 x3=1 x4=1 x0=0 x99=1 x2=7 x2=10 x1=true max1=0",
            "xx x x1 x=1 x1=1 x2=0 x3=1",
            "x1=\u{a0}1 x2=0 x3=1",
        ] {
            assert_eq!(parse(text, 3), Some(vec![T, F, T]), "{text}");
        }
    }

    #[test]
    fn partial_and_malformed_assignments_are_no_answer() {
        for text in [
            "",
            "1 0 1",
            "x1=1 x2=0",
            "x1=1 x2=0 x3",
            "x1=1 x2=0 x3=",
            "x1=1 x2=0 x3=2",
            "x1=1 x2=0 x3=11",
            "x1=1 x2=0 x03=1",
            "x1=1 x2=0 x0003=1",
            "x1=1 x2=0 x3=1a",
            "x1=1 x2=0 x3=1_",
            "x1=1 x2=0 x3==1",
            "x1=1 x2=0 x3:1",
            "x1=1 x2=0 max3=1",
            "x1=1 x2=0 x3=１",
            "x1=1x2=0x3=1",
            "x1=1 x2=0 x3=1é",
            "x1=1 x2=0 _x3=1",
            "x1=1 x2=0 x99999999999999999999=1",
            "x1=1 x2=0 x 3=1",
        ] {
            assert_eq!(parse(text, 3), None, "{text}");
        }
    }

    #[test]
    fn the_last_value_counts() {
        assert_eq!(parse("x1=0 x2=0 x1=1", 2), Some(vec![T, F]));
        assert_eq!(parse("x1=1 x2=0 x1=0 x2=1", 2), Some(vec![F, T]));
    }

    #[test]
    fn megabytes_of_hostile_text_take_linear_time() {
        // Quadratic work on a megabyte would take hours, so finishing is the assertion.
        for unit in ["x", "x1", "x1=", "x1= ", "x ", " ", "=", "x1=1", "x1=1 ", "é", "9", "x1 "] {
            let text = unit.repeat(1 << 18);
            let _ = parse(&text, 3);
            assert_eq!(parse(&(text + " x1=1 x2=0 x3=1"), 3), Some(vec![T, F, T]), "{unit}");
        }
        let spaces = " ".repeat(1 << 18);
        assert_eq!(parse(&format!("x1{spaces}={spaces}1"), 1), Some(vec![T]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in prop::collection::vec(any::<bool>(), 1..50)) {
            let text = write(&values);
            prop_assert!(is_exact(&text, &values));
            prop_assert_eq!(parse(&text, values.len()), Some(values.clone()));
            prop_assert_eq!(parse(&text, values.len() + 1), None);
            let trailing = format!("{text} ");
            prop_assert!(!is_exact(&trailing, &values));
            prop_assert_eq!(parse(&trailing, values.len()), Some(values));
        }

        #[test]
        fn any_prose_may_come_before(prose in any::<String>()) {
            prop_assert_eq!(parse(&format!("{prose}; x1=1 x2=0"), 2), Some(vec![T, F]));
        }
    }
}
