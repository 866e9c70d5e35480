//! Serves a fresh local chain on a free port of this machine, for other software to connect to.
//!
//! ```text
//! cargo run -p grail-infrastructure --example local_chain -- FOLDER HOTKEY=STAKE ...
//! ```
//!
//! It prints one line of JSON with what a client must know, makes a block each 250 ms, and ends
//! when its input ends. `//Alice` of the well-known phrase has money and rules it. It is a development
//! chain: nothing on it has a value.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use grail_infrastructure::local::chain::rules::ChainRules;
use grail_infrastructure::local::chain::{DatabaseFault, LocalChain};
use grail_infrastructure::local::rpc::{Node, Runtime};
use grail_protocol::ids::Hotkey;
use tokio_util::sync::CancellationToken;

/// Time of block 0, milliseconds since the Unix epoch.
const GENESIS_MS: u64 = 1_700_000_000_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("give a folder, and hotkeys of neurons with their stake")?;
    let neurons = args
        .map(|arg| {
            let (hotkey, stake) = arg.split_once('=').ok_or("give neurons as HOTKEY=STAKE")?;
            Ok((hotkey.parse::<Hotkey>()?, stake.parse::<u64>()?))
        })
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let rules = ChainRules {
        block_time_ms: 250,
        tempo: 20,
        weights_rate_limit: 0,
        finality_lag: 2,
        sudo: Some(grail_infrastructure::local::chain::rules::ALICE),
        ..ChainRules::local(GENESIS_MS)
    };
    let chain = open(&Path::new(&folder).join("chain.redb"), rules, &neurons)?;
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
        Err(grail_infrastructure::local::chain::LocalChainError::Database(
            DatabaseFault::Missing(_),
        )) => Ok(LocalChain::create(path, rules, &[7; 32], neurons)?),
        opened => Ok(opened?),
    }
}
