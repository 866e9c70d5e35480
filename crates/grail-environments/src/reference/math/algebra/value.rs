//! Values: quotients of polynomials in atoms with rational exponents.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use num_rational::Ratio;

use super::number::Number;

/// An exponent.
pub type Exponent = Ratio<i64>;

/// A product of powers of atoms, by the atoms' indices, ascending; no exponent is 0 or negative.
pub type Monomial = Vec<(usize, Exponent)>;

/// A sum of monomials with coefficients, none of them 0.
pub type Polynomial = BTreeMap<Monomial, Number>;

/// What polynomials are polynomials in.
#[derive(Clone, Debug)]
pub enum Atom {
    /// A name.
    Symbol(String),
    /// The number pi.
    Pi,
    /// The imaginary unit; its exponent is 1.
    Imaginary,
    /// A prime, or what trial division left of a number; its exponent is below 1.
    Root(BigInt),
    /// A polynomial, for its roots; its exponent is below 1.
    Base(Polynomial),
    /// A function of which nothing is known but that it gives equals for equals.
    Apply(String, Vec<Quotient>),
}

/// A quotient; the denominator is not 0.
#[derive(Clone, Debug)]
pub struct Quotient {
    /// Numerator.
    pub over: Polynomial,
    /// Denominator.
    pub under: Polynomial,
}

impl Quotient {
    /// Makes a constant.
    pub fn constant(value: Number) -> Self {
        Self { over: constant(value), under: constant(Number::one()) }
    }

    /// Returns whether this is 0.
    pub fn is_zero(&self) -> bool {
        self.over.is_empty()
    }

    /// Returns the number that this is, if it has no atoms.
    pub fn as_constant(&self) -> Option<Number> {
        as_constant(&self.over)?.divide(&as_constant(&self.under)?)
    }
}

/// Makes a polynomial of a number.
pub fn constant(value: Number) -> Polynomial {
    if value.is_zero() { Polynomial::new() } else { Polynomial::from([(Monomial::new(), value)]) }
}

/// Returns the number that a polynomial is.
pub fn as_constant(polynomial: &Polynomial) -> Option<Number> {
    match polynomial.len() {
        0 => Some(Number::zero()),
        1 => polynomial.get(&Monomial::new()).cloned(),
        _ => None,
    }
}
