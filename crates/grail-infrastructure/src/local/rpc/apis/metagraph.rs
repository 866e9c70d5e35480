//! The metagraph as the runtime answers it. Source: spec/bittensor.md section 4.

use super::{View, axon, hyperparameters as hp};
use crate::local::chain::state::Neuron;
use crate::local::rpc::storage::is_active;
use crate::substrate::Value;

impl View<'_> {
    /// Returns the metagraph: whole, or with the fields whose index is in `wanted`.
    pub(super) fn metagraph(&self, wanted: Option<&[u16]>) -> Value {
        let fields = self.metagraph_fields();
        let Some(wanted) = wanted else {
            // Only the selective form has these two.
            let selective = ["validators", "commitments"];
            return Value::record(fields.into_iter().filter(|(name, _)| !selective.contains(name)));
        };
        let selected = (0_u16..).zip(fields).map(|(index, (name, value))| {
            let is_wanted = wanted.contains(&index);
            match (index, is_wanted) {
                (0, true) => (name, value),
                (0, false) => (name, Value::from(0_u16)),
                _ => (name, Value::option(is_wanted.then_some(value))),
            }
        });
        Value::record(selected)
    }

    /// Returns every field of the metagraph in the order of its indices.
    fn metagraph_fields(&self) -> Vec<(&'static str, Value)> {
        let (state, netuid) = (self.state(), self.rules.netuid.0);
        let (params, schedule) = (&state.params, &state.schedule);
        let n = state.neurons.len();
        let zero = || Value::from(0_u64);
        let none = || Value::option(None::<Value>);
        let bytes = |text: &str| Value::list(text.bytes());
        let owner = state.neurons.first().map_or([0; 32], |neuron| neuron.hotkey.0);
        let column = |read: fn(&Neuron) -> Value| Value::list(state.neurons.iter().map(read));
        let active = |neuron| is_active(state, neuron, self.block.number.0);
        let many = |value: fn() -> Value| Value::list((0..n).map(|_| value()));
        let pairs = Value::list(
            state
                .neurons
                .iter()
                .map(|neuron| Value::List(vec![neuron.hotkey.0.into(), Value::from(0_u64)])),
        );
        let commitments = state
            .commitments()
            .into_iter()
            .map(|(hotkey, data)| Value::List(vec![hotkey.0.into(), Value::list(data)]));
        vec![
            ("netuid", netuid.into()),
            ("name", bytes(&self.rules.network)),
            ("symbol", bytes("\u{3b1}")),
            ("identity", none()),
            ("network_registered_at", zero()),
            ("owner_hotkey", owner.into()),
            ("owner_coldkey", owner.into()),
            ("block", self.block.number.0.into()),
            ("tempo", params.tempo.into()),
            ("last_step", schedule.last_epoch_block.into()),
            ("blocks_since_last_step", schedule.blocks_since_last_step.into()),
            ("subnet_emission", zero()),
            ("alpha_in", zero()),
            ("alpha_out", zero()),
            ("tao_in", zero()),
            ("alpha_out_emission", zero()),
            ("alpha_in_emission", zero()),
            ("tao_in_emission", zero()),
            ("pending_alpha_emission", zero()),
            ("pending_root_emission", zero()),
            ("subnet_volume", zero()),
            ("moving_price", Value::record([("bits", Value::from(0_i128))])),
            ("rho", hp::RHO.into()),
            ("kappa", hp::KAPPA.into()),
            ("min_allowed_weights", params.min_allowed_weights.into()),
            ("max_weights_limit", params.max_weights_limit.into()),
            ("weights_version", params.weights_version.into()),
            ("weights_rate_limit", params.weights_rate_limit.into()),
            ("activity_cutoff", params.activity_cutoff().into()),
            ("max_validators", params.validators_max.into()),
            ("num_uids", u16::try_from(n).unwrap_or(u16::MAX).into()),
            ("max_uids", params.neurons_max.into()),
            ("burn", state.burn.into()),
            ("difficulty", hp::DIFFICULTY.into()),
            ("registration_allowed", params.registration_allowed.into()),
            ("pow_registration_allowed", false.into()),
            ("immunity_period", params.immunity_period.into()),
            ("min_difficulty", hp::DIFFICULTY.into()),
            ("max_difficulty", (u64::MAX / 4).into()),
            ("min_burn", params.min_burn.into()),
            ("max_burn", params.max_burn.into()),
            ("adjustment_alpha", zero()),
            ("adjustment_interval", hp::ADJUSTMENT_INTERVAL.into()),
            ("target_regs_per_interval", hp::TARGET_REGISTRATIONS.into()),
            ("max_regs_per_block", hp::REGISTRATIONS_PER_BLOCK.into()),
            ("serving_rate_limit", hp::SERVING_RATE_LIMIT.into()),
            ("commit_reveal_weights_enabled", params.commit_reveal.into()),
            ("commit_reveal_period", params.reveal_period.into()),
            ("liquid_alpha_enabled", false.into()),
            ("alpha_high", hp::ALPHA_HIGH.into()),
            ("alpha_low", hp::ALPHA_LOW.into()),
            ("bonds_moving_avg", hp::BONDS_MOVING_AVERAGE.into()),
            ("hotkeys", column(|neuron| neuron.hotkey.0.into())),
            ("coldkeys", Value::list(state.neurons.iter().map(|neuron| self.coldkey(neuron)))),
            ("identities", many(|| Value::option(None::<Value>))),
            ("axons", many(axon)),
            ("active", Value::list(state.neurons.iter().map(active))),
            ("validator_permit", column(|neuron| neuron.permit.into())),
            ("pruning_score", column(|neuron| neuron.incentive.into())),
            ("last_update", column(|neuron| neuron.last_update.0.into())),
            ("emission", many(|| Value::from(0_u64))),
            ("dividends", column(|neuron| neuron.dividends.into())),
            ("incentives", column(|neuron| neuron.incentive.into())),
            ("consensus", column(|neuron| neuron.incentive.into())),
            ("trust", column(|neuron| neuron.incentive.into())),
            ("rank", column(|neuron| neuron.incentive.into())),
            ("block_at_registration", column(|neuron| neuron.registered_at.0.into())),
            ("alpha_stake", column(|neuron| neuron.stake.into())),
            ("tao_stake", many(|| Value::from(0_u64))),
            ("total_stake", column(|neuron| neuron.stake.into())),
            ("tao_dividends_per_hotkey", pairs.clone()),
            ("alpha_dividends_per_hotkey", pairs),
            ("validators", Value::List(self.validators())),
            ("commitments", Value::list(commitments)),
            ("collateral_locked", many(|| Value::from(0_u64))),
            ("collateral_min", many(|| Value::from(0_u64))),
            ("collateral_earned", many(|| Value::from(0_u64))),
        ]
    }

    fn validators(&self) -> Vec<Value> {
        self.neurons().filter(|(_, n)| n.permit).map(|(uid, _)| uid.into()).collect()
    }
}
