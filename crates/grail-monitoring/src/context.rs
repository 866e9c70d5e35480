//! Who acts: what every metric and every log line of a role carries.

use grail_protocol::ids::{Netuid, Uid, Window};
use tracing::{Span, info_span};

/// A role on a subnet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleContext {
    /// Name of the role, such as `miner`; `miner-2` where one process runs several.
    pub role: String,
    /// Name of the network, such as `local`.
    pub network: String,
    /// The subnet.
    pub netuid: Netuid,
    /// The role's uid; `None` for what all roles of a process share.
    pub uid: Option<Uid>,
}

impl RoleContext {
    /// Returns the span that the role's work runs in; its lines carry role, uid and netuid.
    pub fn span(&self) -> Span {
        let Self { role, network: _, netuid, uid } = self;
        info_span!("role", %role, uid = uid.map(tracing::field::display), %netuid)
    }
}

/// Returns the span that the work on a window runs in, inside a role's.
pub fn window_span(window: Window) -> Span {
    info_span!("window", %window)
}
