//! The functions of which something is known.

use num_bigint::BigInt;
use num_integer::Integer as _;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::compute::Algebra;
use super::number::Number;
use super::parse::is_taken;
use super::value::{Atom, Exponent, Quotient};

/// Greatest number whose factorial is computed.
const FACTORIAL_MAX: u32 = 500;

/// Returns a function of its inputs: its value where that is known, else the function itself.
///
/// Functions that the reference's algebra system knows, and this one does not, are outside the subset.
pub fn apply(algebra: &mut Algebra, name: &str, inputs: Vec<Quotient>) -> Option<Quotient> {
    match (name, inputs.as_slice()) {
        ("sqrt", [x]) => algebra.rational_power(x, Exponent::new(1, 2)),
        ("cbrt", [x]) => algebra.rational_power(x, Exponent::new(1, 3)),
        ("root", [x, n]) => {
            let exponent = algebra.divide(&Quotient::constant(Number::one()), n)?;
            algebra.power(x, &exponent)
        }
        ("pow", [x, y]) => algebra.power(x, y),
        ("factorial", [n]) => match n.as_constant() {
            Some(n) => product_down(&n, 1),
            None => unknown(algebra, name, inputs),
        },
        ("factorial2", [n]) => product_down(&n.as_constant()?, 2),
        ("binomial", [n, k]) => binomial(&n.as_constant()?, &k.as_constant()?),
        ("abs", [x]) => match x.as_constant() {
            Some(value) => Some(Quotient::constant(Number::Exact(value.exact()?.abs()))),
            None => unknown(algebra, name, inputs),
        },
        ("floor" | "ceiling", [x]) => {
            let value = x.as_constant()?.to_exact()?;
            let rounded = if name == "floor" { value.floor() } else { value.ceil() };
            Some(Quotient::constant(Number::Exact(rounded)))
        }
        ("sign" | "re" | "im" | "conjugate", [x]) => of_real(name, &x.as_constant()?),
        ("max" | "min", [_, ..]) => {
            let values: Option<Vec<BigRational>> =
                inputs.iter().map(|input| input.as_constant()?.exact().cloned()).collect();
            let values = values?.into_iter();
            let chosen = if name == "max" { values.max() } else { values.min() };
            Some(Quotient::constant(Number::Exact(chosen?)))
        }
        ("gcd" | "lcm", [a, b]) => {
            let (a, b) = (integer(&a.as_constant()?)?, integer(&b.as_constant()?)?);
            let value = if name == "gcd" { a.gcd(&b) } else { a.lcm(&b) };
            Some(Quotient::constant(Number::integer(value)))
        }
        ("exp", [x]) if x.is_zero() => Some(Quotient::constant(Number::one())),
        ("log" | "ln", [x]) => log(algebra, x),
        ("log", [x, base]) => {
            let (over, under) = (log(algebra, x)?, log(algebra, base)?);
            algebra.divide(&over, &under)
        }
        ("sin" | "cos" | "tan", [x]) => match special_angle(algebra, name, x)? {
            Some(value) => Some(value),
            None => unknown(algebra, name, inputs),
        },
        ("sec", [x]) => reciprocal(algebra, "cos", x),
        ("csc", [x]) => reciprocal(algebra, "sin", x),
        ("cot", [x]) => reciprocal(algebra, "tan", x),
        ("asin" | "acos" | "atan", [x]) => match inverse_angle(name, x) {
            Some(turns) => {
                let pi = algebra.atom(Atom::Pi)?;
                algebra.multiply(&pi, &Quotient::constant(Number::Exact(turns)))
            }
            None => unknown(algebra, name, inputs),
        },
        ("sinh" | "tanh", [x]) if x.is_zero() => Some(x.clone()),
        ("cosh", [x]) if x.is_zero() => Some(Quotient::constant(Number::one())),
        ("gamma", [x]) => product_down(&x.as_constant()?.positive_predecessor()?, 1),
        ("exp" | "sinh" | "cosh" | "tanh", [_]) => unknown(algebra, name, inputs),
        _ if is_taken(name) => None,
        _ => unknown(algebra, name, inputs),
    }
}

/// Returns what a function of complex numbers makes of a real one.
fn of_real(name: &str, x: &Number) -> Option<Quotient> {
    let value = match name {
        "sign" => Number::Exact(x.exact()?.signum()),
        "im" => Number::zero(),
        _ => x.clone(),
    };
    Some(Quotient::constant(value))
}

/// Returns one over a function of an angle.
fn reciprocal(algebra: &mut Algebra, name: &str, x: &Quotient) -> Option<Quotient> {
    let value = apply(algebra, name, vec![x.clone()])?;
    algebra.divide(&Quotient::constant(Number::one()), &value)
}

/// Returns the angle of a sine, cosine or tangent of 0, 1/2 or 1 with either sign, in half turns.
fn inverse_angle(name: &str, x: &Quotient) -> Option<BigRational> {
    let ratio = |over: i64, under: i64| BigRational::new(over.into(), under.into());
    let x = x.as_constant()?.exact()?.clone();
    let (is_one, is_half) = (x.abs().is_one(), x.abs() == ratio(1, 2));
    let angle = match name {
        _ if x.is_zero() => ratio(0, 1),
        "atan" if is_one => ratio(1, 4),
        "asin" | "acos" if is_one => ratio(1, 2),
        "asin" | "acos" if is_half => ratio(1, 6),
        _ => return None,
    };
    let angle = angle * x.signum();
    Some(if name == "acos" { ratio(1, 2) - angle } else { angle })
}

fn unknown(algebra: &mut Algebra, name: &str, inputs: Vec<Quotient>) -> Option<Quotient> {
    algebra.atom(Atom::Apply(name.to_owned(), inputs))
}

fn integer(value: &Number) -> Option<BigInt> {
    value.exact().filter(|exact| exact.is_integer()).map(BigRational::to_integer)
}

/// Returns n (n - step) (n - 2 step) ... down to 1 or 2.
fn product_down(n: &Number, step: usize) -> Option<Quotient> {
    let n = integer(n)?.to_u32().filter(|&n| n <= FACTORIAL_MAX)?;
    let factors = (1..=n).rev().step_by(step);
    let product = factors.fold(BigInt::one(), |product, factor| product * factor);
    Some(Quotient::constant(Number::integer(product)))
}

fn binomial(n: &Number, k: &Number) -> Option<Quotient> {
    let n = integer(n)?.to_u32().filter(|&n| n <= FACTORIAL_MAX)?;
    let k = integer(k)?;
    let k = match k.to_u32() {
        Some(k) if k <= n => k.min(n - k),
        // More than all, or fewer than none, can be chosen in no way.
        _ => return Some(Quotient::constant(Number::zero())),
    };
    let ways = (0..k).fold(BigInt::one(), |ways, i| ways * (n - i) / (i + 1));
    Some(Quotient::constant(Number::integer(ways)))
}

/// Returns a logarithm; of a positive rational as the sum of those of its primes.
fn log(algebra: &mut Algebra, x: &Quotient) -> Option<Quotient> {
    let Some(value) = x.as_constant() else {
        return unknown(algebra, "log", vec![x.clone()]);
    };
    let value = value.exact().filter(|value| value.is_positive())?;
    let mut sum = Quotient::constant(Number::zero());
    for (prime, power) in algebra.primes(value)? {
        let prime = Quotient::constant(Number::integer(prime));
        let term = unknown(algebra, "log", vec![prime])?;
        let term = algebra.multiply(&term, &Quotient::constant(Number::integer(power)))?;
        sum = algebra.add(&sum, &term)?;
    }
    Some(sum)
}

/// Returns the sine, cosine or tangent of a multiple of pi/4 or pi/6.
///
/// The outer `None` is a pole, or work that is too much.
fn special_angle(algebra: &mut Algebra, name: &str, x: &Quotient) -> Option<Option<Quotient>> {
    let pi = algebra.atom(Atom::Pi)?;
    let turns = algebra.divide(x, &pi)?;
    // The quotient by pi is a number only after the powers of pi cancel.
    let Some(turns) = as_multiple(algebra, &turns, x, &pi)? else { return Some(None) };
    let twelfths = turns * BigInt::from(12);
    if !twelfths.is_integer() {
        return Some(None);
    }
    let twelfths = twelfths.to_integer().mod_floor(&BigInt::from(24)).to_i64()?;
    let sine = |algebra: &mut Algebra, twelfths: i64| sine(algebra, twelfths.rem_euclid(24));
    match name {
        "sin" => sine(algebra, twelfths),
        "cos" => sine(algebra, twelfths + 6),
        _ => {
            let (Some(over), Some(under)) =
                (sine(algebra, twelfths)?, sine(algebra, twelfths + 6)?)
            else {
                return Some(None);
            };
            algebra.divide(&over, &under).map(Some)
        }
    }
}

/// Returns the rational `q` with `x = q pi`, if there is one.
fn as_multiple(
    algebra: &mut Algebra,
    turns: &Quotient,
    x: &Quotient,
    pi: &Quotient,
) -> Option<Option<BigRational>> {
    if x.is_zero() {
        return Some(Some(BigRational::zero()));
    }
    // Of two monomials that differ in their coefficients only, these give the quotient.
    let coefficients = (turns.over.len() == 1 && turns.under.len() == 1)
        .then(|| turns.over.values().next().zip(turns.under.values().next()))
        .flatten();
    let Some((over, under)) = coefficients else { return Some(None) };
    let Some(ratio) = over.divide(under).as_ref().and_then(Number::exact).cloned() else {
        return Some(None);
    };
    let multiple = algebra.multiply(pi, &Quotient::constant(Number::Exact(ratio.clone())))?;
    Some(algebra.subtract(&multiple, x)?.is_zero().then_some(ratio))
}

/// Returns the sine of a multiple of pi/12, for those with one square root at most.
fn sine(algebra: &mut Algebra, twelfths: i64) -> Option<Option<Quotient>> {
    let (sign, twelfths) = if twelfths >= 12 { (-1, twelfths - 12) } else { (1, twelfths) };
    // Four times the square of the sine.
    let square = match twelfths.min(12 - twelfths) {
        0 => 0,
        2 => 1,
        3 => 2,
        4 => 3,
        6 => 4,
        _ => return Some(None),
    };
    let root = algebra
        .rational_power(&Quotient::constant(Number::integer(square)), Exponent::new(1, 2))?;
    let half = Number::Exact(BigRational::new(sign.into(), 2.into()));
    algebra.multiply(&root, &Quotient::constant(half)).map(Some)
}
