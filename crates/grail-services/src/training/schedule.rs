//! The reference's learning rate over epochs.
//!
//! Source: `spec/trainer.md`, optimiser and schedule. The native trainer's rate is constant from its
//! first step on; the reference's first epoch has a rate of 0 and changes nothing but the moments.

use crate::math::cos_pi;

/// What the rate does once it is warm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decay {
    /// Stays.
    Constant,
    /// Falls along half a cosine to this rate over what is left of the schedule, and rises again
    /// after it.
    Cosine {
        /// The least rate.
        rate_min: f64,
    },
}

/// A schedule, stepped once an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The rate when warm.
    pub rate: f64,
    /// Epochs of the schedule. The reference calls them windows.
    pub epochs: u32,
    /// Share of the epochs that the rate rises in; at least one epoch.
    pub warmup_share: f64,
    /// What comes after.
    pub decay: Decay,
}

impl Schedule {
    /// Returns the rate of an epoch, 0-based; of the first it is 0.
    pub fn rate_of(&self, epoch: u32) -> f64 {
        let warmup = self.warmup_epochs();
        if epoch < warmup {
            return self.rate * (f64::from(epoch) / f64::from(warmup));
        }
        match self.decay {
            Decay::Constant => self.rate,
            Decay::Cosine { rate_min } => {
                let left = f64::from(self.epochs.saturating_sub(warmup).max(1));
                // The cosine has a period of twice its half and is even.
                let phase = (f64::from(epoch - warmup) / left) % 2.0;
                let cosine = cos_pi(if phase > 1.0 { 2.0 - phase } else { phase });
                rate_min + (self.rate - rate_min) * (1.0 + cosine) / 2.0
            }
        }
    }

    fn warmup_epochs(&self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "Python's int(); saturating"
        )]
        let share = (self.warmup_share * f64::from(self.epochs)) as u32;
        share.max(1)
    }
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{every_case, float, floats, text};

    use super::*;

    #[test]
    fn rates_match_the_reference() {
        every_case("optimizer", "lr_schedule.json", |case| {
            let schedule = Schedule {
                rate: float(&case["base_lr"]),
                epochs: u32::try_from(case["total_windows"].as_u64().unwrap()).unwrap(),
                warmup_share: float(&case["warmup_fraction"]),
                decay: match text(&case["type"]) {
                    "constant" => Decay::Constant,
                    "cosine" => Decay::Cosine { rate_min: float(&case["eta_min"]) },
                    other => panic!("schedule {other}"),
                },
            };
            for (epoch, expected) in (0..).zip(floats(&case["lr_before_epoch"])) {
                let got = schedule.rate_of(epoch);
                // PyTorch goes from rate to rate, so that errors add up.
                let gap = (got - expected).abs();
                assert!(gap <= 1e-9 * expected, "epoch {epoch}: got {got}, expected {expected}");
            }
        });
    }

    #[test]
    fn a_schedule_shorter_than_its_warm_up_still_ends() {
        let decay = Decay::Cosine { rate_min: 0.0 };
        let schedule = Schedule { rate: 1.0, epochs: 1, warmup_share: 1.0, decay };
        assert_eq!((schedule.rate_of(0), schedule.rate_of(1)), (0.0, 1.0));
        assert!(schedule.rate_of(u32::MAX).is_finite());
    }
}
