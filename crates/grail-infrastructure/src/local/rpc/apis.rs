//! Answers the runtime's functions from the state of a block.

mod hyperparameters;
mod metagraph;

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
        // Metadata of format 14 describes no functions; they exist all the same.
        let current = (self.runtime.metadata.format() == 14).then(Runtime::current);
        let described = current.as_ref().map_or(&self.runtime.metadata, |known| &known.metadata);
        let function = described.runtime_function(api, name).map_err(|_| unknown())?;
        let arguments = function.decode_arguments(args).map_err(|_| RpcError::trap())?;
        let first = arguments.first().and_then(|value| value.as_uint::<u16>().ok());
        let is_ours = first == Some(self.rules.netuid.0);
        let answer = match (api, name) {
            ("SubnetInfoRuntimeApi", "get_metagraph" | "get_mechagraph") => {
                Value::option(is_ours.then(|| self.metagraph(None)))
            }
            ("SubnetInfoRuntimeApi", "get_selective_metagraph" | "get_selective_mechagraph") => {
                let wanted = arguments.last().and_then(|list| list.map_list(Value::as_uint).ok());
                let wanted: Vec<u16> = wanted.unwrap_or_default();
                Value::option(is_ours.then(|| self.metagraph(Some(&wanted))))
            }
            ("SubnetInfoRuntimeApi", "get_next_epoch_start_block") => {
                let next = self.state().schedule.next_epoch_block(self.state().params.tempo);
                Value::option(next.filter(|_| is_ours))
            }
            ("SubnetInfoRuntimeApi", "get_subnet_hyperparams") => {
                Value::option(is_ours.then(|| self.hyperparameters()))
            }
            ("SubnetInfoRuntimeApi", "get_subnet_hyperparams_v2") => {
                Value::option(is_ours.then(|| self.hyperparameters_v2()))
            }
            ("SubnetInfoRuntimeApi", "get_subnet_hyperparams_v3") => {
                Value::option(is_ours.then(|| self.hyperparameters_v3()))
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

    /// Returns computing time of an extrinsic's call, and the extrinsic's fee.
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
        Ok((info.call_ref_time(), info.fee(extrinsic.len())))
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
