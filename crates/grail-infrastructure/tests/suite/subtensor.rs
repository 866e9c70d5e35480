//! The subtensor client against scripted nodes, over memory and over sockets.

mod node;
mod rpc;
