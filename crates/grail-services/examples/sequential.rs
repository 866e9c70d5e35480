//! Prints how often the sequential judgement errs and how soon it ejects cheaters.
//!
//! `cargo run --release -p grail-services --example sequential [-- part]`, where `part` is a piece
//! of a scenario's name, such as `exact` or `honest`.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use grail_services::validation::evidence::EvidenceRules;
use grail_services::validation::evidence::simulate::{
    Ejections, FalseEjections, Outcome, Plan, scenarios, simulate,
};

/// Powers to show the range: a cheat that is always beyond every threshold, and one that is seen by
/// half, a third and a sixth. `grail lab sequential` takes those that it measured.
const POWERS: [(&str, [f64; 3]); 2] = [("strong", [1.0; 3]), ("weak", [0.5, 0.3, 0.15])];

fn main() {
    let part = std::env::args().nth(1).unwrap_or_default();
    let (plan, rules) = (Plan::default(), EvidenceRules::default());
    println!(
        "honest: {} miners, {} windows, {} groups of {} checked in each; cheaters: {}",
        plan.honest_miners, plan.honest_windows, plan.groups, plan.rollouts, plan.cheaters
    );
    for scenario in scenarios(&plan, &POWERS).iter().filter(|it| it.id.contains(&part)) {
        match simulate(&plan, &rules, scenario).outcome {
            Outcome::Honest(rows) => {
                for FalseEjections { bound, miners, upper_95 } in rows {
                    println!(
                        "{:36} bound {bound:>6.0e}: {miners:>5} ejected, below {upper_95:.1e} (95 %)",
                        scenario.id
                    );
                }
            }
            Outcome::Cheating(Ejections { p50, p90, p99, never }) => {
                let windows = |it: Option<u32>| it.map_or("-".to_owned(), |it| it.to_string());
                println!(
                    "{:36} p50 {:>5} p90 {:>5} p99 {:>5} never {never}",
                    scenario.id,
                    windows(p50),
                    windows(p90),
                    windows(p99)
                );
            }
        }
    }
}
