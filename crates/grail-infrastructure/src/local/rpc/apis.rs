//! Answers the runtime's functions from the state of a block.

use grail_protocol::ids::Hotkey;
use parity_scale_codec::{Decode, Encode};

use super::calls::understand;
use super::error::RpcError;
use super::runtime::Runtime;
use super::storage::is_active;
use crate::local::chain::recent::SealedBlock;
use crate::local::chain::rules::ChainRules;
use crate::local::chain::state::{Neuron, State};
use crate::substrate::{EncodeError, Extrinsic, Value};

/// A block, and how its chain reads it.
pub struct View<'a> {
    /// The chain's rules.
    pub rules: &'a ChainRules,
    /// The chain's runtime.
    pub runtime: &'a Runtime,
    /// The block.
    pub block: &'a SealedBlock,
}

impl View<'_> {
    /// Answers `method`, `<Api>_<function>`, with `args` in SCALE.
    ///
    /// # Errors
    /// When there is no such function, or `args` end early.
    pub fn call(&self, method: &str, args: &[u8]) -> Result<Vec<u8>, RpcError> {
        if let Some(answer) = self.plain(method, args)? {
            return Ok(answer);
        }
        self.described(method, args)?.map_err(|error| {
            tracing::warn!(%error, method, "the runtime's function has another answer than known");
            RpcError::unknown_function(method)
        })
    }

    /// Answers functions whose answer has the type that the metadata says.
    pub(super) fn described(
        &self,
        method: &str,
        args: &[u8],
    ) -> Result<Result<Vec<u8>, EncodeError>, RpcError> {
        let unknown = || RpcError::unknown_function(method);
        let (api, name) = method.split_once('_').ok_or_else(unknown)?;
        let function = self.runtime.metadata.runtime_function(api, name);
        let Ok(function) = function else {
            // Metadata of format 14 describes no functions; these exist all the same.
            let netuid = matches!(api, "SubnetInfoRuntimeApi" | "NeuronInfoRuntimeApi")
                .then(|| u16::decode(&mut &*args).map_err(|_| RpcError::trap()))
                .ok_or_else(unknown)??;
            return if netuid == self.rules.netuid.0 { Err(unknown()) } else { Ok(Ok(vec![0])) };
        };
        let arguments = function.decode_arguments(args).map_err(|_| RpcError::trap())?;
        let first = arguments.first().and_then(|value| value.as_uint::<u16>().ok());
        let is_ours = first == Some(self.rules.netuid.0);
        let nothing = || Value::option(None::<Value>);
        let answer = match (api, name) {
            ("SubnetInfoRuntimeApi", "get_metagraph" | "get_mechagraph") => {
                if is_ours {
                    Value::option(Some(self.metagraph(None)))
                } else {
                    nothing()
                }
            }
            ("SubnetInfoRuntimeApi", "get_selective_metagraph" | "get_selective_mechagraph") => {
                let wanted = arguments.last().and_then(|list| list.map_list(Value::as_uint).ok());
                let wanted: Vec<u16> = wanted.unwrap_or_default();
                if is_ours { Value::option(Some(self.metagraph(Some(&wanted)))) } else { nothing() }
            }
            ("SubnetInfoRuntimeApi", "get_next_epoch_start_block") => {
                let next = self.state().schedule.next_epoch_block(self.state().params.tempo);
                Value::option(next.filter(|_| is_ours))
            }
            ("SubnetInfoRuntimeApi", "get_subnet_hyperparams") => {
                if is_ours {
                    Value::option(Some(self.hyperparameters(false)))
                } else {
                    nothing()
                }
            }
            ("SubnetInfoRuntimeApi", "get_subnet_hyperparams_v2") => {
                if is_ours {
                    Value::option(Some(self.hyperparameters(true)))
                } else {
                    nothing()
                }
            }
            ("NeuronInfoRuntimeApi", "get_neurons_lite" | "get_neurons") => {
                let lite = name == "get_neurons_lite";
                let neurons = self.neurons().filter(|_| is_ours);
                Value::list(neurons.map(|(uid, neuron)| self.neuron(uid, neuron, lite)))
            }
            ("NeuronInfoRuntimeApi", "get_neuron_lite" | "get_neuron") => {
                let uid = arguments.get(1).and_then(|value| value.as_uint::<u16>().ok());
                let mut neurons = self.neurons();
                let neuron = neurons.find(|(known, _)| is_ours && Some(*known) == uid);
                let lite = name == "get_neuron_lite";
                Value::option(neuron.map(|(uid, neuron)| self.neuron(uid, neuron, lite)))
            }
            _ => return Err(unknown()),
        };
        Ok(function.encode(&answer))
    }

    /// Answers functions whose encoding is the same in every runtime.
    fn plain(&self, method: &str, mut args: &[u8]) -> Result<Option<Vec<u8>>, RpcError> {
        let trap = |_| RpcError::trap();
        Ok(Some(match method {
            "Metadata_metadata" => {
                self.runtime.metadata_in(14).ok_or_else(RpcError::trap)?.to_vec().encode()
            }
            "Metadata_metadata_versions" => self.runtime.formats().encode(),
            "Metadata_metadata_at_version" => {
                let format = u32::decode(&mut args).map_err(trap)?;
                self.runtime.metadata_in(format).map(<[u8]>::to_vec).encode()
            }
            "AccountNonceApi_account_nonce" => {
                let account = <[u8; 32]>::decode(&mut args).map_err(trap)?;
                let nonce = self.state().nonce(Hotkey(account));
                u32::try_from(nonce).unwrap_or(u32::MAX).encode()
            }
            "TransactionPaymentApi_query_info" => {
                // The argument is the extrinsic and, behind it, its length.
                let extrinsic = args.len().checked_sub(4).and_then(|length| args.get(..length));
                let (ref_time, fee) = self.fee(extrinsic.unwrap_or_default())?;
                // Weight, class `Normal`, fee.
                let weight =
                    (parity_scale_codec::Compact(ref_time), parity_scale_codec::Compact(0_u64));
                (weight, 0_u8, u64_fee(fee)).encode()
            }
            _ => return Ok(None),
        }))
    }

    /// Returns computing time and fee of an extrinsic.
    ///
    /// # Errors
    /// When the runtime cannot read it.
    pub fn fee(&self, extrinsic: &[u8]) -> Result<(u64, u64), RpcError> {
        let metadata = &self.runtime.metadata;
        let signed = match metadata.decode_extrinsic(extrinsic) {
            Ok(Extrinsic::Signed(signed)) => signed.call,
            Ok(Extrinsic::Bare(call)) => call,
            Err(_) => return Err(RpcError::trap()),
        };
        let call = metadata.decode_call(&signed).map_err(|_| RpcError::trap())?;
        let call = understand(metadata, &call).map_err(|_| RpcError::trap())?;
        let info = call.dispatch_info();
        Ok((info.ref_time, info.fee(extrinsic.len())))
    }

    fn state(&self) -> &State {
        &self.block.state
    }

    fn neurons(&self) -> impl Iterator<Item = (u16, &Neuron)> {
        (0..).zip(&self.state().neurons)
    }

    fn coldkey(&self, neuron: &Neuron) -> [u8; 32] {
        self.state().owners.get(&neuron.hotkey).unwrap_or(&neuron.hotkey).0
    }

    fn neuron(&self, uid: u16, neuron: &Neuron, lite: bool) -> Value {
        let coldkey = Value::from(self.coldkey(neuron));
        let stake = Value::List(vec![coldkey.clone(), neuron.stake.into()]);
        let zero = || Value::from(0_u64);
        let prometheus =
            Value::record(["block", "version", "ip", "port", "ip_type"].map(|name| (name, zero())));
        let mut fields = vec![
            ("hotkey", neuron.hotkey.0.into()),
            ("coldkey", coldkey),
            ("uid", uid.into()),
            ("netuid", self.rules.netuid.0.into()),
            ("active", is_active(self.state(), neuron, self.block.number.0).into()),
            ("axon_info", axon()),
            ("prometheus_info", prometheus),
            ("stake", Value::List(vec![stake])),
            ("rank", neuron.incentive.into()),
            ("emission", zero()),
            ("incentive", neuron.incentive.into()),
            ("consensus", neuron.incentive.into()),
            ("trust", neuron.incentive.into()),
            ("validator_trust", neuron.dividends.into()),
            ("dividends", neuron.dividends.into()),
            ("last_update", neuron.last_update.0.into()),
            ("validator_permit", neuron.permit.into()),
        ];
        if !lite {
            let pair = |(to, weight): &(u16, u16)| Value::list([*to, *weight]);
            fields.push(("weights", Value::list(neuron.weights.iter().map(pair))));
            fields.push(("bonds", Value::List(Vec::new())));
        }
        fields.push(("pruning_score", neuron.incentive.into()));
        Value::record(fields)
    }

    /// Returns the metagraph: whole, or with the fields whose index is in `wanted`.
    fn metagraph(&self, wanted: Option<&[u16]>) -> Value {
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
            ("rho", 10_u16.into()),
            ("kappa", 32767_u16.into()),
            ("min_allowed_weights", params.min_allowed_weights.into()),
            ("max_weights_limit", params.max_weights_limit.into()),
            ("weights_version", params.weights_version.into()),
            ("weights_rate_limit", params.weights_rate_limit.into()),
            ("activity_cutoff", params.activity_cutoff.into()),
            ("max_validators", params.validators_max.into()),
            ("num_uids", u16::try_from(n).unwrap_or(u16::MAX).into()),
            ("max_uids", params.neurons_max.into()),
            ("burn", state.burn.into()),
            ("difficulty", 10_000_000_u64.into()),
            ("registration_allowed", params.registration_allowed.into()),
            ("pow_registration_allowed", false.into()),
            ("immunity_period", params.immunity_period.into()),
            ("min_difficulty", 10_000_000_u64.into()),
            ("max_difficulty", (u64::MAX / 4).into()),
            ("min_burn", params.min_burn.into()),
            ("max_burn", params.max_burn.into()),
            ("adjustment_alpha", zero()),
            ("adjustment_interval", 100_u16.into()),
            ("target_regs_per_interval", 2_u16.into()),
            ("max_regs_per_block", 1_u16.into()),
            ("serving_rate_limit", 50_u64.into()),
            ("commit_reveal_weights_enabled", params.commit_reveal.into()),
            ("commit_reveal_period", params.reveal_period.into()),
            ("liquid_alpha_enabled", false.into()),
            ("alpha_high", 58982_u16.into()),
            ("alpha_low", 45875_u16.into()),
            ("bonds_moving_avg", 900_000_u64.into()),
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

    fn hyperparameters(&self, second: bool) -> Value {
        let names = self.metagraph_fields();
        let one = |name: &str| {
            names.iter().find(|(known, _)| *known == name).map_or(0_u64.into(), |(_, v)| v.clone())
        };
        let mut fields: Vec<(&'static str, Value)> = [
            "rho",
            "kappa",
            "immunity_period",
            "min_allowed_weights",
            "max_weights_limit",
            "tempo",
            "min_difficulty",
            "max_difficulty",
            "weights_version",
            "weights_rate_limit",
            "adjustment_interval",
            "activity_cutoff",
            "registration_allowed",
            "target_regs_per_interval",
            "min_burn",
            "max_burn",
            "bonds_moving_avg",
            "max_regs_per_block",
            "serving_rate_limit",
            "max_validators",
            "adjustment_alpha",
            "difficulty",
        ]
        .map(|name| (name, one(name)))
        .to_vec();
        for name in [
            "commit_reveal_period",
            "commit_reveal_weights_enabled",
            "alpha_high",
            "alpha_low",
            "liquid_alpha_enabled",
        ] {
            fields.push((name, one(name)));
        }
        if second {
            let steepness = Value::record([("bits", Value::from(1000_i128 << 32))]);
            fields.extend([
                ("alpha_sigmoid_steepness", steepness),
                ("yuma_version", 2_u16.into()),
                ("subnet_is_active", self.state().params.subtoken_enabled.into()),
                ("transfers_enabled", true.into()),
                ("bonds_reset_enabled", false.into()),
                ("user_liquidity_enabled", false.into()),
            ]);
        }
        Value::record(fields)
    }
}

fn axon() -> Value {
    let names =
        ["block", "version", "ip", "port", "ip_type", "protocol", "placeholder1", "placeholder2"];
    Value::record(names.map(|name| (name, Value::from(0_u64))))
}

/// A balance is 64 bits wide on this chain.
fn u64_fee(fee: u64) -> u64 {
    fee
}
