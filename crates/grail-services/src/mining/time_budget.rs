//! Decides whether another group still fits into the window.
//!
//! Source: `spec/miner.md`, time budget. Durations are seconds; the caller measures them.

use std::time::Duration;

use grail_protocol::constants::WINDOW_BLOCKS;
use grail_protocol::ids::{BlockNumber, Window};

/// Weight of a new sample in a moving average.
const SMOOTHING: f64 = 0.2;
/// Blocks that a group is assumed to take before the first was measured.
const GENERATION_BLOCKS_ASSUMED: f64 = 6.0;
/// Blocks that an upload is assumed to take before the first was measured.
const UPLOAD_BLOCKS_ASSUMED: f64 = 1.0;
/// Longest sample of a group's duration, seconds: one stall must not stop mining for many windows.
pub const GENERATION_SAMPLE_MAX_S: f64 = 360.0;

/// Moving averages of how long blocks, groups and uploads take.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeBudget {
    safety_blocks: u32,
    block_s: f64,
    generation_s: Option<f64>,
    upload_s: Option<f64>,
    last_seen: Option<(f64, BlockNumber)>,
}

impl TimeBudget {
    /// Starts with the chain's nominal block time.
    ///
    /// `safety_blocks` stay free at the window's end; the deadline is the first block after it.
    pub fn new(safety_blocks: u32, block_time: Duration) -> Self {
        Self {
            safety_blocks,
            block_s: block_time.as_secs_f64(),
            generation_s: None,
            upload_s: None,
            last_seen: None,
        }
    }

    /// Takes note of the head `block` at time `now_s`, seconds from any fixed origin.
    pub fn saw_block(&mut self, now_s: f64, block: BlockNumber) {
        if let Some((then_s, before)) = self.last_seen {
            let blocks = block.0.saturating_sub(before.0);
            let elapsed_s = now_s - then_s;
            if blocks > 0 && elapsed_s > 0.0 {
                #[expect(clippy::cast_precision_loss, reason = "heights are far below 2^53")]
                let sample = elapsed_s / blocks as f64;
                self.block_s = averaged(Some(self.block_s), sample);
            }
        }
        self.last_seen = Some((now_s, block));
    }

    /// Takes note of the seconds that a group took.
    pub fn generated(&mut self, duration_s: f64) {
        self.generation_s = Some(averaged(self.generation_s, duration_s));
    }

    /// Takes note of the seconds that an upload took.
    pub fn uploaded(&mut self, duration_s: f64) {
        self.upload_s = Some(averaged(self.upload_s, duration_s));
    }

    /// Returns how many blocks one more group, the upload and the safety margin take, 1 to 29.
    pub fn blocks_needed(&self) -> u64 {
        let block_s = self.block_s;
        let seconds = self.generation_s.unwrap_or(GENERATION_BLOCKS_ASSUMED * block_s)
            + self.upload_s.unwrap_or(UPLOAD_BLOCKS_ASSUMED * block_s)
            + f64::from(self.safety_blocks) * block_s;
        let blocks = (seconds / block_s.max(0.001)).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "the value is clamped to 1..=29 first; NaN becomes 0 and is clamped next"
        )]
        let blocks = blocks.clamp(1.0, (WINDOW_BLOCKS - 1) as f64) as u64;
        blocks.max(1)
    }

    /// Returns whether, at `head`, another group of `window` can be made and uploaded in time.
    pub fn allows_another(&self, window: Window, head: BlockNumber) -> bool {
        Window::containing(head) == window && window.end().0 - head.0 > self.blocks_needed()
    }
}

fn averaged(average: Option<f64>, sample: f64) -> f64 {
    average.map_or(sample, |average| SMOOTHING * sample + (1.0 - SMOOTHING) * average)
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{every_case, float, list, size, text};

    use super::*;

    const NOMINAL: Duration = Duration::from_secs(12);

    #[test]
    fn the_budget_matches_the_reference() {
        every_case("miner_timers", "timers.json", |case| {
            assert_eq!(float(&case["ema_alpha"]), SMOOTHING);
            let safety = u32::try_from(size(&case["safety_blocks"])).unwrap();
            let mut budget = TimeBudget::new(safety, NOMINAL);
            for step in list(&case["steps"]) {
                match text(&step["op"]) {
                    "block" => {
                        let block = BlockNumber(step["block"].as_u64().unwrap());
                        budget.saw_block(float(&step["now"]), block);
                    }
                    "gen" => budget.generated(float(&step["duration"])),
                    "upload" => budget.uploaded(float(&step["duration"])),
                    other => panic!("operation {other}"),
                }
                assert_eq!(Some(budget.block_s), step["block_time_ema_s"].as_f64());
                assert_eq!(budget.generation_s, step["gen_time_ema_s"].as_f64());
                assert_eq!(budget.upload_s, step["upload_time_ema_s"].as_f64());
                assert_eq!(Some(budget.blocks_needed()), step["blocks_needed"].as_u64());
            }
        });
    }

    #[test]
    fn a_group_is_started_only_while_it_fits() {
        let budget = TimeBudget::new(3, NOMINAL);
        let window = Window::from_start(60).unwrap();
        // 6 + 1 + 3 blocks are needed before anything was measured.
        for (head, allowed) in [(59, false), (60, true), (79, true), (80, false), (90, false)] {
            assert_eq!(budget.allows_another(window, BlockNumber(head)), allowed, "at {head}");
        }
    }

    #[test]
    fn a_stalled_chain_or_a_mad_clock_keeps_the_need_in_range() {
        let mut budget = TimeBudget::new(u32::MAX, Duration::ZERO);
        for (now_s, block) in [(0.0, 5), (0.0, 6), (-3.0, 4), (f64::NAN, 9), (1e300, u64::MAX)] {
            budget.saw_block(now_s, BlockNumber(block));
            budget.generated(now_s);
            assert!((1..WINDOW_BLOCKS).contains(&budget.blocks_needed()));
        }
    }
}
