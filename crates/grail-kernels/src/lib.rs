//! Bit-exact CPU kernels: the numeric contract `exact-1`.
//!
//! Whoever computes with the same weights and tokens gets the same bits, whatever the batch, the
//! number of threads, the instruction set, and whether a sequence is decoded token by token or
//! scored at once. Three ideas make that cheap:
//!
//! * every kernel is one generic function over a vector of sixteen lanes (`simd`), compiled for each
//!   instruction set and chosen at run time, so there is one order of operations to read;
//! * vectors, tiles and threads split *outputs*, never the sum behind one output;
//! * elementary functions are the crate's own ([`math`]).
//!
//! [`Kernels`] is the handle that all kernels are methods of. Buffers are flat, row-major f32.
//! Shapes are asserted: a wrong one is a programmer's error.

mod attention;
mod elementwise;
mod error;
mod gate;
mod gemm;
mod head;
mod isa;
mod kernels;
mod machine;
pub mod mapped;
pub mod math;
mod memory;
mod norm;
mod optimizer;
mod packed;
mod pool;
mod reduce;
mod rope;
mod simd;

pub use attention::{
    AttentionOptions, AttentionRow, AttentionSaved, AttentionShape, BLOCK, KvLayout,
};
pub use error::KernelError;
pub use gate::GateFunction;
pub use gemm::{GatedOutput, Init, LinearOutput, MatRef, Projection};
pub use head::{
    EntropyTerm, HeadOptions, HeadQuery, HeadRow, HeadToken, Pick, RaceKey, RaceOutcome,
    SOFTMAX_BLOCK, SoftmaxStats, race_exponential, race_score,
};
pub use isa::Isa;
pub use kernels::Kernels;
pub use memory::{Buffer, Plain};
pub use optimizer::{AdamW, TrainingState, WeightCopy};
pub use packed::PackedMatrix;
pub use rope::{Direction, RopeTable};
