//! The engine and the trainer on tiny models: PyTorch's numbers, equal bits, hostile requests.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![expect(clippy::print_stderr, reason = "a test that did not run says so")]

mod bits;
mod generation;
mod golden;
mod lora;
mod models;
mod perturb;
mod provider;
mod real;
mod runtime;
mod service;
mod training;
