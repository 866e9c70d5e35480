//! Drives our own client against a node, for scripts that compare it with other clients.
//!
//! ```text
//! cargo run -p grail-infrastructure --example chain_peer -- ENDPOINT NETUID SECRET_URI COMMAND
//! ```
//!
//! Commands: `read`, `commit HEX`, and `weights UID=WEIGHT ...`, which ends when the chain counts the
//! weights or has lost them. Each prints one line of JSON.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use grail_infrastructure::substrate::{Metadata, Value};
use grail_infrastructure::subtensor::network::Network;
use grail_infrastructure::subtensor::rpc::{Repeat, RpcClient, RpcConfig};
use grail_infrastructure::subtensor::{Subtensor, SubtensorConfig, storage_index};
use grail_infrastructure::wallet::{Key, Scheme};
use grail_ports::chain::{Chain as _, WeightSubmission, WeightsStatus};
use grail_protocol::ids::{Netuid, Uid};
use serde_json::{Value as Json, json};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Longest that an epoch and its beacon are waited for.
const LANDING_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, netuid, uri, command, rest @ ..] = args.as_slice() else {
        return Err("give an endpoint, a netuid, a secret URI and a command".into());
    };
    let network = Network::parse(endpoint)?;
    let netuid: u16 = netuid.parse()?;
    let key = Key::from_secret_uri(Scheme::Sr25519, uri)?;
    let config = SubtensorConfig::new(network.clone(), Netuid(netuid));
    let chain = Subtensor::connect(config, Arc::new(key)).await?;
    let answer = match command.as_str() {
        "read" => read(&chain, network, netuid).await?,
        "commit" => {
            chain.set_commitment(&hex::decode(rest.first().ok_or("give bytes in hex")?)?).await?;
            json!({"committed": true})
        }
        "weights" => weights(&chain, rest).await?,
        other => return Err(format!("there is no command `{other}`").into()),
    };
    chain.close().await;
    writeln!(std::io::stdout(), "{answer}")?;
    Ok(())
}

async fn read(chain: &Subtensor, network: Network, netuid: u16) -> Outcome<Json> {
    let head = chain.head().await?;
    let metagraph = chain.metagraph().await?;
    let commitments = chain.commitments().await?;
    let hyperparameters = chain.hyperparameters().await?;
    Ok(json!({
        "head": head.number,
        "hash": format!("0x{}", head.hash),
        "finalised": chain.finalized().await?,
        "block_time_ms": chain.block_time_ms(),
        "neurons": metagraph.neurons,
        "hyperparameters": hyperparameters,
        "commitments": commitments
            .iter()
            .map(|(hotkey, data)| (hotkey.to_string(), hex::encode(data)))
            .collect::<BTreeMap<_, _>>(),
        "weights": rows(network, netuid).await?,
    }))
}

/// Reads every row of weights as the chain stores it.
async fn rows(network: Network, netuid: u16) -> Outcome<BTreeMap<u16, Vec<(u16, u16)>>> {
    let rpc = RpcClient::connect(RpcConfig::new(network.endpoints));
    let call =
        async |method: &'static str, params: Json| rpc.call(method, params, Repeat::Allowed).await;
    let answer = call("state_call", json!(["Metadata_metadata_at_version", "0x0f000000"])).await?;
    let metadata = Metadata::parse_at_version(&bytes(&answer)?)?.ok_or("no metadata")?;
    let item = metadata.storage("SubtensorModule", "Weights")?;
    let prefix = format!("0x{}", hex::encode(item.key(&[storage_index(netuid, 0).into()])?));
    let keys = call("state_getKeysPaged", json!([prefix, 1000])).await?;
    let mut rows = BTreeMap::new();
    for key in keys.as_array().into_iter().flatten() {
        let uid = item.read_key(&bytes(key)?)?.last().ok_or("a key without uid")?.as_uint()?;
        let value = bytes(&call("state_getStorage", json!([key])).await?)?;
        let row = item.decode(Some(&value))?.ok_or("no row")?;
        let pair = |pair: &Value| -> Outcome<(u16, u16)> {
            Ok((pair.item(0)?.as_uint()?, pair.item(1)?.as_uint()?))
        };
        let row = row.as_list()?.iter().map(pair).collect::<Outcome<_>>()?;
        rows.insert(uid, row);
    }
    rpc.close().await;
    Ok(rows)
}

async fn weights(chain: &Subtensor, weights: &[String]) -> Outcome<Json> {
    let weights = weights
        .iter()
        .map(|weight| {
            let (uid, weight) = weight.split_once('=').ok_or("give weights as UID=WEIGHT")?;
            Ok((Uid(uid.parse()?), weight.parse()?))
        })
        .collect::<Outcome<Vec<(Uid, f64)>>>()?;
    let block = chain.set_weights(&WeightSubmission { weights, version_key: 0 }).await?;
    let mut seen = Vec::new();
    let landing = async {
        loop {
            let status = chain.weights_status().await?;
            let ends = matches!(status, WeightsStatus::Landed | WeightsStatus::Lost { .. });
            let status = format!("{status:?}");
            if seen.last() != Some(&status) {
                seen.push(status);
            }
            if ends {
                return Outcome::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::time::timeout(LANDING_TIMEOUT, landing).await.map_err(|_| "no end to the weights")??;
    Ok(json!({"block": block, "statuses": seen}))
}

fn bytes(json: &Json) -> Outcome<Vec<u8>> {
    let text = json.as_str().and_then(|text| text.strip_prefix("0x")).ok_or("no bytes in hex")?;
    Ok(hex::decode(text)?)
}
