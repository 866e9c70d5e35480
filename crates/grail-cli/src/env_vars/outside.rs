//! Variables of what lies outside: network, wallet, beacon and store.

use super::Variable;
use super::values::{set, set_choice, set_list, set_path, set_some, show_choice, show_path};

/// In the order of the configuration.
pub(super) const VARIABLES: &[Variable] = &[
    Variable {
        name: "GRAIL_NETWORK_NAME",
        key: "network.name",
        meaning: "network to join: `local` is one that `grail localnet` runs here; `finney`, `test`, or a \
                  name of your own with `network.endpoints`; the address of a node (`wss://…`) is \
                  short for `custom` with that endpoint. All nodes of a subnet must use one name",
        set: |config, text| set(&mut config.network.name, text),
        show: |config| config.network.name.clone(),
    },
    Variable {
        name: "GRAIL_NETWORK_DIR",
        key: "network.dir",
        meaning: "folder of the local network; without it the numbered runs in `./grail-localnet`. On a real \
                  network, where the role keeps its state; without it `grail/NETWORK-NETUID` in the \
                  user's folder of data",
        set: |config, text| set_path(&mut config.network.dir, text),
        show: |config| show_path(config.network.dir.as_ref()),
    },
    Variable {
        name: "GRAIL_NETWORK_ENDPOINTS",
        key: "network.endpoints",
        meaning: "nodes of the chain instead of the network's usual ones, in the order in which they \
                  are tried, with commas between them; shown without path and query",
        set: |config, text| set_list(&mut config.network.endpoints, text),
        show: |config| config.network.endpoints.join(","),
    },
    Variable {
        name: "GRAIL_NETWORK_ARCHIVE_ENDPOINTS",
        key: "network.archive_endpoints",
        meaning: "nodes that keep every state, asked for what others have dropped",
        set: |config, text| set_list(&mut config.network.archive_endpoints, text),
        show: |config| config.network.archive_endpoints.join(","),
    },
    Variable {
        name: "GRAIL_NETWORK_NETUID",
        key: "network.netuid",
        meaning: "subnet; without it 81 on `finney`, and no role starts on other real networks",
        set: |config, text| set_some(&mut config.network.netuid, text),
        show: |config| config.network.netuid.map(|netuid| netuid.to_string()).unwrap_or_default(),
    },
    Variable {
        name: "GRAIL_NETWORK_HEADS",
        key: "network.heads",
        meaning: "how the newest block is known: `poll` asks, `subscribe` lets the node tell, and asks \
                  where it does not",
        set: |config, text| set_choice(&mut config.network.heads, text),
        show: |config| show_choice(&config.network.heads),
    },
    Variable {
        name: "GRAIL_NETWORK_CONNECT_TIMEOUT",
        key: "network.connect_timeout",
        meaning: "longest time until a connection to a node stands, 1s to 10m",
        set: |config, text| set(&mut config.network.connect_timeout, text),
        show: |config| config.network.connect_timeout.to_string(),
    },
    Variable {
        name: "GRAIL_NETWORK_CALL_TIMEOUT",
        key: "network.call_timeout",
        meaning: "longest time of a call to the chain, 1s to 10m; whole subnets and metadata get at \
                  least a minute",
        set: |config, text| set(&mut config.network.call_timeout, text),
        show: |config| config.network.call_timeout.to_string(),
    },
    Variable {
        name: "GRAIL_WALLET_PATH",
        key: "wallet.path",
        meaning: "folder of wallets; without it that of the local network, and on other networks \
                  `~/.bittensor/wallets`",
        set: |config, text| set_path(&mut config.wallet.path, text),
        show: |config| show_path(config.wallet.path.as_ref()),
    },
    Variable {
        name: "GRAIL_WALLET_NAME",
        key: "wallet.name",
        meaning: "wallet to act with; without it `default`, and on a local network `miner`, \
                  `validator` or `trainer`, as the role",
        set: |config, text| set_some(&mut config.wallet.name, text),
        show: |config| config.wallet.name.clone().unwrap_or_default(),
    },
    Variable {
        name: "GRAIL_WALLET_HOTKEY",
        key: "wallet.hotkey",
        meaning: "hotkey of the wallet to act with",
        set: |config, text| set(&mut config.wallet.hotkey, text),
        show: |config| config.wallet.hotkey.clone(),
    },
    Variable {
        name: "GRAIL_WALLET_PASSWORD_FILE",
        key: "wallet.password_file",
        meaning: "file whose first line is the password of encrypted keys; the password itself is no \
                  setting",
        set: |config, text| set_path(&mut config.wallet.password_file, text),
        show: |config| show_path(config.wallet.password_file.as_ref()),
    },
    Variable {
        name: "GRAIL_BEACON_CHAIN",
        key: "beacon.chain",
        meaning: "chain of drand on real networks: `quicknet`, or the hash of another one of its kind; \
                  `default` can be asked for rounds, yet nothing can be sealed to it, so no role uses it",
        set: |config, text| set(&mut config.beacon.chain, text),
        show: |config| config.beacon.chain.to_string(),
    },
    Variable {
        name: "GRAIL_BEACON_RELAYS",
        key: "beacon.relays",
        meaning: "relays in the order in which they are asked, with commas between them, at most 16; \
                  empty means drand's public ones",
        set: |config, text| set_list(&mut config.beacon.relays, text),
        show: |config| config.beacon.relays.join(","),
    },
    Variable {
        name: "GRAIL_BEACON_DEADLINE",
        key: "beacon.deadline",
        meaning: "longest time for one round, all relays together, 1s to 10m",
        set: |config, text| set(&mut config.beacon.deadline, text),
        show: |config| config.beacon.deadline.to_string(),
    },
    Variable {
        name: "GRAIL_BEACON_HEDGE_AFTER",
        key: "beacon.hedge_after",
        meaning: "wait for one relay before the next one is asked as well",
        set: |config, text| set(&mut config.beacon.hedge_after, text),
        show: |config| config.beacon.hedge_after.to_string(),
    },
    Variable {
        name: "GRAIL_BEACON_CACHE_ROUNDS",
        key: "beacon.cache_rounds",
        meaning: "rounds that are remembered, 1 to 65536",
        set: |config, text| set(&mut config.beacon.cache_rounds, text),
        show: |config| config.beacon.cache_rounds.to_string(),
    },
    Variable {
        name: "GRAIL_STORE_KIND",
        key: "store.kind",
        meaning: "what keeps the buckets: `folder`, that of a local network, or `s3`",
        set: |config, text| set_choice(&mut config.store.kind, text),
        show: |config| show_choice(&config.store.kind),
    },
    Variable {
        name: "GRAIL_STORE_ENDPOINT",
        key: "store.endpoint",
        meaning: "address of the S3 server, `{account}` standing for the account id; without it \
                  Cloudflare R2's. Peers' buckets are looked for there too",
        set: |config, text| set_some(&mut config.store.endpoint, text),
        show: |config| config.store.endpoint.clone().unwrap_or_default(),
    },
    Variable {
        name: "GRAIL_STORE_REGION",
        key: "store.region",
        meaning: "region that requests are signed for; R2 takes `auto` and `us-east-1`",
        set: |config, text| set(&mut config.store.region, text),
        show: |config| config.store.region.clone(),
    },
    Variable {
        name: "GRAIL_STORE_BUCKET",
        key: "store.bucket",
        meaning: "name of our bucket; without it `R2_BUCKET_ID`, else the account id. On a local \
                  network what the names of its buckets begin with; without it `grail` and digits",
        set: |config, text| set_some(&mut config.store.bucket, text),
        show: |config| config.store.bucket.clone().unwrap_or_default(),
    },
    Variable {
        name: "GRAIL_STORE_ADDRESSING",
        key: "store.addressing",
        meaning: "where a bucket's name stands: `path` (`https://HOST/BUCKET/KEY`) or `virtual-host` \
                  (`https://BUCKET.HOST/KEY`)",
        set: |config, text| set_choice(&mut config.store.addressing, text),
        show: |config| show_choice(&config.store.addressing),
    },
    Variable {
        name: "GRAIL_STORE_ALLOW_HTTP",
        key: "store.allow_http",
        meaning: "whether the endpoint may be `http://`: `true` or `false`; for a server on this machine",
        set: |config, text| set(&mut config.store.allow_http, text),
        show: |config| config.store.allow_http.to_string(),
    },
    Variable {
        name: "GRAIL_STORE_KEYS_DIR",
        key: "store.keys_dir",
        meaning: "folder with files that are named after the variables of the keys, such as \
                  `R2_WRITE_ACCESS_KEY_ID`, for those that are not set; keys are no settings",
        set: |config, text| set_path(&mut config.store.keys_dir, text),
        show: |config| show_path(config.store.keys_dir.as_ref()),
    },
    Variable {
        name: "GRAIL_STORE_BANDWIDTH_BYTES_PER_S",
        key: "store.bandwidth_bytes_per_s",
        meaning: "most bytes a second to and from the S3 server, each; 0 is no limit",
        set: |config, text| set(&mut config.store.bandwidth_bytes_per_s, text),
        show: |config| config.store.bandwidth_bytes_per_s.to_string(),
    },
    Variable {
        name: "GRAIL_STORE_DEADLINE",
        key: "store.deadline",
        meaning: "longest time of an operation on the S3 server, 1s to 10m, and a second more for each \
                  512 KiB",
        set: |config, text| set(&mut config.store.deadline, text),
        show: |config| config.store.deadline.to_string(),
    },
];
