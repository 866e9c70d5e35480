//! One module a command: from its options to what it prints.

pub mod bench;
pub mod doctor;
pub mod explain;
pub mod generate;
mod guest;
pub mod lab;
pub mod localnet;
pub mod model;
mod reference_file;
mod remote;
pub mod role;
pub mod serve;
pub mod sft;
mod status_page;
pub mod verify;
pub mod wallet;
