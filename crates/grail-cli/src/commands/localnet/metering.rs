//! Lets the adapters of a network's roles tell of their calls.

use std::sync::Arc;

use grail_infrastructure::clock::Clock;
use grail_infrastructure::local::network::{NetworkFile, Node};
use grail_infrastructure::metered::{Meter, Metered};
use grail_monitoring::{Metrics, RoleContext};

/// Name under which what all roles of this process share is measured.
const PROCESS: &str = "localnet";

/// Returns who measures what all roles share: the line to the chain.
pub fn of_process(file: &NetworkFile) -> RoleContext {
    let (network, netuid) = (file.name.clone(), file.netuid);
    RoleContext { role: PROCESS.to_owned(), network, netuid, uid: None }
}

/// Returns who measures what a role does.
pub fn of_role(node: &Node) -> RoleContext {
    let (role, uid) = (node.entry.name.clone(), Some(node.entry.uid));
    RoleContext { role, uid, network: node.chain.network().to_owned(), netuid: node.chain.netuid() }
}

/// Returns the node with ports that tell `metrics` of their calls. `clock` is the network's.
pub fn metered(node: Node, metrics: &Metrics, clock: Clock) -> Node {
    let meter = Meter::new(metrics.observer(of_role(&node)), clock);
    Node {
        chain: Arc::new(Metered::new(node.chain, meter.clone())),
        beacon: Arc::new(Metered::new(node.beacon, meter.clone())),
        buckets: Arc::new(Metered::new(node.buckets, meter)),
        ..node
    }
}
