//! The subtensor client against scripted nodes, over memory and over sockets.

mod adapter;
mod chain;
mod faults;
mod node;
mod rpc;
mod rules;
