//! Who has a uid: registration for its price, eviction, and validator permits.

use std::cmp::Reverse;

use grail_protocol::ids::{BlockNumber, Hotkey, Uid};

use super::{Neuron, Origin, State};
use crate::local::chain::event::Event;
use crate::local::chain::refusal::Refusal;
use crate::local::chain::rules::ChainRules;

/// What a registration does to the price, in hundredths. Source: the recorded session.
const BURN_JUMP_PERCENT: u128 = 126;

/// What a block does to the price, in 64 fractional bits: it halves in 360 blocks. Source: the
/// recorded session.
const BURN_DECAY: u128 = 18_411_260_720_637_835_119;

impl State {
    /// Gives `hotkey` a uid without a price.
    pub(super) fn register(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        origin: Origin,
        hotkey: Hotkey,
        stake: u64,
    ) -> Result<(), Refusal> {
        if let Origin::Signed(signer) = origin {
            if !self.params.registration_allowed {
                return Err(Refusal::SubNetRegistrationDisabled);
            }
            if signer != hotkey || stake != 0 {
                return Err(Refusal::RegistrationNotPermitted);
            }
        }
        if self.uid(hotkey).is_some() {
            return Err(Refusal::HotKeyAlreadyRegisteredInSubNet);
        }
        if self.neurons.len() >= usize::from(self.params.neurons_max) {
            return Err(Refusal::NoNeuronIdAvailable);
        }
        self.owners.entry(hotkey).or_insert(hotkey);
        self.neurons.push(Neuron::new(hotkey, stake, block));
        let uid = self.last_uid();
        // A network's owner makes validators, and they need not wait for an epoch.
        self.refresh_permits();
        self.emit_registered(rules, uid, hotkey);
        Ok(())
    }

    /// Gives `hotkey` a uid for the price of the moment, paid by `coldkey`.
    pub(super) fn burned_register(
        &mut self,
        rules: &ChainRules,
        block: BlockNumber,
        coldkey: Hotkey,
        netuid: u16,
        (hotkey, limit): (Hotkey, Option<u64>),
    ) -> Result<(), Refusal> {
        if netuid == 0 {
            return Err(Refusal::RegistrationNotPermittedOnRootSubnet);
        }
        if netuid != rules.netuid.0 {
            return Err(Refusal::SubnetNotExists);
        }
        if !self.params.registration_allowed {
            return Err(Refusal::SubNetRegistrationDisabled);
        }
        if self.uid(hotkey).is_some() {
            return Err(Refusal::HotKeyAlreadyRegisteredInSubNet);
        }
        if self.owners.get(&hotkey).is_some_and(|owner| *owner != coldkey) {
            return Err(Refusal::NonAssociatedColdKey);
        }
        if limit.is_some_and(|limit| self.burn > limit) {
            return Err(Refusal::RegistrationPriceLimitExceeded);
        }
        let Some(left) = self.balance(coldkey).checked_sub(self.burn) else {
            return Err(Refusal::NotEnoughBalanceToStake);
        };
        let neuron = Neuron::new(hotkey, 0, block);
        let uid = match self.free_uid(block)? {
            uid if usize::from(uid) < self.neurons.len() => {
                let evicted = std::mem::replace(&mut self.neurons[usize::from(uid)], neuron);
                self.forget(evicted.hotkey, uid);
                uid
            }
            uid => {
                self.neurons.push(neuron);
                uid
            }
        };
        self.account_mut(coldkey).free = left;
        self.owners.insert(hotkey, coldkey);
        self.recycled = self.recycled.saturating_add(self.burn);
        let fields = [netuid.into(), self.recycled.into()];
        self.emit(Event::new("SubtensorModule", "RAORecycledForRegistrationSet", fields));
        let jumped = u128::from(self.burn) * BURN_JUMP_PERCENT / 100;
        self.burn = u64::try_from(jumped).unwrap_or(u64::MAX).min(self.params.max_burn);
        self.emit_registered(rules, uid, hotkey);
        Ok(())
    }

    /// Lets the price fall as it does in one block.
    pub(super) fn decay_burn(&mut self) {
        let decayed = (u128::from(self.burn) * BURN_DECAY) >> 64;
        self.burn = u64::try_from(decayed).unwrap_or(u64::MAX).max(self.params.min_burn);
    }

    /// Gives permits to those with the most stake, equal stakes by lower uid.
    pub(super) fn refresh_permits(&mut self) {
        let threshold = self.params.stake_threshold;
        let mut order: Vec<usize> = (0..self.neurons.len())
            .filter(|uid| {
                let stake = self.neurons[*uid].stake;
                stake > 0 && stake >= threshold
            })
            .collect();
        // Stable, so equal stakes stay in the order of their uids.
        order.sort_by_key(|uid| Reverse(self.neurons[*uid].stake));
        order.truncate(usize::from(self.params.validators_max));
        for neuron in &mut self.neurons {
            neuron.permit = false;
        }
        for uid in order {
            self.neurons[uid].permit = true;
        }
    }

    /// Returns the next uid, or that of the neuron that has to go: the lowest incentive of those
    /// that are not immune, then the oldest.
    fn free_uid(&self, block: BlockNumber) -> Result<u16, Refusal> {
        let n = self.neurons.len();
        if n < usize::from(self.params.neurons_max) {
            return u16::try_from(n).map_err(|_| Refusal::NoNeuronIdAvailable);
        }
        let immunity = u64::from(self.params.immunity_period);
        (0..)
            .zip(&self.neurons)
            .filter(|(_, neuron)| block.0.saturating_sub(neuron.registered_at.0) >= immunity)
            .min_by_key(|(uid, neuron)| (neuron.incentive, neuron.registered_at, *uid))
            .map(|(uid, _)| uid)
            .ok_or(Refusal::NoNeuronIdAvailable)
    }

    /// Drops what belongs to an evicted neuron and what others thought of it.
    fn forget(&mut self, hotkey: Hotkey, uid: u16) {
        self.commitments.remove(&hotkey);
        self.spaces.remove(&hotkey);
        self.revealed.remove(&hotkey);
        for neuron in &mut self.neurons {
            neuron.weights.retain(|(to, _)| *to != uid);
        }
    }

    fn emit_registered(&mut self, rules: &ChainRules, uid: u16, hotkey: Hotkey) {
        let fields = [rules.netuid.0.into(), uid.into(), hotkey.into()];
        self.emit(Event::new("SubtensorModule", "NeuronRegistered", fields));
    }

    fn last_uid(&self) -> u16 {
        // At most 256 neurons, see ChainRules::validate.
        u16::try_from(self.neurons.len().saturating_sub(1)).unwrap_or(u16::MAX)
    }

    /// Returns the uid of `hotkey`.
    pub fn uid(&self, hotkey: Hotkey) -> Option<Uid> {
        let position = self.neurons.iter().position(|neuron| neuron.hotkey == hotkey)?;
        u16::try_from(position).ok().map(Uid)
    }
}
