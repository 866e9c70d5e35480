//! The server on loopback, with an engine that does what a test says and with the real one.

mod answers;
mod harness;
mod hostile;
mod load;
mod real;
mod refusals;
