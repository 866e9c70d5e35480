//! Splits an expression as Python's tokenizer does, as far as the subset goes.

use super::super::float;
use super::number::Number;

/// Most digits of a float that 53 bits hold; with more the reference computes more precisely.
const FLOAT_DIGITS_MAX: usize = 15;

/// A piece of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A number.
    Number(Number),
    /// A number times the imaginary unit.
    Imaginary(Number),
    /// A name.
    Name(String),
    /// An operator or a parenthesis.
    Sign(&'static str),
}

/// Operators, the longer of two that begin alike first.
const SIGNS: [&str; 12] = ["**", "//", "!!", "+", "-", "*", "/", "%", "^", "!", "(", ")"];

/// Returns the tokens, or nothing if there is anything else in the text.
pub fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut rest = text;
    let mut tokens = Vec::new();
    while let Some(first) = rest.chars().next() {
        let is_number = first.is_ascii_digit()
            || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()));
        let (token, length) = if is_number {
            number(rest)?
        } else if first.is_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            let end = end.unwrap_or(rest.len());
            (Token::Name(rest[..end].to_owned()), end)
        } else if first == ',' {
            (Token::Sign(","), 1)
        } else {
            let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign))?;
            // A third exclamation mark is no notation of anything.
            if sign == "!!" && rest[2..].starts_with('!') {
                return None;
            }
            (Token::Sign(sign), sign.len())
        };
        tokens.push(token);
        rest = &rest[length..];
    }
    Some(tokens)
}

/// Returns the number at the start of the text and its length.
fn number(text: &str) -> Option<(Token, usize)> {
    let bytes = text.as_bytes();
    if let [b'0', letter @ (b'x' | b'o' | b'b'), ..] = bytes {
        let radix = match letter {
            b'x' => 16,
            b'o' => 8,
            _ => 2,
        };
        let end = 2 + run(&text[2..], |c| c.is_ascii_alphanumeric() || c == '_');
        let digits = text[2..end].strip_prefix('_').unwrap_or(&text[2..end]);
        let is_grouped = digits.split('_').all(|group| !group.is_empty());
        let digits = digits.replace('_', "");
        let value = Number::from_digits(&digits, radix).filter(|_| is_grouped)?;
        return Some((Token::Number(value), end));
    }
    let is_digit = |c: char| c.is_ascii_digit() || c == '_';
    let mut end = run(text, is_digit);
    let mut is_float = false;
    if text[end..].starts_with('.') {
        is_float = true;
        end += 1 + run(&text[end + 1..], is_digit);
    }
    if let Some(exponent) = text[end..].strip_prefix('e') {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        let digits = run(&exponent[sign..], is_digit);
        if digits > 0 {
            is_float = true;
            end += 1 + sign + digits;
        }
    }
    let literal = &text[..end];
    let value = if is_float { float_value(literal)? } else { integer_value(literal)? };
    if text[end..].starts_with('j') {
        return Some((Token::Imaginary(value), end + 1));
    }
    Some((Token::Number(value), end))
}

fn run(text: &str, is_inside: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is_inside(c)).unwrap_or(text.len())
}

fn integer_value(literal: &str) -> Option<Number> {
    let is_grouped = literal.split('_').all(|group| !group.is_empty());
    let digits = literal.replace('_', "");
    // Leading zeros are allowed in front of zero only.
    let is_canonical = !digits.starts_with('0') || digits.bytes().all(|digit| digit == b'0');
    Number::from_digits(&digits, 10).filter(|_| is_grouped && is_canonical)
}

fn float_value(literal: &str) -> Option<Number> {
    let value = float::parse(literal)?;
    let (mantissa, exponent) = literal.split_once('e').unwrap_or((literal, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let n_digits = digits.trim_start_matches('0').len();
    // Without a point the number is whole, and all its digits count.
    let is_whole = !mantissa.contains('.');
    let zeros: usize = if is_whole { exponent.parse().unwrap_or(0) } else { 0 };
    let is_held = n_digits.saturating_add(zeros) <= FLOAT_DIGITS_MAX;
    let is_lost = !value.is_finite() || (value == 0.0 && n_digits > 0);
    (is_held && !is_lost).then_some(Number::Float(value))
}
