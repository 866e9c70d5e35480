//! What runs the code of answers: outside this crate, which only judges what comes back.

use std::sync::Arc;

/// Runs tests of Python code.
pub trait RunTests: Send + Sync {
    /// Runs each test after `code` in a fresh namespace and returns which passed, in order.
    ///
    /// # Errors
    /// Says why the tests could not be run, which is never the code's doing.
    fn run(&self, code: &str, tests: &[String]) -> Result<Vec<bool>, String>;
}

/// What a kernel turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelVerdict {
    /// Its outputs are the reference model's.
    Correct,
    /// They are not, or it does not run.
    Incorrect,
    /// The harness failed; the reference counts it as incorrect and flags it.
    HarnessFailed,
}

/// Runs Triton kernels on a GPU.
pub trait CheckKernel: Send + Sync {
    /// Runs `test_code`, which defines the model and the checker, against the candidate `code`.
    fn check(&self, test_code: &str, code: &str) -> KernelVerdict;
}

/// What is there to run code.
#[derive(Clone, Default)]
pub struct Backends {
    /// Runs tests of Python code.
    pub tests: Option<Arc<dyn RunTests>>,
    /// Runs kernels.
    pub kernels: Option<Arc<dyn CheckKernel>>,
    /// Whether kernels are run where the parameters do not say (`GRAIL_GPU_EVAL` of the reference).
    pub gpu_eval: bool,
}

impl Backends {
    /// Returns nothing: code is judged by its form only.
    pub fn none() -> Self {
        Self::default()
    }
}
