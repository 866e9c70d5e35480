//! What honest engines of another kind look like to a verifier.

/// Shares of honest rollouts that lie beyond the tail thresholds; a miner whose rollouts lie there
/// more often gathers evidence against itself.
pub const TAIL_LEVELS: [f64; 3] = [0.1, 0.03, 0.01];
