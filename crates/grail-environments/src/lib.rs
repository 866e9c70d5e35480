//! Reinforcement-learning environments: a problem from a seed, its prompt, parser and reward.
//!
//! Miner, validator and trainer compute the same problem and the same reward on every machine:
//! problems come from an own generator ([`rng`]), parsers read bytes and use no locale. An answer
//! is hostile text of any length; parsers take linear time and constant memory.

pub mod arithmetic;
mod number;
pub mod reference;
pub mod registry;
pub mod rng;
pub mod sat;
pub mod split;

/// Reward of a right answer.
const CORRECT: f32 = 1.0;

/// Reward of an answer in exactly the form that was asked for, right or wrong. Small, so that form
/// never pays as much as being right.
const FORMAT: f32 = 0.1;

/// Returns what an answer is worth.
fn evaluation(is_correct: bool, is_exact_form: bool) -> grail_ports::environment::Evaluation {
    let reward = if is_correct { CORRECT } else { 0.0 } + if is_exact_form { FORMAT } else { 0.0 };
    grail_ports::environment::Evaluation { reward, success: is_correct }
}
