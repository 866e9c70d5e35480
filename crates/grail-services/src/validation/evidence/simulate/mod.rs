//! Plays the game of [`wealth`](super::wealth) against simulated miners, honest and not.
//!
//! Pure and seeded: the same plan gives the same numbers. The game is the one that validators play,
//! in plain floats instead of logarithms, because a simulation may lose and a validator may not; a
//! test holds the two together.

mod draws;

use serde::{Deserialize, Serialize};

use self::draws::{Random, Tables};
use super::wealth::{GAMBLERS, TAIL_GAMBLERS, VIOLATION_RATE, reserve, shares, violation_factors};
use super::{EvidenceRules, TAIL_LEVELS};

/// Gamblers, rounded up to whole vectors; the surplus ones own nothing.
const LANES: usize = GAMBLERS.next_multiple_of(4);

type Stakes = [f64; LANES];

/// How large a simulation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Honest miners.
    pub honest_miners: u32,
    /// Windows of an honest miner's life.
    pub honest_windows: u32,
    /// Cheaters of each kind.
    pub cheaters: u32,
    /// Windows of cheating after which a cheater counts as never ejected.
    pub cheating_windows: u32,
    /// Groups checked in a window.
    pub groups: u32,
    /// Rollouts in a group, at most 64.
    pub rollouts: u32,
}

impl Default for Plan {
    /// 10,000 windows are 42 days.
    fn default() -> Self {
        Self {
            seed: 6,
            honest_miners: 100_000,
            honest_windows: 10_000,
            cheaters: 2_000,
            cheating_windows: 5_000,
            groups: 4,
            rollouts: 16,
        }
    }
}

/// What the rollouts and windows of a miner are like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conduct {
    /// Probability that a rollout lies beyond the threshold of each of [`TAIL_LEVELS`]; `None` in
    /// the exact profile, which has no tails.
    pub tails: Option<[f64; TAIL_LEVELS.len()]>,
    /// Whether all rollouts of a group hit the same tails: the strongest dependence there is.
    pub together: bool,
    /// Probability that a window breaks a rule.
    pub violation: f64,
}

impl Conduct {
    /// An honest miner at the very edge of the null hypothesis.
    pub fn honest(together: bool) -> Self {
        Self { tails: Some(TAIL_LEVELS), together, violation: VIOLATION_RATE }
    }

    /// Cheats in `share` of its rollouts in the exact profile, where every checked cheat is seen.
    pub fn exact(share: f64, rollouts_checked: u32) -> Self {
        let passes = (1.0 - share).powf(f64::from(rollouts_checked));
        Self { tails: None, together: false, violation: 1.0 - passes * (1.0 - VIOLATION_RATE) }
    }

    /// Cheats in `share` of its rollouts in the tolerant profile. `powers`: probability that a
    /// rollout with this cheat lies beyond the threshold of each of [`TAIL_LEVELS`].
    pub fn tolerant(share: f64, powers: [f64; TAIL_LEVELS.len()]) -> Self {
        let rate = |idx| (1.0 - share) * TAIL_LEVELS[idx] + share * powers[idx];
        let tails = Some(std::array::from_fn(rate));
        Self { tails, together: false, violation: VIOLATION_RATE }
    }
}

/// A kind of miner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Stable name, kebab-case.
    pub id: String,
    /// Honest windows before the conduct begins; `None`: the conduct is that of an honest miner.
    pub sleep: Option<u32>,
    /// The conduct.
    pub conduct: Conduct,
}

/// What came of the miners of one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The scenario.
    pub scenario: Scenario,
    /// Miners simulated.
    pub miners: u32,
    /// What is known of them.
    pub outcome: Outcome,
}

/// What is known of simulated miners.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// For each bound: how many honest miners ever reached it.
    Honest(Vec<FalseEjections>),
    /// When cheaters were ejected.
    Cheating(Ejections),
}

/// How often a bound was reached wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FalseEjections {
    /// Promised largest probability.
    pub bound: f64,
    /// Honest miners that reached it.
    pub miners: u32,
    /// The probability is below this with a confidence of 95 %.
    pub upper_95: f64,
}

/// When cheaters were ejected, counted in windows of cheating.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ejections {
    /// Median; `None` where fewer than that were ejected at all.
    pub p50: Option<u32>,
    /// Nine of ten.
    pub p90: Option<u32>,
    /// 99 of 100.
    pub p99: Option<u32>,
    /// Cheaters that were not ejected in [`Plan::cheating_windows`].
    pub never: u32,
}

/// Returns the scenarios, the honest ones first. `powers`: name and measured power of cheats in the
/// tolerant profile, as in [`Conduct::tolerant`].
pub fn scenarios(plan: &Plan, powers: &[(&str, [f64; TAIL_LEVELS.len()])]) -> Vec<Scenario> {
    let honest = [(false, "honest"), (true, "honest-groups-alike")].map(|(together, id)| {
        Scenario { id: id.to_owned(), sleep: None, conduct: Conduct::honest(together) }
    });
    let mut scenarios = honest.to_vec();
    let checked = plan.groups.saturating_mul(plan.rollouts);
    for (sleep, suffix) in [(0, ""), (5_000, "-sleeper")] {
        for percent in [1u32, 5, 20, 100] {
            let share = f64::from(percent) / 100.0;
            let mut add = |profile: &str, conduct| {
                let id = format!("{profile}-{percent}-percent{suffix}");
                scenarios.push(Scenario { id, sleep: Some(sleep), conduct });
            };
            add("exact", Conduct::exact(share, checked));
            for (name, powers) in powers {
                add(&format!("tolerant-{name}"), Conduct::tolerant(share, *powers));
            }
        }
    }
    scenarios
}

/// Simulates the miners of one scenario, judged by `rules`.
pub fn simulate(plan: &Plan, rules: &EvidenceRules, scenario: &Scenario) -> Row {
    let (miners, outcome) = match scenario.sleep {
        None => (plan.honest_miners, Outcome::Honest(honest(plan, rules, scenario))),
        Some(sleep) => (plan.cheaters, Outcome::Cheating(cheating(plan, rules, scenario, sleep))),
    };
    Row { scenario: scenario.clone(), miners, outcome }
}

fn honest(plan: &Plan, rules: &EvidenceRules, scenario: &Scenario) -> Vec<FalseEjections> {
    let tables = Tables::new(plan, &scenario.conduct);
    let schedule = schedule(plan.honest_windows);
    let highest: Vec<f64> = (0..plan.honest_miners)
        .map(|miner| {
            let mut random = Random::of(plan.seed, &scenario.id, miner);
            let mut game = Game::default();
            let play = |fresh: &f64| game.play(*fresh, &tables, &mut random);
            schedule.iter().map(play).fold(1.0, f64::max)
        })
        .collect();
    // The first life ends at half the bound; the small ones are what so many miners can show.
    [1e-1, 1e-2, 1e-3, 1e-4, rules.bound]
        .into_iter()
        .map(|bound| {
            let end = EvidenceRules { bound, ..*rules }.log_bound(0).exp();
            let miners = highest.iter().filter(|&&wealth| wealth >= end).count();
            let miners = u32::try_from(miners).unwrap_or(u32::MAX);
            FalseEjections { bound, miners, upper_95: upper_95(miners, plan.honest_miners) }
        })
        .collect()
}

fn cheating(plan: &Plan, rules: &EvidenceRules, scenario: &Scenario, sleep: u32) -> Ejections {
    let mut asleep = Conduct::honest(false);
    if scenario.conduct.tails.is_none() {
        asleep.tails = None;
    }
    let (asleep, awake) = (Tables::new(plan, &asleep), Tables::new(plan, &scenario.conduct));
    let schedule = schedule(sleep.saturating_add(plan.cheating_windows));
    let (sleeping, cheating) = schedule.split_at(schedule.len().min(sleep as usize));
    let end = rules.log_bound(0).exp();
    let mut ejected: Vec<u32> = (0..plan.cheaters)
        .filter_map(|miner| {
            let mut random = Random::of(plan.seed, &scenario.id, miner);
            let mut game = Game::default();
            for fresh in sleeping {
                game.play(*fresh, &asleep, &mut random);
            }
            let play = |fresh: &f64| game.play(*fresh, &awake, &mut random) >= end;
            let windows = cheating.iter().position(play)?;
            u32::try_from(windows + 1).ok()
        })
        .collect();
    ejected.sort_unstable();
    // The nearest rank over all cheaters, those never ejected last.
    let quantile = |percent: usize| {
        let rank = (plan.cheaters as usize * percent).div_ceil(100);
        ejected.get(rank.checked_sub(1)?).copied()
    };
    let never = plan.cheaters - u32::try_from(ejected.len()).unwrap_or(plan.cheaters);
    Ejections { p50: quantile(50), p90: quantile(90), p99: quantile(99), never }
}

/// Returns what the bank stakes in each window.
fn schedule(windows: u32) -> Vec<f64> {
    let windows = u64::from(windows);
    (0..windows).map(|window| reserve(window) - reserve(window + 1)).collect()
}

/// One miner's gamblers.
struct Game {
    bank: f64,
    stakes: Stakes,
}

impl Default for Game {
    fn default() -> Self {
        Self { bank: 1.0, stakes: [0.0; LANES] }
    }
}

impl Game {
    /// Plays a window and returns the wealth after it.
    fn play(&mut self, fresh: f64, tables: &Tables, random: &mut Random) -> f64 {
        let mut factors = *tables.violation(random);
        for _ in 0..tables.groups {
            let group = tables.group(random);
            for (factor, by) in factors.iter_mut().zip(group) {
                *factor *= by;
            }
        }
        self.bank -= fresh;
        let mut wealth = self.bank;
        for ((stake, share), factor) in self.stakes.iter_mut().zip(&tables.shares).zip(&factors) {
            *stake = (*stake + fresh * share) * factor;
            wealth += *stake;
        }
        wealth
    }
}

/// Returns the shares of all lanes.
fn lane_shares() -> Stakes {
    let shares = shares();
    std::array::from_fn(|lane| shares.get(lane).copied().unwrap_or(0.0))
}

/// Returns the factors of a window with or without a violation, before its groups.
fn lane_violation(is_violated: bool) -> Stakes {
    let factors = violation_factors(is_violated);
    std::array::from_fn(|lane| {
        let idx = lane.checked_sub(TAIL_GAMBLERS);
        idx.and_then(|idx| factors.get(idx)).copied().unwrap_or(1.0)
    })
}

/// Returns the probability above which `hits` or fewer among `n` would be seen less often than in
/// 5 % of cases. After Poisson, which for a small probability errs on the safe side.
pub fn upper_95(hits: u32, n: u32) -> f64 {
    let at_most = |mean: f64| {
        let mut term = (-mean).exp();
        let mut sum = term;
        for k in 1..=hits {
            term *= mean / f64::from(k);
            sum += term;
        }
        sum
    };
    let (mut low, mut high) = (0.0, f64::from(hits) * 2.0 + 10.0);
    // e^-700 is the smallest that a float holds; so many hits are no small probability.
    if hits > 300 {
        let hits = f64::from(hits);
        return ((hits + 1.645 * (hits + 1.0).sqrt() + 1.0) / f64::from(n.max(1))).min(1.0);
    }
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if at_most(middle) > 0.05 { low = middle } else { high = middle }
    }
    (high / f64::from(n.max(1))).min(1.0)
}

#[cfg(test)]
mod tests {
    use grail_protocol::ids::Window;

    use super::super::wealth::Wealth;
    use super::super::{GroupEvidence, WindowEvidence};
    use super::*;

    fn plan() -> Plan {
        let small = Plan { honest_miners: 1_000, honest_windows: 300, ..Plan::default() };
        Plan { cheaters: 100, cheating_windows: 300, ..small }
    }

    fn row(id: &str) -> Row {
        let scenarios = scenarios(&plan(), &[("strong", [1.0; 3])]);
        let scenario = scenarios.iter().find(|it| it.id == id).unwrap();
        simulate(&plan(), &EvidenceRules::default(), scenario)
    }

    #[test]
    fn the_game_is_that_of_validators() {
        let always = |violation, tails| Conduct { tails: Some(tails), together: true, violation };
        let all = Tables::new(&plan(), &always(1.0, [1.0; 3]));
        let none = Tables::new(&plan(), &always(0.0, [0.0; 3]));
        let some = Tables::new(&plan(), &always(0.0, [1.0, 0.0, 0.0]));
        let mut random = Random::of(1, "any", 0);
        let (mut game, mut wealth) = (Game::default(), Wealth::default());
        for (window, fresh) in schedule(40).into_iter().enumerate() {
            let (tables, hits, violations) = match window % 8 {
                3 => (&all, [16, 16, 16], 1),
                1 | 6 => (&some, [16, 0, 0], 0),
                _ => (&none, [0; 3], 0),
            };
            let group = GroupEvidence { rollouts: 16, tail_hits: hits };
            wealth.add(&WindowEvidence {
                window: Window::from_start(0).unwrap(),
                groups: vec![group; 4],
                violations,
                rollouts: 64,
            });
            let played = game.play(fresh, tables, &mut random).ln();
            assert!((played - wealth.log()).abs() < 1e-5, "{window}: {played}, {}", wealth.log());
        }
    }

    #[test]
    fn honest_miners_stay_below_every_bound() {
        for id in ["honest", "honest-groups-alike"] {
            let Outcome::Honest(rows) = row(id).outcome else { panic!("an honest scenario") };
            for FalseEjections { bound, miners, upper_95 } in rows {
                assert!(f64::from(miners) <= bound * 1_000.0, "{id}: {miners} at {bound}");
                assert!(upper_95 > f64::from(miners) / 1_000.0);
            }
        }
    }

    #[test]
    fn cheaters_are_ejected_and_a_seed_repeats() {
        let Outcome::Cheating(often) = row("exact-5-percent").outcome else { panic!() };
        assert_eq!(often.never, 0);
        assert!(often.p50 <= often.p90 && often.p90 <= often.p99);
        assert!(often.p50 >= Some(3) && often.p99 <= Some(8), "{often:?}");
        let Outcome::Cheating(rare) = row("tolerant-strong-1-percent").outcome else { panic!() };
        assert!(rare.p50 > often.p50, "{rare:?}");
        assert_eq!(row("tolerant-strong-5-percent"), row("tolerant-strong-5-percent"));
        let never = Conduct { tails: None, together: false, violation: 0.0 };
        let scenario = Scenario { id: "never".to_owned(), sleep: Some(5), conduct: never };
        let Outcome::Cheating(never) =
            simulate(&plan(), &EvidenceRules::default(), &scenario).outcome
        else {
            panic!("a cheating scenario")
        };
        assert_eq!(never, Ejections { p50: None, p90: None, p99: None, never: 100 });
    }

    #[test]
    fn the_upper_bound_is_that_of_the_tables() {
        // 95 % upper bounds of a Poisson mean.
        for (hits, mean) in [(0, 2.9957), (1, 4.7439), (10, 16.9622), (100, 118.0796)] {
            let got = upper_95(hits, 1_000_000) * 1e6;
            assert!((got - mean).abs() < 1e-3, "{hits}: {got}");
        }
        assert!(upper_95(500, 1_000) > 0.5 && upper_95(500, 1_000) < 0.56);
        assert!((upper_95(1_000, 1_000) - 1.0).abs() < f64::EPSILON);
    }
}
