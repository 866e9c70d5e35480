//! What a block tells about itself: the events of its calls and of the chain's own steps.

use grail_protocol::ids::Hotkey;

use super::call::DispatchInfo;
use super::refusal::Refusal;

/// An event by the names that the metadata gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The pallet.
    pub pallet: &'static str,
    /// The event's variant.
    pub name: &'static str,
    /// Its fields in the order of the metadata.
    pub fields: Vec<Field>,
}

/// A field of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// An integer of any width.
    Number(u64),
    /// A truth value.
    Flag(bool),
    /// An account.
    Account(Hotkey),
    /// Bytes.
    Bytes(Vec<u8>),
    /// How a call made as the network's owner ended.
    Outcome(Result<(), Refusal>),
    /// Why an extrinsic failed.
    Error(Refusal),
    /// What an extrinsic weighed.
    Info(DispatchInfo),
}

/// An event and where in the block it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Index of the extrinsic in the block, or `None` for the chain's own steps before them.
    pub extrinsic: Option<u32>,
    /// The event.
    pub event: Event,
}

impl Event {
    /// Returns the event `name` of `pallet`.
    pub(super) fn new(
        pallet: &'static str,
        name: &'static str,
        fields: impl IntoIterator<Item = Field>,
    ) -> Self {
        Self { pallet, name, fields: fields.into_iter().collect() }
    }
}

impl From<u64> for Field {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u16> for Field {
    fn from(number: u16) -> Self {
        Self::Number(u64::from(number))
    }
}

impl From<bool> for Field {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<Hotkey> for Field {
    fn from(account: Hotkey) -> Self {
        Self::Account(account)
    }
}
