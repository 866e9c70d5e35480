//! Coefficients: rationals of any size, and floats where the expression has floats.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

/// Most bits of a numerator or denominator.
const BITS_MAX: u64 = 1 << 15;

/// Integers up to this are floats without rounding.
const EXACT_FLOAT_MAX: u64 = 1 << 53;

/// A number.
#[derive(Clone, Debug, PartialEq)]
pub enum Number {
    /// A rational.
    Exact(BigRational),
    /// A float, finite. What meets it becomes one.
    Float(f64),
}

impl Number {
    /// Returns 0.
    pub fn zero() -> Self {
        Self::Exact(BigRational::zero())
    }

    /// Returns 1.
    pub fn one() -> Self {
        Self::Exact(BigRational::one())
    }

    /// Returns a whole number.
    pub fn integer(value: impl Into<BigInt>) -> Self {
        Self::Exact(BigRational::from_integer(value.into()))
    }

    /// Reads digits of a base.
    pub fn from_digits(digits: &str, radix: u32) -> Option<Self> {
        BigInt::parse_bytes(digits.as_bytes(), radix).map(Self::integer)
    }

    /// Returns whether this is 0.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Exact(value) => value.is_zero(),
            Self::Float(value) => *value == 0.0,
        }
    }

    /// Returns the rational.
    pub fn exact(&self) -> Option<&BigRational> {
        match self {
            Self::Exact(value) => Some(value),
            Self::Float(_) => None,
        }
    }

    /// Returns the rational that this is, a float's too.
    pub fn to_exact(&self) -> Option<BigRational> {
        match self {
            Self::Exact(value) => Some(value.clone()),
            Self::Float(value) => BigRational::from_float(*value),
        }
    }

    /// Returns one less than an exact positive number.
    pub fn positive_predecessor(&self) -> Option<Self> {
        let value = self.exact().filter(|value| value.is_positive())?;
        bounded(value - BigRational::one())
    }

    /// Returns how many machine words an operation on this number touches.
    pub fn work(&self) -> u64 {
        match self {
            Self::Exact(value) => 1 + (value.numer().bits() + value.denom().bits()) / 64,
            Self::Float(_) => 1,
        }
    }

    /// Adds.
    pub fn add(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => bounded(a + b),
            _ => finite(self.to_float()? + other.to_float()?),
        }
    }

    /// Multiplies. An exact 0 stays exact.
    pub fn multiply(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => bounded(a * b),
            (Self::Exact(zero), _) | (_, Self::Exact(zero)) if zero.is_zero() => Some(Self::zero()),
            _ => finite(self.to_float()? * other.to_float()?),
        }
    }

    /// Divides; by 0 there is nothing.
    pub fn divide(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            _ if other.is_zero() => None,
            (Self::Exact(a), Self::Exact(b)) => bounded(a / b),
            _ => finite(self.to_float()? / other.to_float()?),
        }
    }

    /// Returns the negative.
    pub fn negative(&self) -> Self {
        match self {
            Self::Exact(value) => Self::Exact(-value),
            Self::Float(value) => Self::Float(-value),
        }
    }

    /// Raises floats, or rationals to a float: positive bases only.
    pub fn float_power(&self, exponent: &Self) -> Option<Self> {
        let base = self.to_float()?;
        if base <= 0.0 { None } else { finite(base.powf(exponent.to_float()?)) }
    }

    /// Returns the nearest float; where that takes more than one rounding there is nothing.
    fn to_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Exact(value) => {
                let small = |part: &BigInt| {
                    part.abs()
                        .to_u64()
                        .filter(|&part| part <= EXACT_FLOAT_MAX)
                        .map(|part| part as f64)
                };
                let magnitude = small(value.numer())? / small(value.denom())?;
                Some(if value.is_negative() { -magnitude } else { magnitude })
            }
        }
    }
}

/// Returns base to a whole power, if it is not too long.
pub fn integer_power(base: &BigInt, exponent: u32) -> Option<BigInt> {
    let is_short = base.bits().saturating_mul(exponent.into()) <= BITS_MAX;
    is_short.then(|| Pow::pow(base, exponent))
}

fn bounded(value: BigRational) -> Option<Number> {
    let is_short = value.numer().bits() <= BITS_MAX && value.denom().bits() <= BITS_MAX;
    is_short.then_some(Number::Exact(value))
}

fn finite(value: f64) -> Option<Number> {
    value.is_finite().then_some(Number::Float(value))
}
