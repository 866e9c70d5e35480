//! The subnet's hyperparameters as the runtime answers them, in its three forms.

use super::View;
use crate::substrate::Value;

/// What the subnet has no rule for here, with the real chain's defaults.
pub(super) const KAPPA: u16 = 32767;
pub(super) const RHO: u16 = 10;
pub(super) const ADJUSTMENT_INTERVAL: u16 = 100;
pub(super) const TARGET_REGISTRATIONS: u16 = 2;
pub(super) const REGISTRATIONS_PER_BLOCK: u16 = 1;
pub(super) const SERVING_RATE_LIMIT: u64 = 50;
pub(super) const BONDS_MOVING_AVERAGE: u64 = 900_000;
pub(super) const ALPHA_HIGH: u16 = 58982;
pub(super) const ALPHA_LOW: u16 = 45875;
pub(super) const DIFFICULTY: u64 = 10_000_000;
const SIGMOID_STEEPNESS: i16 = 1000;
const YUMA_VERSION: u16 = 2;
/// Blocks in which the price of a registration halves.
const BURN_HALF_LIFE: u16 = 360;
/// What a registration multiplies the price by: 1.26 in 64 fractional bits.
const BURN_INCREASE: u128 = (126 << 64) / 100;

/// A value of the third form, which names its own type.
enum Tagged {
    Bool(bool),
    U16(u16),
    U64(u64),
    Tao(u64),
    I32F32(i16),
    U64F64(u128),
}

impl From<Tagged> for Value {
    fn from(tagged: Tagged) -> Self {
        let bits = |bits| Self::record([("bits", bits)]);
        match tagged {
            Tagged::Bool(value) => Self::variant("Bool", value),
            Tagged::U16(value) => Self::variant("U16", value),
            Tagged::U64(value) => Self::variant("U64", value),
            Tagged::Tao(value) => Self::variant("TaoBalance", value),
            Tagged::I32F32(value) => Self::variant("I32F32", bits(fixed(value))),
            Tagged::U64F64(value) => Self::variant("U64F64", bits(value.into())),
        }
    }
}

/// Returns `value` with 32 fractional bits.
fn fixed(value: i16) -> Value {
    (i128::from(value) << 32).into()
}

impl View<'_> {
    /// Returns the first form: a record.
    pub(super) fn hyperparameters(&self) -> Value {
        Value::record(self.hyperparameter_fields())
    }

    /// Returns the second form: a longer record.
    pub(super) fn hyperparameters_v2(&self) -> Value {
        let mut fields = self.hyperparameter_fields();
        fields.extend([
            ("alpha_sigmoid_steepness", Value::record([("bits", fixed(SIGMOID_STEEPNESS))])),
            ("yuma_version", YUMA_VERSION.into()),
            ("subnet_is_active", self.state().params.subtoken_enabled.into()),
            ("transfers_enabled", true.into()),
            ("bonds_reset_enabled", false.into()),
            ("user_liquidity_enabled", false.into()),
        ]);
        Value::record(fields)
    }

    /// Returns the third form: names with values that say their own type, so that a client needs no
    /// new release for a new name.
    pub(super) fn hyperparameters_v3(&self) -> Value {
        let params = &self.state().params;
        let entries = [
            ("kappa", Tagged::U16(KAPPA)),
            ("immunity_period", Tagged::U16(params.immunity_period)),
            ("min_allowed_weights", Tagged::U16(params.min_allowed_weights)),
            ("max_weights_limit", Tagged::U16(params.max_weights_limit)),
            ("tempo", Tagged::U16(params.tempo)),
            ("weights_version", Tagged::U64(params.weights_version)),
            ("weights_rate_limit", Tagged::U64(params.weights_rate_limit)),
            (
                "activity_cutoff",
                Tagged::U16(u16::try_from(params.activity_cutoff()).unwrap_or(u16::MAX)),
            ),
            ("registration_allowed", Tagged::Bool(params.registration_allowed)),
            ("target_regs_per_interval", Tagged::U16(TARGET_REGISTRATIONS)),
            ("min_burn", Tagged::Tao(params.min_burn)),
            ("max_burn", Tagged::Tao(params.max_burn)),
            ("burn_half_life", Tagged::U16(BURN_HALF_LIFE)),
            ("burn_increase_mult", Tagged::U64F64(BURN_INCREASE)),
            ("bonds_moving_avg", Tagged::U64(BONDS_MOVING_AVERAGE)),
            ("max_regs_per_block", Tagged::U16(REGISTRATIONS_PER_BLOCK)),
            ("serving_rate_limit", Tagged::U64(SERVING_RATE_LIMIT)),
            ("max_validators", Tagged::U16(params.validators_max)),
            ("commit_reveal_period", Tagged::U64(params.reveal_period)),
            ("commit_reveal_weights_enabled", Tagged::Bool(params.commit_reveal)),
            ("alpha_high", Tagged::U16(ALPHA_HIGH)),
            ("alpha_low", Tagged::U16(ALPHA_LOW)),
            ("liquid_alpha_enabled", Tagged::Bool(false)),
            ("alpha_sigmoid_steepness", Tagged::I32F32(SIGMOID_STEEPNESS)),
            ("yuma_version", Tagged::U16(YUMA_VERSION)),
            ("subnet_is_active", Tagged::Bool(params.subtoken_enabled)),
            ("transfers_enabled", Tagged::Bool(true)),
            ("bonds_reset_enabled", Tagged::Bool(false)),
            ("user_liquidity_enabled", Tagged::Bool(false)),
            ("owner_cut_enabled", Tagged::Bool(true)),
            ("owner_cut_auto_lock_enabled", Tagged::Bool(false)),
        ];
        Value::list(entries.map(|(name, value)| {
            Value::record([("name", Value::bytes(name)), ("value", value.into())])
        }))
    }

    /// Returns the fields of the first form, which the second one starts with.
    fn hyperparameter_fields(&self) -> Vec<(&'static str, Value)> {
        let params = &self.state().params;
        vec![
            ("rho", RHO.into()),
            ("kappa", KAPPA.into()),
            ("immunity_period", params.immunity_period.into()),
            ("min_allowed_weights", params.min_allowed_weights.into()),
            ("max_weights_limit", params.max_weights_limit.into()),
            ("tempo", params.tempo.into()),
            ("min_difficulty", DIFFICULTY.into()),
            ("max_difficulty", (u64::MAX / 4).into()),
            ("weights_version", params.weights_version.into()),
            ("weights_rate_limit", params.weights_rate_limit.into()),
            ("adjustment_interval", ADJUSTMENT_INTERVAL.into()),
            ("activity_cutoff", params.activity_cutoff().into()),
            ("registration_allowed", params.registration_allowed.into()),
            ("target_regs_per_interval", TARGET_REGISTRATIONS.into()),
            ("min_burn", params.min_burn.into()),
            ("max_burn", params.max_burn.into()),
            ("bonds_moving_avg", BONDS_MOVING_AVERAGE.into()),
            ("max_regs_per_block", REGISTRATIONS_PER_BLOCK.into()),
            ("serving_rate_limit", SERVING_RATE_LIMIT.into()),
            ("max_validators", params.validators_max.into()),
            ("adjustment_alpha", 0_u64.into()),
            ("difficulty", DIFFICULTY.into()),
            ("commit_reveal_period", params.reveal_period.into()),
            ("commit_reveal_weights_enabled", params.commit_reveal.into()),
            ("alpha_high", ALPHA_HIGH.into()),
            ("alpha_low", ALPHA_LOW.into()),
            ("liquid_alpha_enabled", false.into()),
        ]
    }
}
