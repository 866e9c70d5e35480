//! When a subnet's epochs come, and so to which round of the beacon weights are sealed.
//!
//! The schedule is stateful: an epoch may come early because the owner asked for it, and the tempo
//! may change. Source: `spec/bittensor.md`, section 6, reveal round.

use grail_ports::beacon::BeaconSchedule;

use super::subnet::Subnet;

/// Blocks without an epoch after which one is due whatever the tempo says.
const EPOCH_OVERDUE_BLOCKS: u64 = 50_400;
/// Blocks after the first one of the epoch that opens the seal, so that the round is not too early.
const OPENING_DELAY_BLOCKS: u64 = 3;
/// When rounds of drand's quicknet come out.
pub const QUICKNET: BeaconSchedule =
    BeaconSchedule { genesis_ms: 1_692_803_367_000, period_ms: 3_000 };

/// When weights that are sealed now are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Number of the epoch that opens them.
    pub epoch: u64,
    /// Its first block.
    pub block: u64,
    /// The round of the beacon to seal to.
    pub round: u64,
}

/// Why there is no such time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoOpening {
    /// The subnet has no epochs.
    #[error("the subnet's tempo is 0: it has no epochs, and opens no sealed weights")]
    NoTempo,
    /// No epoch comes within the longest time that there is.
    #[error("the subnet's schedule has no epoch that opens sealed weights")]
    TooFar,
}

/// What the chain keeps of a subnet's epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochState {
    /// Blocks in an epoch.
    pub tempo: u64,
    /// Block of the last epoch.
    pub last_epoch_block: u64,
    /// Block from which on an epoch that the owner asked for is due; 0 for none.
    pub pending_epoch_at: u64,
    /// Epochs so far.
    pub index: u64,
    /// Blocks since the last epoch.
    pub blocks_since_last_step: u64,
}

impl EpochState {
    /// Returns the state of a subnet.
    pub fn of(subnet: &Subnet) -> Self {
        Self {
            tempo: subnet.tempo.into(),
            last_epoch_block: subnet.last_epoch_block,
            pending_epoch_at: subnet.pending_epoch_at,
            index: subnet.epoch_index,
            blocks_since_last_step: subnet.blocks_since_last_step,
        }
    }

    fn is_due(&self, block: u64) -> bool {
        self.tempo != 0
            && ((self.pending_epoch_at > 0 && block >= self.pending_epoch_at)
                || self.blocks_since_last_step > EPOCH_OVERDUE_BLOCKS
                || block.saturating_sub(self.last_epoch_block) >= self.tempo)
    }

    /// Returns the epoch that calls in `block` see, before the block's own step.
    fn seen_at(&self, block: u64) -> u64 {
        self.index.saturating_add(u64::from(self.is_due(block)))
    }

    /// Moves to `block` and returns whether its epoch begins there.
    pub(crate) fn step(&mut self, block: u64) -> bool {
        self.blocks_since_last_step = self.blocks_since_last_step.saturating_add(1);
        let is_due = self.is_due(block);
        if is_due {
            self.last_epoch_block = block;
            self.pending_epoch_at = 0;
            self.index = self.index.saturating_add(1);
            self.blocks_since_last_step = 0;
        }
        is_due
    }

    /// Returns the epoch and first block that open weights sealed in the block after `head`.
    ///
    /// # Errors
    /// When none does.
    pub fn opening(mut self, head: u64, reveal_epochs: u64) -> Result<(u64, u64), NoOpening> {
        if self.tempo == 0 {
            return Err(NoOpening::NoTempo);
        }
        let first = head.saturating_add(1);
        let target = self.seen_at(first).saturating_add(reveal_epochs);
        let blocks = reveal_epochs.saturating_add(1).saturating_mul(EPOCH_OVERDUE_BLOCKS);
        // A chain's owner cannot make us count for ever.
        let last = first.saturating_add(blocks.min(100 * EPOCH_OVERDUE_BLOCKS));
        for block in first..=last {
            if self.seen_at(block) == target {
                return Ok((target, block));
            }
            self.step(block);
        }
        Err(NoOpening::TooFar)
    }
}

/// Returns when weights sealed to quicknet in the block after `head` are opened; `now_ms` is the
/// time of `head`, milliseconds since the Unix epoch.
///
/// # Errors
/// When they never are.
pub fn opening(
    state: EpochState,
    head: u64,
    now_ms: u64,
    block_time_ms: u64,
    reveal_epochs: u64,
) -> Result<Opening, NoOpening> {
    opening_by(QUICKNET, state, head, now_ms, block_time_ms, reveal_epochs)
}

/// As [`opening`], for a chain that opens seals with rounds of another beacon.
///
/// # Errors
/// As there.
pub fn opening_by(
    beacon: BeaconSchedule,
    state: EpochState,
    head: u64,
    now_ms: u64,
    block_time_ms: u64,
    reveal_epochs: u64,
) -> Result<Opening, NoOpening> {
    let (epoch, block) = state.opening(head, reveal_epochs)?;
    let blocks = block + OPENING_DELAY_BLOCKS - head;
    let opens_ms = now_ms.saturating_add(blocks.saturating_mul(block_time_ms));
    let since_genesis_ms = opens_ms.saturating_sub(beacon.genesis_ms);
    Ok(Opening { epoch, block, round: (since_genesis_ms / beacon.period_ms.max(1)).max(1) })
}
