//! Making, opening, joining and damaging a network's folder.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{GENESIS_MS, ONCE, Served, config, copy_folder, loopback, message};
use grail_infrastructure::local::chain::{ADVANCE_BLOCKS_MAX, LocalChain, LocalChainError};
use grail_infrastructure::local::client::{Http, create_bucket};
use grail_infrastructure::local::network::{
    LocalNetwork, NetworkConfig, NetworkError, NetworkFile, NetworkRole, NeuronConfig,
    RemoteNetwork, connect,
};
use grail_infrastructure::local::store::credentials::BucketKeys;
use grail_infrastructure::wallet::Wallet;
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockNumber, Uid};
use tokio_util::sync::CancellationToken;

#[test]
fn a_seed_makes_the_same_network_again() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, seed| {
        let config = NetworkConfig { seed, ..config() };
        let network = LocalNetwork::create(&folder.path().join(name), &config).unwrap();
        network.chain().advance(40).unwrap();
        (network.file(), network.chain().head())
    };
    let first = make("one", Some([7; 32]));
    assert_eq!(make("two", Some([7; 32])), first);
    let other = make("three", Some([8; 32]));
    assert_ne!(other.0.genesis, first.0.genesis);
    assert_ne!(other.0.beacon, first.0.beacon);
    assert_ne!(other.1.hash, first.1.hash);
    assert_ne!(make("four", None).0.neurons, make("five", None).0.neurons);
    assert_eq!(first.0.neurons[1].role, NetworkRole::Validator);
    assert_eq!(first.0.neurons[1].uid, Uid(1));
}

#[test]
fn an_opened_network_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("net");
    let network = LocalNetwork::create(&dir, &config()).unwrap();
    let head = network.chain().advance(17).unwrap();
    let locked = message(LocalNetwork::open(&dir));
    assert!(locked.contains("in use by another process"), "{locked}");
    drop(network);
    let network = LocalNetwork::open(&dir).unwrap();
    assert_eq!(network.chain().head(), head, "no jump to the present");
    assert_eq!((network.clock())(), GENESIS_MS + 17_000);
}

#[test]
fn a_network_is_made_in_an_empty_folder_only() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("net");
    fs::create_dir(&dir).unwrap();
    drop(LocalNetwork::create(&dir, &config()).unwrap());
    let again = LocalNetwork::create(&dir, &config());
    assert!(matches!(again, Err(NetworkError::NotEmpty(_))));
    let foreign = folder.path().join("foreign");
    fs::create_dir_all(foreign.join("wallets")).unwrap();
    assert!(matches!(LocalNetwork::create(&foreign, &config()), Err(NetworkError::NotEmpty(_))));
    assert!(foreign.join("wallets").is_dir(), "nothing of anybody's is removed");
    let none = LocalNetwork::open(&foreign);
    assert!(message(none).contains("grail localnet"));
    assert!(!foreign.join("network.lock").exists());
    let damages: [fn(&mut NetworkConfig); 5] = [
        |config| config.rules.block_time_ms = 0,
        |config| config.beacon_period_ms = 0,
        |config| config.rules.tempo = 0,
        |config| config.neurons[0].name = "../up".into(),
        |config| config.neurons[0].name = "validator".into(),
    ];
    for damage in damages {
        let mut config = config();
        damage(&mut config);
        let refused = LocalNetwork::create(&folder.path().join("bad"), &config);
        assert!(matches!(refused, Err(NetworkError::Config(_))));
    }
}

#[test]
fn a_damaged_network_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("net");
    drop(LocalNetwork::create(&dir, &config()).unwrap());
    let path = dir.join("network.json");
    let good = fs::read_to_string(&path).unwrap();
    for (bad, word) in [
        (String::new(), "damaged"),
        (good[..good.len() / 2].to_owned(), "damaged"),
        ("[]".into(), "damaged"),
        ("\u{0}".repeat(100), "damaged"),
        (good.replace("\"version\": 1", "\"version\": 2"), "version 2"),
        (good.replace("\"version\": 1", "\"version\": 1, \"extra\": 0"), "extra"),
        (good.replace("\"endpoint\": null", "\"endpoint\": \"ftp://x\""), "endpoint"),
        (good.replace("\"block_time_ms\": 1000", "\"block_time_ms\": 0"), "block_time_ms"),
        (good.replace("\"period_ms\": 500", "\"period_ms\": 400"), "beacon"),
        (good.replace("\"name\": \"miner-2\"", "\"name\": \"miner-1\""), "two neurons"),
        (good.replace("\"uid\": 3", "\"uid\": 2"), "miner-2"),
        (good.replace("\"name\": \"miner-2\"", "\"name\": \"../x\""), "plain name"),
        (format!("{good}{}", " ".repeat(1 << 20)), "bytes"),
    ] {
        assert_ne!(bad, good);
        fs::write(&path, &bad).unwrap();
        let told = message(LocalNetwork::open(&dir));
        assert!(told.contains(word) && told.contains("network"), "{word}: {told}");
    }
    fs::write(&path, &good).unwrap();
    LocalNetwork::open(&dir).unwrap();
}

#[test]
fn damaged_databases_are_told_and_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("net");
    let network = LocalNetwork::create(&original, &config()).unwrap();
    network.chain().advance(50).unwrap();
    drop(network);
    for name in ["chain.redb", "store/.index.redb"] {
        let good = fs::read(original.join(name)).unwrap();
        let half = good.len() / 2;
        let mut cases: Vec<(String, Vec<u8>)> = [0, 1, 63, 320, 4095, 4096, half, good.len() - 1]
            .into_iter()
            .map(|length| (format!("{length} bytes"), good[..length].to_vec()))
            .collect();
        cases.push(("zeros".into(), vec![0; good.len()]));
        cases.push(("text".into(), b"not a database".repeat(100)));
        for (what, bytes) in cases {
            let dir = folder.path().join("copy");
            copy_folder(&original, &dir);
            fs::write(dir.join(name), &bytes).unwrap();
            let told = message(LocalNetwork::open(&dir));
            assert!(told.contains(name) && told.contains("damaged"), "{name}, {what}: {told}");
            fs::remove_dir_all(&dir).unwrap();
        }
        let dir = folder.path().join("copy");
        copy_folder(&original, &dir);
        fs::remove_file(dir.join(name)).unwrap();
        let told = message(LocalNetwork::open(&dir));
        assert!(told.contains("missing"), "{told}");
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn flipped_bits_in_the_chain_are_found_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("chain.redb");
    let chain = LocalChain::create(&original, config().rules, &[1; 32], &[]).unwrap();
    let head = chain.advance(50).unwrap();
    drop(chain);
    let good = fs::read(&original).unwrap();
    let path = folder.path().join("copy.redb");
    for position in (0..good.len()).step_by(good.len() / 97) {
        let mut bad = good.clone();
        bad[position] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        // Unused pages may be flipped without harm; then nothing must have changed.
        if let Ok(chain) = LocalChain::open(&path) {
            let number = chain.head().number;
            let row = chain.block(number).unwrap().unwrap();
            assert!(number < head.number || row.hash == head.hash, "at {position}");
        }
    }
}

#[tokio::test]
async fn parts_of_different_networks_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    drop(LocalNetwork::create(&one, &config()).unwrap());
    let other = NetworkConfig { seed: Some([8; 32]), ..config() };
    drop(LocalNetwork::create(&two, &other).unwrap());
    let mixed = async |part: &str| {
        let dir = folder.path().join("mixed");
        copy_folder(&one, &dir);
        fs::remove_dir_all(dir.join(part)).or_else(|_| fs::remove_file(dir.join(part))).unwrap();
        if two.join(part).is_dir() {
            copy_folder(&two.join(part), &dir.join(part));
        } else {
            fs::copy(two.join(part), dir.join(part)).unwrap();
        }
        let outcome = match LocalNetwork::open(&dir) {
            Ok(network) => network.node("miner-1").await.map(drop),
            Err(error) => Err(error),
        };
        fs::remove_dir_all(&dir).unwrap();
        outcome
    };
    for part in ["chain.redb", "beacon.key", "wallets"] {
        assert!(matches!(mixed(part).await, Err(NetworkError::Mixed(_))), "{part}");
    }
    let dir = folder.path().join("key");
    copy_folder(&one, &dir);
    fs::write(dir.join("beacon.key"), "12ab").unwrap();
    assert!(message(LocalNetwork::open(&dir)).contains("beacon key"));
}

#[tokio::test]
async fn a_neuron_needs_a_name_of_the_network() {
    let served = Served::start(&config()).await;
    let told = message(served.network.node("nobody").await.map(drop));
    assert!(told.contains("`nobody`") && told.contains("validator, miner-1"), "{told}");
    assert!(connect(&served.dir(), "nobody", ONCE).await.is_err());
    let node = served.network.node("trainer").await.unwrap();
    assert!(node.dir.is_dir());
    assert_eq!(node.entry.uid, Uid(0));
}

#[tokio::test]
async fn joining_fails_with_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let told = message(connect(folder.path(), "miner-1", ONCE).await.map(drop));
    assert!(told.contains("no network in"), "{told}");

    let one = Served::start(&config()).await;
    let other = NetworkConfig { seed: Some([8; 32]), ..config() };
    let two = Served::start(&other).await;
    let mut file = NetworkFile::load(&one.dir()).unwrap();
    file.endpoint = Some(two.server.endpoint());
    file.save(&one.dir()).unwrap();
    let told = message(connect(&one.dir(), "miner-1", ONCE).await.map(drop));
    assert!(told.contains("another network answers"), "{told}");

    file.endpoint = None;
    file.save(&one.dir()).unwrap();
    let told = message(connect(&one.dir(), "miner-1", ONCE).await.map(drop));
    assert!(told.contains("no endpoint"), "{told}");

    let (dir, Served { server, stop, .. }) = (two.dir(), two);
    let file = NetworkFile { endpoint: Some(server.endpoint()), ..file };
    stop.cancel();
    server.stopped().await.unwrap();
    assert!(!dir.exists(), "the folder went with its owner");
    file.save(&one.dir()).unwrap();
    let told = message(connect(&one.dir(), "miner-1", ONCE).await.map(drop));
    assert!(told.contains("is `grail localnet` running?"), "{told}");
}

#[tokio::test]
async fn the_owner_adds_a_neuron_to_a_running_network() {
    let served = Served::start(&config()).await;
    let neuron = NeuronConfig {
        name: "cheater".into(),
        role: NetworkRole::Miner,
        cheat: Some("free_sampling".into()),
        stake: 0,
    };
    let entry = served.network.add_neuron(&neuron).unwrap();
    assert_eq!(entry.uid, Uid(4));
    assert_eq!(served.network.add_neuron(&neuron).unwrap(), entry, "once is enough");
    let other = NeuronConfig { role: NetworkRole::Validator, cheat: None, ..neuron };
    assert!(matches!(served.network.add_neuron(&other), Err(NetworkError::Config(_))));
    served.network.chain().advance(1).unwrap();
    let node = served.remote("cheater").await;
    let metagraph = node.chain.metagraph().await.unwrap();
    assert_eq!(metagraph.neuron(node.wallet.hotkey()).unwrap().uid, Uid(4));
    node.buckets.own().put("a", "b".into()).await.unwrap();
}

#[tokio::test]
async fn a_network_that_is_not_served_has_no_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let network = LocalNetwork::create(&folder.path().join("net"), &config()).unwrap();
    let told = message(network.node("miner-1").await.map(drop));
    assert!(told.contains("no endpoint"), "{told}");
}

#[tokio::test]
async fn a_stranger_registers_and_gets_a_bucket() {
    let served = Served::start(&config()).await;
    let file = served.network.file();
    let http = Http::new(&served.server.endpoint(), file.genesis).unwrap();
    let wallet = Arc::new(Wallet::from_seed(&[77; 32]));
    let keys = BucketKeys::random(wallet.hotkey()).unwrap();
    let denied = message(create_bucket(&http, &keys, &*wallet).await);
    assert!(denied.contains("register the hotkey first"), "{denied}");

    let network = RemoteNetwork::reach(&served.dir(), ONCE).await.unwrap();
    let node = network.admit(wallet.clone(), keys.clone()).await.unwrap();
    assert_eq!((node.entry.uid, node.entry.role), (Uid(4), NetworkRole::Miner));
    let again = network.admit(wallet.clone(), keys.clone()).await.unwrap();
    assert_eq!(again.entry, node.entry, "as after a crash");
    let metagraph = node.chain.metagraph().await.unwrap();
    assert_eq!(metagraph.neuron(wallet.hotkey()).unwrap().uid, Uid(4));
    assert_eq!(metagraph.neurons.len(), 5, "once");

    let other = BucketKeys::random(wallet.hotkey()).unwrap();
    assert!(create_bucket(&http, &other, &*wallet).await.is_err(), "keys are not replaced");
    let forged = create_bucket(&http, &other, &Wallet::from_seed(&[78; 32])).await;
    assert!(message(forged).contains("not signed by its owner"));
    node.buckets.own().put("hello", "world".into()).await.unwrap();
    let reader = served.network.node("validator").await.unwrap();
    let bucket = reader.buckets.open(&node.buckets.read_credentials()).unwrap();
    assert_eq!(bucket.get("hello", 10).await.unwrap().as_deref(), Some(b"world".as_slice()));
}

#[tokio::test]
async fn two_strangers_register_at_once() {
    let served = Served::start(&config()).await;
    let join = async |seed: u8| {
        let wallet = Arc::new(Wallet::from_seed(&[seed; 32]));
        let keys = BucketKeys::random(wallet.hotkey()).unwrap();
        let network = RemoteNetwork::reach(&served.dir(), ONCE).await.unwrap();
        network.admit(wallet, keys).await.unwrap().entry.uid
    };
    let (one, two) = tokio::join!(join(77), join(78));
    assert_eq!([one.min(two), one.max(two)], [Uid(4), Uid(5)]);
}

#[tokio::test]
async fn registration_that_is_closed_is_told() {
    let mut config = config();
    config.rules.open_registration = false;
    let served = Served::start(&config).await;
    let wallet = Arc::new(Wallet::from_seed(&[77; 32]));
    let keys = BucketKeys::random(wallet.hotkey()).unwrap();
    let network = RemoteNetwork::reach(&served.dir(), ONCE).await.unwrap();
    let told = message(network.admit(wallet, keys).await.map(drop));
    assert!(told.contains("SubNetRegistrationDisabled"), "{told}");
}

#[tokio::test]
async fn old_blocks_are_read_after_their_state_is_gone() {
    let served = Served::start(&config()).await;
    let chain = served.network.chain();
    let node = served.network.node("miner-1").await.unwrap();
    chain.advance(20).unwrap();
    chain.prune(1);
    let block = node.chain.block(BlockNumber(7)).await.unwrap().unwrap();
    let row = chain.block(BlockNumber(7)).unwrap().unwrap();
    assert_eq!((block.hash, block.timestamp_ms), (row.hash, GENESIS_MS + 7_000));
}

#[tokio::test]
async fn old_blocks_are_read_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("net");
    let network = LocalNetwork::create(&dir, &config()).unwrap();
    network.chain().advance(20).unwrap();
    let row = network.chain().block(BlockNumber(7)).unwrap().unwrap();
    drop(network);
    let network = LocalNetwork::open(&dir).unwrap();
    network.serve(loopback(), CancellationToken::new()).await.unwrap();
    let node = network.node("miner-1").await.unwrap();
    let block = node.chain.block(BlockNumber(7)).await.unwrap().unwrap();
    assert_eq!((block.hash, block.timestamp_ms), (row.hash, GENESIS_MS + 7_000));
}

#[tokio::test(start_paused = true)]
async fn the_ticker_makes_blocks_and_lets_time_pass() {
    let chain = LocalChain::in_memory(config().rules, &[1; 32], &[]).unwrap();
    let (clock, stop) = (chain.clock(), CancellationToken::new());
    assert_eq!(clock(), GENESIS_MS, "time stands still without a ticker");
    let running = tokio::spawn(Arc::clone(&chain).run(stop.clone()));
    let mut before = clock();
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (now, head) = (clock(), chain.head());
        assert!(now >= before && now >= head.timestamp_ms, "time does not go back");
        assert!(now < head.timestamp_ms + 1000, "time does not run ahead of the blocks");
        before = now;
    }
    assert!((3..=4).contains(&chain.head().number.0), "a block each second");
    stop.cancel();
    running.await.unwrap().unwrap();
    let head = chain.head();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(chain.head(), head);
    assert!(clock() >= before && clock() < head.timestamp_ms + 1000);
}

#[test]
fn an_advance_is_bounded() {
    let chain = LocalChain::in_memory(config().rules, &[1; 32], &[]).unwrap();
    let refused = chain.advance(ADVANCE_BLOCKS_MAX + 1);
    assert!(matches!(refused, Err(LocalChainError::TooFar(_))));
    assert_eq!(chain.advance(0).unwrap().number.0, 0);
}

#[tokio::test]
async fn a_server_stops_within_its_grace_with_clients_connected() {
    let served = Served::start(&config()).await;
    let remote = served.remote("miner-1").await;
    remote.chain.head().await.unwrap();
    // A client that never finishes its request.
    let mut idle = std::net::TcpStream::connect(served.server.address()).unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    let Served { server, stop, network, .. } = served;
    // From here on the grace passes at once.
    tokio::time::pause();
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), server.stopped()).await.unwrap().unwrap();
    assert!(remote.chain.head().await.is_err());
    tokio::time::resume();
    drop(network);
}

#[tokio::test]
async fn a_taken_port_is_told() {
    let served = Served::start(&config()).await;
    let stop = CancellationToken::new();
    let taken = served.network.serve(served.server.address(), stop.clone()).await;
    assert!(message(taken.map(drop)).contains("choose another port"));
    served.network.serve(loopback(), stop).await.map(drop).unwrap();
    assert!(Path::new(&served.dir()).join("network.json").is_file());
}
