//! A complete solver (Davis, Putnam, Logemann and Loveland): shows that a problem has a solution
//! without being told the hidden one.

use super::formula::{Formula, Literal};

/// Returns values that satisfy `formula`, or `None` if there are none.
pub(super) fn solve(formula: &Formula) -> Option<Vec<bool>> {
    let values = search(formula, vec![None; formula.n_variables])?;
    // A variable in no open clause may have either value.
    Some(values.into_iter().map(|value| value.unwrap_or(false)).collect())
}

fn search(formula: &Formula, mut values: Vec<Option<bool>>) -> Option<Vec<Option<bool>>> {
    propagate(formula, &mut values)?;
    let Some(literal) = branch(formula, &values) else { return Some(values) };
    for value in [literal.value, !literal.value] {
        let mut attempt = values.clone();
        attempt[literal.variable] = Some(value);
        if let Some(solution) = search(formula, attempt) {
            return Some(solution);
        }
    }
    None
}

/// Sets what is forced until nothing is; `None` if a clause became false.
fn propagate(formula: &Formula, values: &mut [Option<bool>]) -> Option<()> {
    loop {
        let mut is_settled = true;
        for clause in &formula.clauses {
            let Some(open) = open_literals(clause, values) else { continue };
            match open.as_slice() {
                [] => return None,
                [forced] => {
                    values[forced.variable] = Some(forced.value);
                    is_settled = false;
                }
                _ => {}
            }
        }
        if is_settled {
            return Some(());
        }
    }
}

/// Picks a literal of the shortest open clause: the choice that is most likely to force others.
fn branch(formula: &Formula, values: &[Option<bool>]) -> Option<Literal> {
    let open = formula.clauses.iter().filter_map(|clause| open_literals(clause, values));
    open.min_by_key(Vec::len).and_then(|literals| literals.first().copied())
}

/// Returns the undecided literals of a clause, or `None` if it is already true.
fn open_literals(clause: &[Literal], values: &[Option<bool>]) -> Option<Vec<Literal>> {
    let value_of = |literal: &Literal| values[literal.variable];
    if clause.iter().any(|literal| value_of(literal) == Some(literal.value)) {
        return None;
    }
    Some(clause.iter().filter(|literal| value_of(literal).is_none()).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;

    #[test]
    fn every_drawn_formula_is_solved() {
        for seed in 0..300 {
            let mut rng = SplitMix64::new(seed);
            let n_variables = rng.between(3, 15);
            let n_clauses = rng.between(1, 80);
            let formula = Formula::draw(&mut rng, n_variables, n_clauses);
            let solution = solve(&formula).expect("a hidden solution exists");
            assert!(formula.is_satisfied_by(&solution), "seed {seed}");
        }
    }

    #[test]
    fn the_solver_agrees_with_trying_everything() {
        // Clauses without a hidden solution, so that both outcomes happen.
        let mut unsatisfiable = 0;
        for seed in 0..200 {
            let mut rng = SplitMix64::new(seed);
            let mut formula = Formula::draw(&mut rng, 4, 30);
            for literal in formula.clauses.as_flattened_mut() {
                literal.value = rng.coin();
            }
            let has_solution = (0..16).any(|bits: u32| {
                formula.is_satisfied_by(&[0, 1, 2, 3].map(|index| bits >> index & 1 == 1))
            });
            assert_eq!(solve(&formula).is_some(), has_solution, "seed {seed}");
            unsatisfiable += u32::from(!has_solution);
        }
        assert!((20..180).contains(&unsatisfiable), "{unsatisfiable} of 200");
    }
}
