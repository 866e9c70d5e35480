//! Clauses of three literals, drawn around a hidden solution.

use std::fmt;

use crate::rng::SplitMix64;

/// Literals in a clause.
const WIDTH: usize = 3;

/// A variable or its negation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Literal {
    /// 0-based; shown 1-based.
    pub(super) variable: usize,
    /// The value of the variable that makes the literal true.
    pub(super) value: bool,
}

impl Literal {
    fn is_true(self, values: &[bool]) -> bool {
        values[self.variable] == self.value
    }
}

/// A conjunction of clauses over variables `0..n_variables`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Formula {
    pub(super) n_variables: usize,
    pub(super) clauses: Vec<[Literal; WIDTH]>,
}

impl Formula {
    /// Draws a hidden assignment, then clauses that it satisfies: three different variables each,
    /// and one of the seven sign patterns that the hidden assignment makes true.
    pub(super) fn draw(rng: &mut SplitMix64, n_variables: u32, n_clauses: u32) -> Self {
        let hidden: Vec<bool> = (0..n_variables).map(|_| rng.coin()).collect();
        let clause = |_| {
            let variables = distinct(rng, n_variables);
            // Bit i set: literal i agrees with the hidden assignment. Pattern 0 is left out.
            let pattern = rng.between(1, 7);
            [0, 1, 2].map(|place: usize| {
                let variable = variables[place];
                let agrees = pattern >> place & 1 == 1;
                Literal { variable, value: hidden[variable] == agrees }
            })
        };
        let clauses = (0..n_clauses).map(clause).collect();
        Self { n_variables: hidden.len(), clauses }
    }

    /// Returns whether `values`, one for each variable, make every clause true.
    pub(super) fn is_satisfied_by(&self, values: &[bool]) -> bool {
        values.len() == self.n_variables
            && self
                .clauses
                .iter()
                .all(|clause| clause.iter().any(|literal| literal.is_true(values)))
    }
}

/// Draws three different variables, every ordered choice equally likely.
fn distinct(rng: &mut SplitMix64, n_variables: u32) -> [usize; WIDTH] {
    let mut chosen = [0; WIDTH];
    let mut n_chosen = 0;
    while n_chosen < WIDTH {
        let variable = usize::try_from(rng.below(n_variables)).expect("at most 50 variables");
        if !chosen[..n_chosen].contains(&variable) {
            chosen[n_chosen] = variable;
            n_chosen += 1;
        }
    }
    chosen
}

impl fmt::Display for Formula {
    /// Writes one clause a line, each with a line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for clause in &self.clauses {
            for (place, literal) in clause.iter().enumerate() {
                let or = if place == 0 { "" } else { " or " };
                let not = if literal.value { "" } else { "not " };
                write!(f, "{or}{not}x{}", literal.variable + 1)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_have_three_different_variables_and_no_bias() {
        let mut rng = SplitMix64::new(5);
        let (mut variables, mut positive) = ([0u32; 6], 0u32);
        for _ in 0..1_000 {
            let formula = Formula::draw(&mut rng, 6, 10);
            assert_eq!((formula.n_variables, formula.clauses.len()), (6, 10));
            for [a, b, c] in &formula.clauses {
                assert!(a.variable != b.variable && a.variable != c.variable);
                assert_ne!(b.variable, c.variable);
                for literal in [a, b, c] {
                    variables[literal.variable] += 1;
                    positive += u32::from(literal.value);
                }
            }
        }
        // 30,000 literals: 5,000 of each variable, half of them positive.
        assert!(variables.iter().all(|n| (4_800..5_200).contains(n)), "{variables:?}");
        assert!((14_500..15_500).contains(&positive), "{positive}");
    }

    #[test]
    fn a_wrong_number_of_values_satisfies_nothing() {
        let formula = Formula { n_variables: 3, clauses: vec![] };
        assert!(formula.is_satisfied_by(&[true; 3]));
        assert!(!formula.is_satisfied_by(&[true; 2]));
    }
}
