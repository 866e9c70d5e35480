//! Serves a fresh local chain on a free port of this machine, for other software to connect to.
//!
//! ```text
//! cargo run -p grail-infrastructure --example local_chain -- [--own-beacon] FOLDER HOTKEY=STAKE ...
//! ```
//!
//! It prints one line of JSON with what a client must know, makes a block each 250 ms, and ends
//! when its input ends. Timelocks are opened by rounds of drand's quicknet, which its owner stores,
//! or with `--own-beacon` by a beacon that comes with it. `//Alice` of the well-known phrase has money and rules it. It is a development
//! chain: nothing on it has a value.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use grail_infrastructure::local::beacon::LocalBeacon;
use grail_infrastructure::local::chain::rules::{ALICE, ChainRules};
use grail_infrastructure::local::chain::{DatabaseFault, LocalChain, LocalChainError, Pulses};
use grail_infrastructure::local::rpc::{Node, Runtime};
use grail_ports::beacon::Beacon as _;
use grail_protocol::ids::Hotkey;
use grail_protocol::randomness::BeaconSchedule;
use tokio_util::sync::CancellationToken;

/// Time of block 0, milliseconds since the Unix epoch.
const GENESIS_MS: u64 = 1_700_000_000_000;

/// What the chain's hashes and its beacon's key follow from.
const SEED: [u8; 32] = [7; 32];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).peekable();
    let own_beacon = args.next_if(|arg| arg == "--own-beacon").is_some();
    let folder = args.next().ok_or("give a folder, and hotkeys of neurons with their stake")?;
    let neurons = args
        .map(|arg| {
            let (hotkey, stake) = arg.split_once('=').ok_or("give neurons as HOTKEY=STAKE")?;
            Ok((hotkey.parse::<Hotkey>()?, stake.parse::<u64>()?))
        })
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let schedule = BeaconSchedule { genesis_ms: GENESIS_MS, period_ms: 1_000 };
    let key = LocalBeacon::from_seed(&SEED, schedule, Arc::new(|| 0))?.public_key();
    let rules = ChainRules {
        block_time_ms: 250,
        tempo: 20,
        weights_rate_limit: 0,
        finality_lag: 2,
        sudo: Some(ALICE),
        beacon_key: own_beacon.then_some(key),
        beacon_times: own_beacon.then(|| schedule.into()),
        ..ChainRules::local(GENESIS_MS)
    };
    let chain = open(&Path::new(&folder).join("chain.redb"), rules, &neurons)?;
    let beacon: Arc<dyn Pulses> = Arc::new(LocalBeacon::from_seed(&SEED, schedule, chain.clock())?);
    if own_beacon {
        chain.follow(&beacon);
    }
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let endpoint = format!("ws://{}", listener.local_addr()?);
    let node = Node::new(Arc::clone(&chain), Runtime::current());
    let stop = CancellationToken::new();
    let blocks = tokio::spawn(Arc::clone(&chain).run(stop.clone()));
    let serving = tokio::spawn(axum::serve(listener, node.routes()).into_future());
    let netuid = chain.rules().netuid.0;
    let facts = serde_json::json!({"endpoint": endpoint, "netuid": netuid, "development": true});
    writeln!(std::io::stdout(), "{facts}")?;
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await??;
    stop.cancel();
    serving.abort();
    Ok(blocks.await??)
}

fn open(
    path: &Path,
    rules: ChainRules,
    neurons: &[(Hotkey, u64)],
) -> Result<Arc<LocalChain>, Box<dyn Error>> {
    match LocalChain::open(path) {
        Err(LocalChainError::Database(DatabaseFault::Missing(_))) => {
            Ok(LocalChain::create(path, rules, &SEED, neurons)?)
        }
        opened => Ok(opened?),
    }
}
