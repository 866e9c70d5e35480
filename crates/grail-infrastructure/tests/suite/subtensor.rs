//! The subtensor client against scripted nodes, over memory and over sockets.

mod adapter;
mod chain;
mod faults;
mod metagraph;
mod node;
mod refusals;
mod rpc;
mod rules;
mod submissions;
