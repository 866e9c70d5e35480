//! LoRA: a frozen model and a small pair of matrices beside each of its large ones.
//!
//! A projection `W`, `[n, k]`, is used as `W' = W + scale * (B A)` with `A` `[rank, k]`, `B`
//! `[n, rank]` and `scale = alpha / rank` (Hu et al. 2021). The passes compute with `W'` rounded as
//! an export writes it, so log-probabilities are those of whoever loads the export, bit for bit: a
//! miner needs to know nothing of adapters. The gradient passes the rounding unchanged, as it does
//! in full training.
//!
//! Per element: one chain over the rank gives `B A`; where it is zero, `W'` is `W`, so that a fresh
//! pair (whose `B` is zero) changes nothing; else one product with `scale` and one sum with `W`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use grail_kernels::{Init, Kernels, MatRef, PackedMatrix, WeightCopy};
use grail_ports::model::ModelError;

use super::parameters::Layout;
use crate::arch::Values;
use crate::noise::Normal;
use crate::parallel::parallel_map;

/// Largest rank: beyond it, full training is cheaper.
pub const LORA_RANK_MAX: usize = 256;

/// How a model is trained through low-rank pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoraConfig {
    /// Inner width of the pairs, 1 to [`LORA_RANK_MAX`].
    pub rank: usize,
    /// Divided by the rank, the factor of what a pair adds; at least 1.
    pub alpha: u32,
    /// The projections that get a pair, in every layer.
    pub targets: LoraTargets,
    /// Decides the first values of every `A`.
    pub seed: u64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 32, targets: LoraTargets::ALL, seed: 0 }
    }
}

impl LoraConfig {
    /// Checks that every setting is in its range.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] naming the setting.
    pub fn check(&self) -> Result<(), ModelError> {
        let complaint = if !(1..=LORA_RANK_MAX).contains(&self.rank) {
            format!("the LoRA rank is {}, expected 1 to {LORA_RANK_MAX}", self.rank)
        } else if self.alpha == 0 {
            "the LoRA alpha is 0, expected at least 1".to_owned()
        } else if self.targets == LoraTargets::NONE {
            format!("LoRA has no target; name some of {}", LoraTargets::ALL)
        } else {
            return Ok(());
        };
        Err(ModelError::BadRequest(complaint))
    }

    /// The factor of `B A`, rounded to f32 once.
    pub(super) fn scale(&self) -> f32 {
        (f64::from(self.alpha) / self.rank as f64) as f32
    }
}

/// The projections of a layer, in the order of the computation.
const PROJECTIONS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// A set of projections; as text, their names with commas between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LoraTargets(u8);

impl LoraTargets {
    /// All seven projections of a layer.
    pub const ALL: Self = Self((1 << PROJECTIONS.len()) - 1);
    const NONE: Self = Self(0);

    /// Returns the names of the projections, as in a checkpoint.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let names = PROJECTIONS.into_iter().enumerate();
        names.filter(move |(idx, _)| self.0 & (1 << idx) != 0).map(|(_, name)| name)
    }

    /// Returns whether the tensor called `tensor` is the weight of one of the projections.
    fn cover(self, tensor: &str) -> bool {
        let projection = tensor.strip_suffix(".weight").and_then(|name| name.rsplit('.').next());
        projection.is_some_and(|projection| self.names().any(|name| name == projection))
    }
}

impl std::fmt::Display for LoraTargets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

impl From<LoraTargets> for String {
    fn from(targets: LoraTargets) -> Self {
        targets.to_string()
    }
}

impl TryFrom<String> for LoraTargets {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for LoraTargets {
    type Err = String;

    /// Reads names with commas between them.
    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').try_fold(Self::NONE, |targets, name| {
            match PROJECTIONS.iter().position(|projection| *projection == name.trim()) {
                Some(idx) => Ok(Self(targets.0 | 1 << idx)),
                None => {
                    Err(format!("{name:?} is not a projection; expected some of {}", Self::ALL))
                }
            }
        })
    }
}

/// Where the two tensors of a pair lie in the layout, and what they stand beside.
#[derive(Clone, Debug)]
pub(super) struct PairSlots {
    /// Name of `W` in a checkpoint.
    pub(super) weight: String,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) a: Range<usize>,
    pub(super) b: Range<usize>,
}

/// Returns the names and shapes of `A` and `B` for the tensor called `weight`, if it gets a pair.
pub(super) fn pair_tensors(
    config: &LoraConfig,
    weight: &str,
    shape: &[usize],
) -> Option<[(String, Vec<usize>); 2]> {
    let &[n, k] = shape else { return None };
    let stem = weight.strip_suffix(".weight").filter(|_| config.targets.cover(weight))?;
    Some([
        (format!("{stem}.lora_A.weight"), vec![config.rank, k]),
        (format!("{stem}.lora_B.weight"), vec![n, config.rank]),
    ])
}

/// Fills the masters of fresh pairs: `A` normal with variance `1 / k`, `B` zero.
pub(super) fn initialise(config: &LoraConfig, layout: &Layout, masters: &mut [f32]) {
    for pair in layout.pairs() {
        let mut normal = Normal::new("grail-model/lora", config.seed, &pair.weight);
        let std = 1.0 / (pair.k as f32).sqrt();
        masters[pair.a.clone()].iter_mut().for_each(|value| *value = std * normal.draw());
        masters[pair.b.clone()].fill(0.0);
    }
}

/// What LoRA adds to a trainer.
#[derive(Debug)]
pub(super) struct Lora {
    pub(super) config: LoraConfig,
    /// The frozen model, by tensor.
    pub(super) base: BTreeMap<String, Values>,
    /// The pairs as the backward pass multiplies with them, in the order of [`Layout::pairs`].
    packed: Vec<PackedPair>,
}

/// A pair, packed.
#[derive(Debug, Default)]
struct PackedPair {
    /// `[rank, k]`.
    a: PackedMatrix,
    /// `B` transposed, `[rank, n]`.
    b_transposed: PackedMatrix,
}

impl Lora {
    pub(super) fn new(config: LoraConfig, base: BTreeMap<String, Values>) -> Self {
        Self { config, base, packed: Vec::new() }
    }

    /// Brings `copies`, those of the tensors with a pair by name, and the packed pairs up to date
    /// with the masters.
    pub(super) fn refresh(
        &mut self,
        kernels: &Kernels,
        layout: &Layout,
        masters: &[f32],
        mut copies: BTreeMap<String, WeightCopy<'_>>,
    ) -> Result<(), ModelError> {
        let rank = self.config.rank;
        let pairs =
            layout.pairs().iter().map(|pair| (pair, Mutex::new(copies.remove(&pair.weight))));
        let pairs: Vec<_> = pairs.collect();
        let this = &*self;
        let packed = parallel_map(kernels, &pairs, &|(pair, copy)| {
            let merged = this.merged(kernels, pair, masters)?;
            let mut copy = copy.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(copy) = copy.as_mut() {
                let all = 0..merged.len();
                copy.parts = vec![all];
                kernels.store_weights(&merged, std::slice::from_mut(copy));
            }
            let (a, b) = (&masters[pair.a.clone()], &masters[pair.b.clone()]);
            Ok(PackedPair {
                a: PackedMatrix::pack_f32(rank, pair.k, a),
                b_transposed: PackedMatrix::pack_f32(pair.n, rank, b).transposed(),
            })
        });
        self.packed = packed.into_iter().collect::<Result<_, ModelError>>()?;
        Ok(())
    }

    /// Computes `W + scale * (B A)`, `[n, k]`, not yet rounded as an export is.
    pub(super) fn merged(
        &self,
        kernels: &Kernels,
        pair: &PairSlots,
        masters: &[f32],
    ) -> Result<Vec<f32>, ModelError> {
        let (rank, scale) = (self.config.rank, self.config.scale());
        let (a, b) = (&masters[pair.a.clone()], &masters[pair.b.clone()]);
        let mut packed = PackedMatrix::default();
        kernels.pack_columns(rank, pair.k, a, &mut packed);
        let mut merged = vec![0.0; pair.n * pair.k];
        let b = MatRef::row_major(b, pair.n, rank);
        kernels.gemm(b, &packed, &mut merged, Init::Zero, None);
        let add = |value: &mut f32, weight: f32| {
            *value = if *value == 0.0 { weight } else { weight + scale * *value };
        };
        match self.base_values(&pair.weight)? {
            Values::Bf16(bits) => {
                let widened = bits.iter().map(|bits| f32::from_bits(u32::from(*bits) << 16));
                merged.iter_mut().zip(widened).for_each(|(value, weight)| add(value, weight));
            }
            Values::F32(weights) => {
                merged.iter_mut().zip(weights).for_each(|(value, weight)| add(value, *weight));
            }
        }
        Ok(merged)
    }

    /// Returns a tensor of the frozen model.
    pub(super) fn base_values(&self, name: &str) -> Result<&Values, ModelError> {
        let missing = || ModelError::Unloadable(format!("the frozen model has no tensor {name:?}"));
        self.base.get(name).ok_or_else(missing)
    }

    /// Adds the gradients of pair number `idx` to `grads`, by the chain rule through `W'`:
    /// `dB = dy^T u` with `u = scale * (x A^T)`, `dA = g^T x` with `g = scale * (dy B)`. Chains run
    /// over rows in order, as those of a full gradient.
    ///
    /// `x` is the projection's input, `[rows, k]`, also packed for products over rows; `dy` is the
    /// gradient of its output, `[rows, n]`.
    pub(super) fn backward(
        &self,
        kernels: &Kernels,
        (idx, pair): (usize, &PairSlots),
        x: (&[f32], &PackedMatrix),
        dy: MatRef<'_>,
        grads: &mut [f32],
    ) {
        let (rank, rows, scale) = (self.config.rank, dy.rows, self.config.scale());
        let PackedPair { a, b_transposed } = &self.packed[idx];
        let mut inner = vec![0.0; rows * rank];
        kernels.linear(x.0, a, None, &mut inner);
        kernels.scale(&mut inner, scale);
        let mut packed = PackedMatrix::default();
        kernels.pack_columns(rows, rank, &inner, &mut packed);
        let db = &mut grads[pair.b.clone()];
        kernels.gemm(dy.transposed(), &packed, db, Init::Carry, None);
        kernels.gemm(dy, b_transposed, &mut inner, Init::Zero, None);
        kernels.scale(&mut inner, scale);
        let g = MatRef::row_major(&inner, rows, rank);
        kernels.gemm(g.transposed(), x.1, &mut grads[pair.a.clone()], Init::Carry, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_shown_by_name() {
        let targets: LoraTargets = "v_proj, q_proj".parse().unwrap();
        assert_eq!(targets.to_string(), "q_proj,v_proj");
        assert!(targets.cover("model.layers.3.self_attn.q_proj.weight"));
        assert!(!targets.cover("model.layers.3.self_attn.q_proj.bias"));
        assert!(!targets.cover("model.layers.3.self_attn.o_proj.weight"));
        assert_eq!(LoraTargets::ALL.to_string().parse(), Ok(LoraTargets::ALL));
        let error = "q_proj,head".parse::<LoraTargets>().unwrap_err();
        assert!(error.contains("\"head\"") && error.contains("down_proj"), "{error}");
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let check = |config: LoraConfig| config.check().unwrap_err().to_string();
        assert!(LoraConfig::default().check().is_ok());
        assert!(check(LoraConfig { rank: 0, ..LoraConfig::default() }).contains("rank is 0"));
        assert!(check(LoraConfig { rank: 257, ..LoraConfig::default() }).contains("1 to 256"));
        assert!(check(LoraConfig { alpha: 0, ..LoraConfig::default() }).contains("alpha is 0"));
        let targets = LoraTargets::NONE;
        assert!(check(LoraConfig { targets, ..LoraConfig::default() }).contains("no target"));
    }
}
