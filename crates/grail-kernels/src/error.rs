//! What can go wrong in kernels that is not a programmer's mistake.

use crate::Isa;

/// Why kernels could not be set up, or an input has no defined result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The name of an instruction set is not one of ours.
    #[error("unknown instruction set {name:?}; use one of portable, avx2, avx512, neon")]
    UnknownIsa {
        /// The name, cut to 32 characters.
        name: String,
    },
    /// This CPU lacks the instruction set.
    #[error("this CPU cannot run {isa} kernels; it has: {available}")]
    UnavailableIsa {
        /// The set asked for.
        isa: Isa,
        /// The names of those the CPU has.
        available: String,
    },
    /// A thread count outside the range.
    #[error("{threads} threads asked for; use 1 to {max}")]
    ThreadCount {
        /// The count asked for.
        threads: usize,
        /// The largest count allowed.
        max: usize,
    },
    /// The operating system refused a thread.
    #[error("could not start a kernel thread; use fewer threads or raise the process limit")]
    SpawnThread {
        /// What the system said.
        source: std::io::Error,
    },
    /// A row of logits holds NaN, so nothing can be said about its largest value.
    #[error("row {row} of the logits holds NaN; the weights or the input are broken")]
    NanLogits {
        /// 0-based row.
        row: usize,
    },
    /// A row of logits has no softmax: NaN, +infinity, or nothing above -infinity.
    #[error("row {row} of the logits has no softmax; the weights or the input are broken")]
    NoSoftmax {
        /// 0-based row.
        row: usize,
    },
}
