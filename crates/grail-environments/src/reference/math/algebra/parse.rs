//! Reads an expression with Python's precedence and computes it on the way.

use num_bigint::BigInt;
use num_traits::Signed;

use super::compute::Algebra;
use super::functions;
use super::number::Number;
use super::tokens::{Token, tokens};
use super::value::{Atom, Quotient};

/// Deepest nesting of parentheses, signs and powers.
const DEPTH_MAX: usize = 60;

/// Names that the reference's algebra system or Python gives another meaning than a variable, sorted.
const TAKEN: &str = include_str!("../sympy_names.txt");

/// Returns the value of an expression, if it is one of the subset.
pub fn expression(text: &str, algebra: &mut Algebra) -> Option<Quotient> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, depth: 0, algebra };
    let value = parser.exclusive_or()?;
    (parser.at == tokens.len()).then_some(value)
}

/// Returns whether a name is no variable.
pub fn is_taken(name: &str) -> bool {
    // The list is short, and names are few.
    TAKEN.lines().any(|taken| taken == name)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    algebra: &'a mut Algebra,
}

impl Parser<'_> {
    fn takes(&mut self, sign: &str) -> bool {
        let is_next = matches!(self.tokens.get(self.at), Some(Token::Sign(next)) if *next == sign);
        self.at += usize::from(is_next);
        is_next
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return None;
        }
        let value = read(self);
        self.depth -= 1;
        value
    }

    /// Of whole numbers only, bit by bit, as in Python.
    fn exclusive_or(&mut self) -> Option<Quotient> {
        let mut value = self.sum()?;
        while self.takes("^") {
            let (a, b) = (whole(&value)?, whole(&self.sum()?)?);
            value = Quotient::constant(Number::integer(a ^ b));
        }
        Some(value)
    }

    fn sum(&mut self) -> Option<Quotient> {
        let mut value = self.product()?;
        loop {
            if self.takes("+") {
                let other = self.product()?;
                value = self.algebra.add(&value, &other)?;
            } else if self.takes("-") {
                let other = self.product()?;
                value = self.algebra.subtract(&value, &other)?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<Quotient> {
        let mut value = self.signed()?;
        loop {
            if self.takes("*") {
                let other = self.signed()?;
                value = self.algebra.multiply(&value, &other)?;
            } else if self.takes("/") {
                let other = self.signed()?;
                value = self.algebra.divide(&value, &other)?;
            } else if self.takes("//") {
                let other = self.signed()?;
                value = floor_of(&value, &other)?.0;
            } else if self.takes("%") {
                let other = self.signed()?;
                value = floor_of(&value, &other)?.1;
            } else {
                return Some(value);
            }
        }
    }

    fn signed(&mut self) -> Option<Quotient> {
        if self.takes("-") {
            let value = self.deeper(Self::signed)?;
            return Some(self.algebra.negative(&value));
        }
        if self.takes("+") {
            return self.deeper(Self::signed);
        }
        self.power()
    }

    /// Binds tighter than a sign on its left and looser than one on its right.
    fn power(&mut self) -> Option<Quotient> {
        let base = self.factorial()?;
        if !self.takes("**") {
            return Some(base);
        }
        let exponent = self.deeper(Self::signed)?;
        self.algebra.power(&base, &exponent)
    }

    fn factorial(&mut self) -> Option<Quotient> {
        let value = self.atom()?;
        if self.takes("!!") {
            return functions::apply(self.algebra, "factorial2", vec![value]);
        }
        if self.takes("!") {
            return functions::apply(self.algebra, "factorial", vec![value]);
        }
        Some(value)
    }

    fn atom(&mut self) -> Option<Quotient> {
        let token = self.tokens.get(self.at)?;
        self.at += 1;
        match token {
            Token::Number(value) => Some(Quotient::constant(value.clone())),
            Token::Imaginary(value) => {
                let unit = self.algebra.atom(Atom::Imaginary)?;
                self.algebra.multiply(&unit, &Quotient::constant(value.clone()))
            }
            Token::Sign("(") => {
                let value = self.deeper(Self::exclusive_or)?;
                self.takes(")").then_some(value)
            }
            Token::Sign(_) => None,
            Token::Name(name) if self.takes("(") => {
                let inputs = self.deeper(Self::inputs)?;
                functions::apply(self.algebra, name, inputs)
            }
            Token::Name(name) if name == "pi" => self.algebra.atom(Atom::Pi),
            Token::Name(name) if is_taken(name) => None,
            Token::Name(name) => self.algebra.atom(Atom::Symbol(name.clone())),
        }
    }

    fn inputs(&mut self) -> Option<Vec<Quotient>> {
        let mut inputs = vec![self.exclusive_or()?];
        while self.takes(",") {
            inputs.push(self.exclusive_or()?);
        }
        self.takes(")").then_some(inputs)
    }
}

/// Returns the whole number, not negative, that a value is.
fn whole(value: &Quotient) -> Option<BigInt> {
    let value = value.as_constant()?;
    let exact = value.exact()?;
    (exact.is_integer() && !exact.is_negative()).then(|| exact.to_integer())
}

/// Returns the floor of the quotient of two rationals, and the remainder.
fn floor_of(a: &Quotient, b: &Quotient) -> Option<(Quotient, Quotient)> {
    let (a, b) = (a.as_constant()?, b.as_constant()?);
    let (a, quotient) = (a.exact()?, a.divide(&b)?);
    let floor = quotient.exact()?.floor();
    let rest = a - &floor * b.exact()?;
    Some((Quotient::constant(Number::Exact(floor)), Quotient::constant(Number::Exact(rest))))
}
