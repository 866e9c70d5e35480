//! Accounts: nonces, money, and stake that comes from it.

use grail_protocol::ids::Hotkey;
use serde::{Deserialize, Serialize};

use super::State;
use crate::local::chain::event::Event;
use crate::local::chain::refusal::Refusal;
use crate::local::chain::rules::ChainRules;

/// `System.Account` of somebody who signed something or owns something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Extrinsics included so far.
    pub nonce: u64,
    /// Money, rao.
    pub free: u64,
}

impl State {
    /// Returns the nonce that is due from `account`.
    pub fn nonce(&self, account: Hotkey) -> u64 {
        self.accounts.get(&account).map_or(0, |account| account.nonce)
    }

    /// Returns the money of `account`, rao.
    pub fn balance(&self, account: Hotkey) -> u64 {
        self.accounts.get(&account).map_or(0, |account| account.free)
    }

    /// Returns whether the chain knows `account`, so that it may sign: it has money or a uid.
    pub fn exists(&self, account: Hotkey) -> bool {
        self.balance(account) > 0
            || self.owners.contains_key(&account)
            || self.owners.values().any(|coldkey| *coldkey == account)
    }

    pub(super) fn account_mut(&mut self, account: Hotkey) -> &mut Account {
        self.accounts.entry(account).or_default()
    }

    /// Moves money of `coldkey` to the stake of `hotkey`, one to one: this chain has no pool.
    pub(super) fn add_stake(
        &mut self,
        rules: &ChainRules,
        coldkey: Hotkey,
        hotkey: Hotkey,
        netuid: u16,
        amount: u64,
    ) -> Result<(), Refusal> {
        if netuid != rules.netuid.0 {
            return Err(Refusal::SubnetNotExists);
        }
        let left = self.balance(coldkey).checked_sub(amount);
        let left = left.ok_or(Refusal::NotEnoughBalanceToStake)?;
        let uid = self.uid(hotkey).ok_or(Refusal::HotKeyAccountNotExists)?;
        let neuron = &mut self.neurons[usize::from(uid.0)];
        neuron.stake = neuron.stake.saturating_add(amount);
        self.account_mut(coldkey).free = left;
        let fields = [
            coldkey.into(),
            hotkey.into(),
            amount.into(),
            amount.into(),
            netuid.into(),
            0_u64.into(),
        ];
        self.emit(Event::new("SubtensorModule", "StakeAdded", fields));
        Ok(())
    }
}
