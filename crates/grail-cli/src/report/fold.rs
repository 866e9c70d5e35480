//! Folds events into a [`Report`]: each is keyed by window and miner, so telling one twice is harmless.

use std::collections::BTreeMap;

use grail_ports::events::Event;
use grail_protocol::ids::{Hotkey, Uid, Window};

use super::{
    Counts, Entry, MinerRole, MinerRow, Report, RoleTag, Skip, Start, UidWeight, WeightsFailure,
    WeightsRow, WindowMiner, WindowRow,
};

/// What is known of the miners before they do anything.
pub trait Roster {
    /// Returns uid and hotkey of every miner that is known from the start.
    fn miners(&self) -> Vec<(Uid, Hotkey)>;

    /// Returns the name and role of the miner with `hotkey`; a guest's name is its short address.
    fn miner(&self, hotkey: Hotkey) -> (String, MinerRole);

    /// Returns the cheat that the miner was told to try in `window`, if it is a cheater.
    fn cheat(&self, hotkey: Hotkey, window: Window) -> Option<String>;
}

impl Report {
    /// Takes one event into account.
    pub fn apply(&mut self, entry: &Entry, roster: &dyn Roster) {
        match &entry.event {
            // These say how work goes on, not what came of it.
            Event::BlockSeen { .. }
            | Event::CheckpointLoaded { .. }
            | Event::GroupMined { .. }
            | Event::MinerEvidence { .. } => {}
            Event::RolloutsUploaded { window, tokens, seconds, .. } => {
                let RoleTag { uid, hotkey, .. } = entry.role;
                let miner = self.window_miner(*window, uid, hotkey, roster);
                miner.tokens = *tokens;
                miner.generation_s = *seconds;
                self.window(*window).sum_up();
            }
            Event::WindowSkipped { window, reason } => {
                let (window, role) = (u64::from(*window), entry.role.name.clone());
                let skip = Skip { window, role, reason: reason.clone() };
                if !self.skipped.contains(&skip) {
                    self.skipped.push(skip);
                }
            }
            Event::MinerJudged {
                window,
                hotkey,
                uid,
                rollouts,
                checked,
                accepted,
                rejection,
                reward_mean,
                seconds,
            } => {
                let miner = self.window_miner(*window, *uid, *hotkey, roster);
                miner.judged = true;
                miner.rollouts = u64::from(*rollouts);
                miner.checked = u64::from(*checked);
                miner.accepted = u64::from(*accepted);
                miner.rejection.clone_from(rejection);
                miner.reward_mean = *reward_mean;
                miner.validation_s = *seconds;
                self.window(*window).sum_up();
                self.sum_up_miners(roster);
            }
            Event::WindowValidated { window, accepted, reward_mean, .. } => {
                let row = self.window(*window);
                row.validated = true;
                row.reward_mean = (*accepted > 0).then_some(*reward_mean);
            }
            Event::WeightsSet { block, weights } => {
                self.set_weights(&entry.role, block.0, weights);
            }
            Event::WeightsLanded { block } => {
                let of_this = |row: &&mut WeightsRow| {
                    row.block == block.0 && row.validator == entry.role.name
                };
                self.weights_set.iter_mut().filter(of_this).for_each(|row| row.landed = true);
            }
            Event::WeightsFailed { block, reason } => {
                let (validator, reason) = (entry.role.name.clone(), reason.clone());
                let failure = WeightsFailure { validator, block: block.0, reason };
                if !self.weights_failed.contains(&failure) {
                    self.weights_failed.push(failure);
                }
            }
            Event::WindowTrained {
                window,
                steps,
                loss,
                grad_norm,
                first_log_ratio_max,
                seconds,
                ..
            } => {
                let row = self.window(*window);
                row.trained = true;
                row.steps = Some(*steps);
                let stepped = *steps > 0;
                row.loss = stepped.then_some(*loss);
                row.grad_norm = stepped.then_some(*grad_norm);
                row.first_log_ratio_max = stepped.then_some(*first_log_ratio_max);
                row.training_s = Some(*seconds);
            }
            Event::Evaluated { checkpoint, problems, pass_at_1, seconds } => {
                if let Some(row) = self.row_of_checkpoint(*checkpoint) {
                    row.pass_at_1 = Some(*pass_at_1);
                    row.evaluation_s = Some(*seconds);
                } else if self.start.is_none() {
                    self.start = Some(Start {
                        checkpoint: (*checkpoint).into(),
                        problems: *problems,
                        pass_at_1: *pass_at_1,
                    });
                }
            }
            Event::CheckpointPublished { checkpoint, ready, .. } => {
                if let Some(row) = self.row_of_checkpoint(*checkpoint) {
                    row.checkpoint = Some((*checkpoint).into());
                    row.checkpoint_ready = Some((*ready).into());
                }
            }
        }
    }

    /// Returns the row of the newest trained window before `checkpoint`: the one that made it.
    fn row_of_checkpoint(&mut self, checkpoint: Window) -> Option<&mut WindowRow> {
        let checkpoint = u64::from(checkpoint);
        // A window without a step made no checkpoint.
        let made = |row: &&mut WindowRow| row.window < checkpoint && row.steps > Some(0);
        self.windows.iter_mut().rev().find(made)
    }

    fn window(&mut self, window: Window) -> &mut WindowRow {
        let window = u64::from(window);
        let at = match self.windows.binary_search_by_key(&window, |row| row.window) {
            Ok(at) => at,
            Err(at) => {
                self.windows.insert(at, WindowRow { window, ..WindowRow::default() });
                at
            }
        };
        &mut self.windows[at]
    }

    fn window_miner(
        &mut self,
        window: Window,
        uid: Uid,
        hotkey: Hotkey,
        roster: &dyn Roster,
    ) -> &mut WindowMiner {
        let row = self.window(window);
        let at = match row.miners.binary_search_by_key(&uid.0, |miner| miner.uid) {
            Ok(at) => at,
            Err(at) => {
                let cheat = roster.cheat(hotkey, window);
                row.miners.insert(at, WindowMiner::new(uid.0, hotkey, cheat));
                at
            }
        };
        &mut row.miners[at]
    }

    fn set_weights(&mut self, role: &RoleTag, block: u64, weights: &[(Uid, f64)]) {
        let known = |row: &WeightsRow| row.block == block && row.validator == role.name;
        if !self.weights_set.iter().any(known) {
            self.weights_set.push(WeightsRow {
                validator: role.name.clone(),
                block,
                landed: false,
                weights: weights
                    .iter()
                    .map(|(uid, weight)| UidWeight { uid: uid.0, weight: *weight })
                    .collect(),
            });
        }
        self.hand_out_weights();
    }

    fn hand_out_weights(&mut self) {
        let Some(last) = self.weights_set.last() else { return };
        for miner in &mut self.miners {
            let given = last.weights.iter().find(|entry| entry.uid == miner.uid);
            miner.weight = Some(given.map_or(0.0, |entry| entry.weight));
        }
    }

    /// Lists the miners that are known from the start, so that idle ones have a row too.
    pub fn list_miners(&mut self, roster: &dyn Roster) {
        self.sum_up_miners(roster);
    }

    fn sum_up_miners(&mut self, roster: &dyn Roster) {
        let new_row = |uid: u16, hotkey| (uid, MinerRow::new(uid, hotkey, roster));
        let mut miners: BTreeMap<u16, MinerRow> =
            roster.miners().into_iter().map(|(uid, hotkey)| new_row(uid.0, hotkey)).collect();
        for judged in self.windows.iter().flat_map(|row| &row.miners).filter(|miner| miner.judged) {
            let row = miners
                .entry(judged.uid)
                .or_insert_with(|| MinerRow::new(judged.uid, judged.hotkey, roster));
            row.counts.add(judged);
            if let Some(cheat) = &judged.cheat {
                row.by_cheat.entry(cheat.clone()).or_default().add(judged);
                row.cheat = Some(row.by_cheat.keys().cloned().collect::<Vec<_>>().join(","));
            }
        }
        self.miners = miners.into_values().collect();
        self.hand_out_weights();
    }
}

impl MinerRow {
    fn new(uid: u16, hotkey: Hotkey, roster: &dyn Roster) -> Self {
        let (name, role) = roster.miner(hotkey);
        Self {
            uid,
            name,
            hotkey,
            role,
            cheat: None,
            counts: Counts::default(),
            by_cheat: BTreeMap::new(),
            weight: None,
        }
    }
}

impl WindowMiner {
    fn new(uid: u16, hotkey: Hotkey, cheat: Option<String>) -> Self {
        Self {
            uid,
            hotkey,
            cheat,
            tokens: 0,
            generation_s: 0.0,
            judged: false,
            rollouts: 0,
            checked: 0,
            accepted: 0,
            rejection: None,
            reward_mean: 0.0,
            validation_s: 0.0,
        }
    }

    /// Returns the number of checked rollouts that were not accepted.
    fn rejected(&self) -> u64 {
        self.checked.saturating_sub(self.accepted)
    }

    /// Returns the reason to count rejected rollouts under.
    fn reason(&self) -> &str {
        self.rejection.as_deref().unwrap_or("unverified")
    }
}

impl Counts {
    fn add(&mut self, judged: &WindowMiner) {
        self.windows += 1;
        self.rollouts += judged.rollouts;
        self.checked += judged.checked;
        self.accepted += judged.accepted;
        if judged.rejected() > 0 {
            *self.rejected.entry(judged.reason().to_owned()).or_default() += judged.rejected();
        }
    }
}

impl WindowRow {
    /// Derives the window's sums from its miners.
    fn sum_up(&mut self) {
        let mut counts = Counts::default();
        for judged in self.miners.iter().filter(|miner| miner.judged) {
            counts.add(judged);
        }
        self.rollouts = counts.rollouts;
        self.checked = counts.checked;
        self.accepted = counts.accepted;
        self.rejected = counts.rejected;
        self.tokens = self.miners.iter().map(|miner| miner.tokens).sum();
        self.validation_s = self.miners.iter().map(|miner| miner.validation_s).sum();
        // Miners generate at the same time, so their rates add up. A cheater that copies would count
        // as infinitely fast.
        let rates: Vec<f64> = self
            .miners
            .iter()
            .filter(|miner| miner.cheat.is_none() && miner.generation_s > 0.0)
            .map(|miner| as_f64(miner.tokens) / miner.generation_s)
            .collect();
        self.tokens_per_s = (!rates.is_empty()).then(|| rates.iter().sum());
    }
}

/// Returns a count as f64; counts here stay far below 2^53, where this is exact.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{TestRoster, judged, report, trained};
    use super::*;
    use grail_protocol::ids::BlockNumber;

    fn fold(entries: &[Entry]) -> Report {
        let mut report = report();
        for entry in entries {
            report.apply(entry, &TestRoster);
        }
        report
    }

    fn whole_run() -> Vec<Entry> {
        vec![
            trained::evaluated(0, 0.30),
            judged::uploaded(30, 2, 1_000, 2.0),
            judged::uploaded(30, 3, 3_000, 4.0),
            judged::miner(30, 2, 128, 32, 32, None),
            judged::miner(30, 3, 64, 16, 0, Some("race_lost")),
            judged::window(30, 32, 0.5),
            trained::window(30, 2, -0.1),
            trained::evaluated(60, 0.45),
            trained::published(60, 60),
            judged::miner(60, 2, 128, 32, 32, None),
            judged::miner(60, 3, 64, 16, 0, Some("reward_mismatch")),
            judged::window(60, 32, 0.6),
            judged::weights(90, &[(0, 0.9), (2, 0.1)]),
        ]
    }

    #[test]
    fn a_run_is_summed_up_per_window_and_per_miner() {
        let report = fold(&whole_run());
        assert_eq!(report.start.map(|start| start.pass_at_1), Some(0.30));
        assert_eq!(report.windows.len(), 2);
        let first = &report.windows[0];
        assert_eq!(first.tokens_per_s, Some(500.0), "the cheater does not count");
        assert_eq!((first.rollouts, first.checked, first.accepted), (192, 48, 32));
        assert_eq!(first.rejected, BTreeMap::from([("race_lost".to_owned(), 16)]));
        assert_eq!((first.pass_at_1, first.loss), (Some(0.45), Some(-0.1)));
        assert_eq!((first.checkpoint, first.checkpoint_ready), (Some(60), Some(60)));

        let cheater = report.miners.iter().find(|miner| miner.uid == 3).unwrap();
        assert_eq!(cheater.role, MinerRole::Cheater);
        assert_eq!(cheater.counts.accepted, 0);
        assert_eq!(cheater.by_cheat["free-sampling"].rejected["race_lost"], 16);
        assert_eq!(cheater.by_cheat["forged-reward"].rejected["reward_mismatch"], 16);
        assert_eq!(cheater.weight, Some(0.0));
        let honest = report.miners.iter().find(|miner| miner.uid == 2).unwrap();
        assert_eq!((honest.counts.checked, honest.counts.accepted), (64, 64));
        assert_eq!(honest.weight, Some(0.1));
    }

    #[test]
    fn events_told_twice_after_a_restart_count_once() {
        let once = fold(&whole_run());
        let twice: Vec<Entry> =
            whole_run().into_iter().flat_map(|entry| [entry.clone(), entry]).collect();
        assert_eq!(fold(&twice), once);
        // The whole run again, except for the first evaluation, which happens before any training.
        let mut again = whole_run();
        again.extend(whole_run().into_iter().skip(1));
        assert_eq!(fold(&again), once);
    }

    #[test]
    fn a_window_without_steps_has_no_loss() {
        let report = fold(&[trained::window(30, 0, 0.0)]);
        assert_eq!(report.windows[0].loss, None);
        assert!(report.windows[0].trained);
    }

    #[test]
    fn a_weight_that_was_not_set_is_unknown_and_one_left_out_is_zero() {
        let mut entries = vec![judged::miner(30, 2, 16, 16, 16, None)];
        assert_eq!(fold(&entries).miners[0].weight, None);
        entries.push(judged::weights(90, &[(0, 1.0)]));
        assert_eq!(fold(&entries).miners[0].weight, Some(0.0));
        let report = fold(&entries);
        assert_eq!(report.weights_set[0].block, BlockNumber(90).0);
    }

    #[test]
    fn weights_that_landed_and_those_that_did_not_are_told_apart() {
        let failed = |block| judged::failed(block, "the chain lost them");
        let mut entries = vec![judged::weights(90, &[(0, 1.0)]), failed(95), failed(95)];
        let report = fold(&entries);
        assert!(!report.weights_set[0].landed);
        assert_eq!(report.weights_failed.len(), 1);
        assert_eq!(report.weights_failed[0].block, 95);
        entries.extend([judged::weights(96, &[(0, 1.0)]), judged::landed(96)]);
        let landed: Vec<bool> = fold(&entries).weights_set.iter().map(|row| row.landed).collect();
        assert_eq!(landed, [false, true]);
    }
}
