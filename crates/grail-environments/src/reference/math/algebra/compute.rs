//! Arithmetic on values, within a budget.

use num_bigint::BigInt;
use num_integer::Integer as _;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::number::{Number, integer_power};
use super::value::{Atom, Exponent, Monomial, Polynomial, Quotient, as_constant, constant};

/// Machine words that two expressions may touch; some milliseconds.
const WORK_MAX: u64 = 2_000_000;

/// Most terms of a polynomial.
const TERMS_MAX: usize = 400;

/// Greatest numerator and denominator of an exponent.
const EXPONENT_MAX: i64 = 10_000;

/// Numbers are divided by those below this to find their primes.
const TRIAL_MAX: u32 = 10_000;

/// Longest number whose primes are looked for, in bits.
const FACTOR_BITS_MAX: u64 = 512;

/// The atoms of two expressions and the work left for them.
pub struct Algebra {
    atoms: Vec<Atom>,
    work: u64,
}

impl Algebra {
    /// Makes one without atoms.
    pub fn new() -> Self {
        Self { atoms: Vec::new(), work: WORK_MAX }
    }

    /// Returns an atom to the first power.
    pub fn atom(&mut self, atom: Atom) -> Option<Quotient> {
        let monomial = vec![(self.index(atom)?, Exponent::one())];
        let over = Polynomial::from([(monomial, Number::one())]);
        Some(Quotient { over, under: constant(Number::one()) })
    }

    /// Adds.
    pub fn add(&mut self, a: &Quotient, b: &Quotient) -> Option<Quotient> {
        if a.under == b.under {
            let over = self.add_polynomials(&a.over, &b.over)?;
            return Some(Quotient { over, under: a.under.clone() });
        }
        let left = self.multiply_polynomials(&a.over, &b.under)?;
        let right = self.multiply_polynomials(&b.over, &a.under)?;
        let over = self.add_polynomials(&left, &right)?;
        let under = self.multiply_polynomials(&a.under, &b.under)?;
        self.quotient(over, under)
    }

    /// Subtracts.
    pub fn subtract(&mut self, a: &Quotient, b: &Quotient) -> Option<Quotient> {
        let negative = self.negative(b);
        self.add(a, &negative)
    }

    /// Returns the negative.
    pub fn negative(&mut self, a: &Quotient) -> Quotient {
        let over = a.over.iter().map(|(key, value)| (key.clone(), value.negative())).collect();
        Quotient { over, under: a.under.clone() }
    }

    /// Multiplies.
    pub fn multiply(&mut self, a: &Quotient, b: &Quotient) -> Option<Quotient> {
        let over = self.multiply_polynomials(&a.over, &b.over)?;
        let under = self.multiply_polynomials(&a.under, &b.under)?;
        self.quotient(over, under)
    }

    /// Divides; by 0 there is nothing.
    pub fn divide(&mut self, a: &Quotient, b: &Quotient) -> Option<Quotient> {
        let inverse = self.inverse(b)?;
        self.multiply(a, &inverse)
    }

    /// Raises to a power.
    pub fn power(&mut self, base: &Quotient, exponent: &Quotient) -> Option<Quotient> {
        let Some(constant_part) = exponent.as_constant() else {
            return self.symbolic_power(base, exponent);
        };
        match constant_part {
            Number::Float(_) => {
                let base = base.as_constant()?;
                base.float_power(&constant_part).map(Quotient::constant)
            }
            Number::Exact(exponent) => {
                let part = |part: &BigInt| part.to_i64().filter(|part| part.abs() <= EXPONENT_MAX);
                let exponent = Exponent::new(part(exponent.numer())?, part(exponent.denom())?);
                self.rational_power(base, exponent)
            }
        }
    }

    /// Raises to a rational power.
    pub fn rational_power(&mut self, base: &Quotient, exponent: Exponent) -> Option<Quotient> {
        if exponent.is_negative() {
            let inverse = self.inverse(base)?;
            return self.rational_power(&inverse, -exponent);
        }
        if exponent.is_integer() {
            return self.whole_power(base, exponent.to_integer());
        }
        if base.is_zero() {
            return Some(base.clone());
        }
        let under = as_constant(&base.under)?;
        let over = self.scale(&base.over, &Number::one().divide(&under)?)?;
        self.root(&over, exponent)
    }

    /// Returns a positive rational as a product of powers of primes.
    ///
    /// What is left after trial division counts as a prime: it may be none, and then some equal roots
    /// are not seen to be equal.
    pub fn primes(&mut self, value: &BigRational) -> Option<Vec<(BigInt, i64)>> {
        let mut primes = self.primes_of(value.numer())?;
        let under = self.primes_of(value.denom())?;
        primes.extend(under.into_iter().map(|(prime, power)| (prime, -power)));
        Some(primes)
    }

    fn primes_of(&mut self, value: &BigInt) -> Option<Vec<(BigInt, i64)>> {
        if value.bits() > FACTOR_BITS_MAX {
            return None;
        }
        self.spend(u64::from(TRIAL_MAX) / 4)?;
        let mut rest = value.clone();
        let mut primes = Vec::new();
        for divisor in 2..TRIAL_MAX {
            let mut power = 0;
            loop {
                let (quotient, remainder) = rest.div_rem(&BigInt::from(divisor));
                if !remainder.is_zero() {
                    break;
                }
                rest = quotient;
                power += 1;
            }
            if power > 0 {
                primes.push((BigInt::from(divisor), power));
            }
            if rest.is_one() {
                return Some(primes);
            }
        }
        let root = rest.sqrt();
        let is_square = &root * &root == rest;
        primes.push(if is_square { (root, 2) } else { (rest, 1) });
        Some(primes)
    }

    /// Raises to a whole power, by squaring.
    fn whole_power(&mut self, base: &Quotient, exponent: i64) -> Option<Quotient> {
        let mut result = Quotient::constant(Number::one());
        for bit in (0..64 - exponent.leading_zeros()).rev() {
            result = self.multiply(&result, &result)?;
            if exponent >> bit & 1 == 1 {
                result = self.multiply(&result, base)?;
            }
        }
        Some(result)
    }

    /// Splits a whole number off the exponent; the rest stays unknown.
    fn symbolic_power(&mut self, base: &Quotient, exponent: &Quotient) -> Option<Quotient> {
        if base.as_constant().is_some_and(|base| base.is_zero() || base == Number::one()) {
            return None;
        }
        let mut rest = exponent.clone();
        let mut factor = Quotient::constant(Number::one());
        let whole = rest.over.get(&Monomial::new()).and_then(Number::exact).cloned();
        if let (Some(whole), Some(_)) = (whole, as_constant(&rest.under)) {
            let shift =
                Quotient { over: constant(Number::Exact(whole)), under: rest.under.clone() };
            rest = self.subtract(exponent, &shift)?;
            factor = self.power(base, &shift)?;
        }
        let unknown = self.atom(Atom::Apply("**".to_owned(), vec![base.clone(), rest]))?;
        self.multiply(&factor, &unknown)
    }

    /// Returns a polynomial to a power between whole numbers.
    fn root(&mut self, base: &Polynomial, exponent: Exponent) -> Option<Quotient> {
        if let Some(value) = as_constant(base) {
            return match value {
                Number::Exact(value) => self.root_of_rational(&value, exponent),
                Number::Float(_) => {
                    let exponent =
                        Number::Float(*exponent.numer() as f64 / *exponent.denom() as f64);
                    value.float_power(&exponent).map(Quotient::constant)
                }
            };
        }
        let content = content(base)?;
        let outside = self.root_of_rational(&content, exponent)?;
        let inside = self.scale(base, &Number::Exact(content.recip()))?;
        let inside = match self.as_power_of_atoms(&inside, exponent) {
            Some(monomial) => self.reduced(monomial, Number::one())?,
            None => {
                let index = self.index(Atom::Base(inside))?;
                self.reduced(vec![(index, exponent)], Number::one())?
            }
        };
        self.multiply(&outside, &Quotient { over: inside, under: constant(Number::one()) })
    }

    /// Multiplies the exponents of a monomial where that is right: for one atom to the first power, and
    /// for positive numbers to any.
    fn as_power_of_atoms(&self, base: &Polynomial, exponent: Exponent) -> Option<Monomial> {
        let (monomial, coefficient) = base.first_key_value().filter(|_| base.len() == 1)?;
        if *coefficient != Number::one() {
            return None;
        }
        let is_positive =
            |&(atom, _): &(usize, Exponent)| matches!(self.atoms[atom], Atom::Pi | Atom::Root(_));
        let is_plain = monomial.len() == 1
            && monomial[0].1.is_one()
            && !matches!(self.atoms[monomial[0].0], Atom::Imaginary);
        (is_plain || monomial.iter().all(is_positive))
            .then(|| monomial.iter().map(|&(atom, power)| (atom, power * exponent)).collect())
    }

    fn root_of_rational(&mut self, value: &BigRational, exponent: Exponent) -> Option<Quotient> {
        let mut monomial = Monomial::new();
        if value.is_negative() {
            // Only square roots of negative numbers are plain multiples of the imaginary unit.
            if *exponent.denom() != 2 {
                return None;
            }
            let whole = Exponent::from_integer(*exponent.numer());
            monomial.push((self.index(Atom::Imaginary)?, whole));
        }
        for (prime, power) in self.primes(&value.abs())? {
            monomial.push((self.index(Atom::Root(prime))?, exponent * power));
        }
        monomial.sort_unstable_by_key(|&(atom, _)| atom);
        let over = self.reduced(monomial, Number::one())?;
        Some(Quotient { over, under: constant(Number::one()) })
    }

    fn inverse(&mut self, value: &Quotient) -> Option<Quotient> {
        if value.is_zero() {
            return None;
        }
        self.quotient(value.under.clone(), value.over.clone())
    }

    /// Makes a quotient; a constant denominator is divided away.
    fn quotient(&mut self, over: Polynomial, under: Polynomial) -> Option<Quotient> {
        if over.is_empty() {
            return Some(Quotient::constant(Number::zero()));
        }
        match as_constant(&under) {
            Some(value) => {
                let over = self.scale(&over, &Number::one().divide(&value)?)?;
                Some(Quotient { over, under: constant(Number::one()) })
            }
            None => Some(Quotient { over, under }),
        }
    }

    fn scale(&mut self, polynomial: &Polynomial, factor: &Number) -> Option<Polynomial> {
        let mut scaled = Polynomial::new();
        for (monomial, coefficient) in polynomial {
            self.spend(coefficient.work() + factor.work())?;
            scaled.insert(monomial.clone(), coefficient.multiply(factor)?);
        }
        Some(scaled)
    }

    fn add_polynomials(&mut self, a: &Polynomial, b: &Polynomial) -> Option<Polynomial> {
        let mut sum = a.clone();
        for (monomial, coefficient) in b {
            self.add_term(&mut sum, monomial.clone(), coefficient)?;
        }
        Some(sum)
    }

    fn add_term(
        &mut self,
        sum: &mut Polynomial,
        monomial: Monomial,
        coefficient: &Number,
    ) -> Option<()> {
        self.spend(coefficient.work() + 2)?;
        let total = match sum.get(&monomial) {
            Some(there) => there.add(coefficient)?,
            None => coefficient.clone(),
        };
        if total.is_zero() {
            sum.remove(&monomial);
        } else {
            sum.insert(monomial, total);
        }
        (sum.len() <= TERMS_MAX).then_some(())
    }

    fn multiply_polynomials(&mut self, a: &Polynomial, b: &Polynomial) -> Option<Polynomial> {
        let mut product = Polynomial::new();
        for (left, by) in a {
            for (right, times) in b {
                self.spend(by.work().saturating_mul(times.work()))?;
                let coefficient = by.multiply(times)?;
                let terms = self.reduced(merged(left, right)?, coefficient)?;
                for (monomial, coefficient) in &terms {
                    self.add_term(&mut product, monomial.clone(), coefficient)?;
                }
            }
        }
        Some(product)
    }

    /// Applies what is known of the atoms: the square of the imaginary unit, primes to whole powers,
    /// polynomials to whole powers.
    fn reduced(&mut self, monomial: Monomial, coefficient: Number) -> Option<Polynomial> {
        let mut coefficient = coefficient;
        let mut kept = Monomial::new();
        let mut factors: Vec<(Polynomial, i64)> = Vec::new();
        for (atom, exponent) in monomial {
            let whole = exponent.floor().to_integer();
            let fraction = exponent - Exponent::from_integer(whole);
            match &self.atoms[atom] {
                Atom::Imaginary => {
                    if whole.rem_euclid(4) >= 2 {
                        coefficient = coefficient.negative();
                    }
                    if whole.rem_euclid(2) == 1 {
                        kept.push((atom, Exponent::one()));
                    }
                    continue;
                }
                Atom::Root(prime) => {
                    let power = integer_power(prime, u32::try_from(whole.unsigned_abs()).ok()?)?;
                    let power = Number::integer(power);
                    coefficient = if whole < 0 {
                        coefficient.divide(&power)?
                    } else {
                        coefficient.multiply(&power)?
                    };
                }
                Atom::Base(base) => {
                    if whole > 0 {
                        factors.push((base.clone(), whole));
                    }
                }
                Atom::Symbol(_) | Atom::Pi | Atom::Apply(..) => {
                    kept.push((atom, exponent));
                    continue;
                }
            }
            if !fraction.is_zero() {
                kept.push((atom, fraction));
            }
        }
        let mut result = constant(coefficient);
        if !kept.is_empty() {
            result = result.into_values().map(|value| (kept.clone(), value)).collect();
        }
        for (base, power) in factors {
            for _ in 0..power {
                result = self.multiply_polynomials(&result, &base)?;
            }
        }
        Some(result)
    }

    /// Returns the index of an atom; functions of equals are equal.
    fn index(&mut self, atom: Atom) -> Option<usize> {
        for index in 0..self.atoms.len() {
            self.spend(1)?;
            let there = self.atoms[index].clone();
            if self.is_same(&there, &atom)? {
                return Some(index);
            }
        }
        self.atoms.push(atom);
        Some(self.atoms.len() - 1)
    }

    fn is_same(&mut self, a: &Atom, b: &Atom) -> Option<bool> {
        Some(match (a, b) {
            (Atom::Symbol(a), Atom::Symbol(b)) => a == b,
            (Atom::Pi, Atom::Pi) | (Atom::Imaginary, Atom::Imaginary) => true,
            (Atom::Root(a), Atom::Root(b)) => a == b,
            (Atom::Base(a), Atom::Base(b)) => a == b,
            (Atom::Apply(a, inputs), Atom::Apply(b, others)) => {
                if a != b || inputs.len() != others.len() {
                    return Some(false);
                }
                for (input, other) in inputs.iter().zip(others) {
                    if !self.subtract(input, other)?.is_zero() {
                        return Some(false);
                    }
                }
                true
            }
            _ => false,
        })
    }

    fn spend(&mut self, work: u64) -> Option<()> {
        self.work = self.work.checked_sub(work)?;
        Some(())
    }
}

/// Multiplies monomials.
fn merged(a: &Monomial, b: &Monomial) -> Option<Monomial> {
    let mut product = Monomial::with_capacity(a.len() + b.len());
    let (mut left, mut right) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let next = match (left.peek(), right.peek()) {
            (Some(l), Some(r)) if l.0 == r.0 => {
                let exponent = l.1 + r.1;
                let is_small =
                    exponent.numer().abs() <= EXPONENT_MAX * 2 && *exponent.denom() <= EXPONENT_MAX;
                let merged = (l.0, is_small.then_some(exponent)?);
                left.next();
                right.next();
                merged
            }
            (Some(l), Some(r)) if r.0 < l.0 => *right.next()?,
            (Some(_), _) => *left.next()?,
            (None, Some(_)) => *right.next()?,
            (None, None) => return Some(product),
        };
        product.push(next);
    }
}

/// Returns the positive rational that the coefficients share, which leaves whole ones without a common
/// divisor. Floats share nothing.
fn content(polynomial: &Polynomial) -> Option<BigRational> {
    let mut over = BigInt::zero();
    let mut under = BigInt::one();
    for coefficient in polynomial.values() {
        let exact = coefficient.exact()?;
        over = over.gcd(exact.numer());
        under = under.lcm(exact.denom());
    }
    Some(BigRational::new(over, under))
}
