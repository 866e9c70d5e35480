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
use grail_infrastructure::subtensor::{SealBeacon, Subtensor, SubtensorConfig, storage_index};
use grail_infrastructure::wallet::{Key, Scheme};
use grail_ports::chain::{Chain as _, WeightSubmission, WeightsStatus};
use grail_protocol::ids::{Netuid, Uid};
use grail_protocol::randomness::BeaconSchedule;
use grail_protocol::timelock::BeaconPublicKey;
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
    let storage = Storage::open(network.clone()).await?;
    let beacon = storage.beacon().await?;
    let config = SubtensorConfig { beacon, ..SubtensorConfig::new(network, Netuid(netuid)) };
    let chain = Subtensor::connect(config, Arc::new(key)).await?;
    let answer = match command.as_str() {
        "read" => read(&chain, &storage, netuid).await?,
        "commit" => {
            chain.set_commitment(&hex::decode(rest.first().ok_or("give bytes in hex")?)?).await?;
            json!({"committed": true})
        }
        "weights" => weights(&chain, rest).await?,
        other => return Err(format!("there is no command `{other}`").into()),
    };
    chain.close().await;
    storage.rpc.close().await;
    writeln!(std::io::stdout(), "{answer}")?;
    Ok(())
}

async fn read(chain: &Subtensor, storage: &Storage, netuid: u16) -> Outcome<Json> {
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
        "weights": storage.rows(netuid).await?,
    }))
}

/// A node asked without the port: for what the port does not tell.
struct Storage {
    rpc: RpcClient,
    metadata: Metadata,
}

impl Storage {
    async fn open(network: Network) -> Outcome<Self> {
        let rpc = RpcClient::connect(RpcConfig::new(network.endpoints));
        let params = json!(["Metadata_metadata_at_version", "0x0f000000"]);
        let answer = rpc.call("state_call", params, Repeat::Allowed).await?;
        let metadata = Metadata::parse_at_version(&bytes(&answer)?)?.ok_or("no metadata")?;
        Ok(Self { rpc, metadata })
    }

    async fn call(&self, method: &'static str, params: Json) -> Outcome<Json> {
        Ok(self.rpc.call(method, params, Repeat::Allowed).await?)
    }

    /// Reads the beacon that opens seals on this chain.
    async fn beacon(&self) -> Outcome<SealBeacon> {
        let item = self.metadata.storage("Drand", "BeaconConfig")?;
        let key = format!("0x{}", hex::encode(item.key(&[])?));
        let stored = self.call("state_getStorage", json!([key])).await?;
        let stored = if stored.is_null() { None } else { Some(bytes(&stored)?) };
        let beacon = item.decode(stored.as_deref())?.ok_or("no beacon")?;
        let key = beacon.field("public_key")?.as_bytes()?.try_into()?;
        let ms = |name: &str| Outcome::Ok(beacon.field(name)?.as_uint::<u64>()? * 1000);
        let schedule = BeaconSchedule { genesis_ms: ms("genesis_time")?, period_ms: ms("period")? };
        Ok(SealBeacon { key: BeaconPublicKey(key), schedule })
    }

    /// Reads every row of weights as the chain stores it.
    async fn rows(&self, netuid: u16) -> Outcome<BTreeMap<u16, Vec<(u16, u16)>>> {
        let item = self.metadata.storage("SubtensorModule", "Weights")?;
        let prefix = format!("0x{}", hex::encode(item.key(&[storage_index(netuid, 0).into()])?));
        let keys = self.call("state_getKeysPaged", json!([prefix, 1000])).await?;
        let mut rows = BTreeMap::new();
        for key in keys.as_array().into_iter().flatten() {
            let uid = item.read_key(&bytes(key)?)?.last().ok_or("a key without uid")?.as_uint()?;
            let value = bytes(&self.call("state_getStorage", json!([key])).await?)?;
            let row = item.decode(Some(&value))?.ok_or("no row")?;
            let pair = |pair: &Value| -> Outcome<(u16, u16)> {
                Ok((pair.item(0)?.as_uint()?, pair.item(1)?.as_uint()?))
            };
            let row = row.as_list()?.iter().map(pair).collect::<Outcome<_>>()?;
            rows.insert(uid, row);
        }
        Ok(rows)
    }
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
