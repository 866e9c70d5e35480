"""Compares our chain and our client with the official Python SDK and async-substrate-interface.

    cargo build -p grail-infrastructure --examples
    python tests/peers/bittensor.py target/debug/examples

Needs the packages of requirements.txt and a C compiler. Prints each check and ends with 0 when all
of them hold. Nothing is reached but a local chain on a port of this machine.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
# This file has the name of the package that it tests.
sys.path.remove(str(HERE))
# The SDK keeps metadata by genesis and version; a stale one must not hide what the node answers.
os.environ["BITTENSOR_RUNTIME_CACHE_DIR"] = tempfile.mkdtemp(prefix="peers-cache-")

CLOCK = "PEERS_CLOCK"
SECTION_SECONDS = 60
TOTAL_SECONDS = 240
# Checks when everything goes well; fewer are a failure.
CHECKS = 51

# Quicknet's round 1000, as drand published it: what was sealed to it, anybody opens.
ROUND = 1000
ROUND_SIGNATURE = bytes.fromhex(
    "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125"
    "e342b73a8dd2bacbe47e4b6b63ed5e39"
)
QUICKNET_GENESIS, QUICKNET_PERIOD = 1_692_803_367, 3


def preload_clock():
    """Starts this program anew with a wall clock that can be set, which the SDK's seals go by."""
    if os.environ.get("LD_PRELOAD", "").endswith("clock.so"):
        return
    library = Path(tempfile.mkdtemp(prefix="peers-clock-")) / "clock.so"
    source = str(HERE / "clock.c")
    subprocess.run(
        ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), source, "-ldl"], check=True
    )
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


if __name__ == "__main__":
    preload_clock()

import bittensor_core  # noqa: E402
from async_substrate_interface import SubstrateInterface  # noqa: E402
from bittensor import Client, SetWeights  # noqa: E402
from bittensor_core import Keypair  # noqa: E402

ALICE, VALIDATOR, MINER, THIRD = (
    Keypair.create_from_uri(f"//{name}") for name in ("Alice", "Validator", "Miner", "Third")
)
STRANGER = Keypair.create_from_uri("//Stranger")


class Keys:
    """A wallet in memory: the SDK asks for these attributes."""

    def __init__(self, hotkey, coldkey=ALICE):
        self.coldkey = self.coldkeypub = coldkey
        self.hotkey = self.hotkeypub = hotkey
        self.name = "peer"


class Signing:
    """A key for async-substrate-interface, which signs what is no `bytes`."""

    def __init__(self, key):
        self.public_key, self.ss58_address = key.public_key, key.ss58_address
        self.crypto_type, self.key = key.crypto_type, key

    def sign(self, data):
        return self.key.sign(bytes(data))


class Checks:
    """Counts what holds and what does not."""

    def __init__(self):
        self.held, self.failed, self.began = 0, [], time.monotonic()

    def __call__(self, what, holds, found=""):
        found = str(found)
        found = found if len(found) <= 120 else found[:117] + "..."
        seconds = time.monotonic() - self.began
        found = f": {found}" if found else ""
        print(f"{seconds:5.1f} s  {'ok  ' if holds else 'FAIL'} {what}{found}", flush=True)
        if holds:
            self.held += 1
        else:
            self.failed.append(what)

    async def section(self, name, work):
        print(f"-- {name}", flush=True)
        try:
            await asyncio.wait_for(work, SECTION_SECONDS)
        except Exception as error:
            traceback.print_exc()
            self(f"{name} goes on to its end", False, repr(error))


check = Checks()


class Chain:
    """A local chain of our own, for as long as the block is."""

    def __init__(self, examples, *options):
        self.examples, self.options = examples, options

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="peers-chain-")
        neurons = [f"{VALIDATOR.ss58_address}=1000000000", f"{MINER.ss58_address}=0"]
        self.process = subprocess.Popen(
            [self.examples / "local_chain", *self.options, self.folder.name, *neurons],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        facts = json.loads(self.process.stdout.readline())
        self.endpoint, self.netuid = facts["endpoint"], facts["netuid"]
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.folder.cleanup()

    async def ours(self, uri, *command):
        """Lets our client do something, and returns what it answers."""
        peer = await asyncio.create_subprocess_exec(
            self.examples / "chain_peer",
            *(self.endpoint, str(self.netuid), uri, *command),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await peer.communicate()
        if peer.returncode:
            raise RuntimeError(f"our client, {command}: {err.decode().strip()}")
        return json.loads(out)


async def until(seconds, read, holds):
    """Reads until the answer holds, and returns the last one."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found = await read()
        if holds(found) or asyncio.get_running_loop().time() > deadline:
            return found
        await asyncio.sleep(0.25)


async def submit(client, keys, pallet, call, arguments, signer="hotkey"):
    """Submits a call that the SDK has no intent for, or hides where this chain has no such pallet."""
    return await client.submit_call((pallet, call, arguments), keys, signer=signer)


def administer(endpoint, pallet, call, arguments):
    """Makes a call as the chain's owner, by the other library."""
    with SubstrateInterface(endpoint, ss58_format=42) as substrate:
        inner = substrate.compose_call(pallet, call, arguments(substrate))
        sudo = substrate.compose_call("Sudo", "sudo", {"call": inner})
        extrinsic = substrate.create_signed_extrinsic(sudo, Signing(ALICE))
        receipt = substrate.submit_extrinsic(extrinsic, wait_for_inclusion=True)
        events = [event["event"]["module_id"] for event in receipt.triggered_events]
        return receipt.is_success, events


async def seal_from_now_on(chain):
    success, events = await asyncio.to_thread(
        administer,
        chain.endpoint,
        "AdminUtils",
        "sudo_set_commit_reveal_weights_enabled",
        lambda _: {"netuid": chain.netuid, "enabled": True},
    )
    check("async-substrate-interface turns commit-reveal on", success and "Sudo" in events, events)


async def calls_of(client, first, last, account):
    """Returns the SDK's reading of what an account called in some blocks, by name."""
    found = {}
    for number in range(first, last + 1):
        for extrinsic in (await client.block_info(number)).extrinsics:
            if str((extrinsic or {}).get("address")) == account.ss58_address:
                call = extrinsic["call"]
                found[call["call_function"]] = {a["name"]: a["value"] for a in call["call_args"]}
    return found


def share(row, uid):
    return (row or {}).get(uid, 0.0)


async def sdk_reads(chain):
    async with Client(chain.endpoint) as client:
        block = await until(10, client.block, lambda block: block > 0)
        check("the SDK reads the block", block > 0, block)
        header = await client.wait_for_block(block + 2, timeout=10)
        check("it follows new heads", header.number >= block + 2, header.number)
        final = [header async for header in first_of(client.blocks(finalized=True), 2)]
        check("it follows final heads", final[1].number > final[0].number, final[1].number)
        seconds = await client.block_time()
        check("it reads the time between blocks", seconds == 0.25, seconds)
        stamp = (await client.timestamp()).timestamp()
        check("it reads the time", stamp > 1_700_000_000, stamp)
        graph = await client.subnets.metagraph(chain.netuid)
        addresses = [VALIDATOR.ss58_address, MINER.ss58_address]
        check("it reads the metagraph", graph.hotkeys == addresses, graph)
        permits = [neuron.validator_permit for neuron in graph.neurons]
        check("with permits", permits == [True, False], permits)
        parameters = await client.subnets.subnet_hyperparameters(chain.netuid)
        found = {name: parameters[name] for name in ("tempo", "weights_rate_limit")}
        check("it reads hyperparameters", found == {"tempo": 20, "weights_rate_limit": 0}, found)
        epoch = await client.read("epoch_status", netuid=chain.netuid)
        check("it reads the epoch's state", epoch["tempo"] == 20, epoch)
        neurons = await client.neurons.all(chain.netuid)
        check("it reads neurons", [str(n.hotkey) for n in neurons] == addresses, len(neurons))


async def first_of(stream, count):
    async for item in stream:
        yield item
        count -= 1
        if count == 0:
            return


async def sdk_writes(chain):
    """The SDK registers, commits and sets weights; our client reads what it did."""
    keys, netuid = Keys(VALIDATOR), chain.netuid
    async with Client(chain.endpoint) as client:
        burned = {"netuid": netuid, "hotkey": THIRD.ss58_address}
        result = await submit(
            client, keys, "SubtensorModule", "burned_register", burned, "coldkey"
        )
        check("the SDK registers a hotkey", result.success, result.message)
        result = await submit(
            client, keys, "SubtensorModule", "burned_register", burned, "coldkey"
        )
        named = "already exists" in (result.message or "")
        check("it names the refusal of a second time", named, result)

        result = await client.execute(SetWeights(netuid=netuid, weights={1: 1.0, 2: 0.5}), keys)
        check("it sets weights", result.success, result.message)
        rows = await client.read("weights", netuid=netuid)
        check("it reads them", abs(share(rows.get(0), 1) - 2 / 3) < 1e-4, rows)

        bucket = bytes(range(33, 33 + 64)) * 2
        info = {"fields": [{"Raw128": "0x" + bucket.hex()}]}
        commit = {"netuid": netuid, "info": info}
        result = await submit(client, keys, "Commitments", "set_commitment", commit)
        check("it commits", result.success, result.message)
        stranger = Keys(STRANGER)
        result = await submit(client, stranger, "Commitments", "set_commitment", commit)
        check("a stranger's commitment is refused", not result.success, result.message)

        ours = await chain.ours("//Miner", "read")
        row = ours["weights"]["0"]
        check("our client reads the SDK's weights", row == [[1, 65535], [2, 32768]], row)
        read = ours["commitments"].get(VALIDATOR.ss58_address)
        check("our client reads the SDK's commitment", read == bucket.hex(), read)
        names = [neuron["hotkey"] for neuron in ours["neurons"]]
        check("and the neuron that it registered", THIRD.ss58_address in names, len(names))
        theirs = (await client.block_info(ours["head"])).hash
        check("both read the same block", ours["hash"] == theirs, ours["head"])


async def ours_writes(chain):
    """Our client commits and sets weights; the SDK reads what it did."""
    async with Client(chain.endpoint) as client:
        first = await client.block()
        await chain.ours("//Miner", "commit", b"from rust".hex())
        landed = await chain.ours("//Validator", "weights", "2=3", "1=1")
        check("our weights land", landed["statuses"][-1] == "Landed", landed)
        found = await client.subnets.commitments(chain.netuid)
        value = found[MINER.ss58_address].value
        check("the SDK reads our commitment", value == "from rust", value)
        rows = await client.read("weights", netuid=chain.netuid)
        check("and our weights", abs(share(rows.get(0), 2) - 0.75) < 1e-4, rows)
        last = await client.block()
        calls = await calls_of(client, first, last, MINER)
        data = calls.get("set_commitment", {}).get("info")
        check("it decodes our commitment's transaction", "Raw9" in repr(data), data)
        calls = await calls_of(client, first, last, VALIDATOR)
        sent = calls.get("set_mechanism_weights", {})
        check("and our weights' transaction", sent.get("dests") == [1, 2], sent)


def clock_for(state, block_time, netuid_period):
    """Returns a time at which the SDK seals to ROUND: late in it, since the head moves on."""
    arguments = {
        **state,
        "uids": [0],
        "weights": [1],
        "version_key": 0,
        "subnet_reveal_period_epochs": netuid_period,
        "block_time": block_time,
        "hotkey": VALIDATOR.public_key,
    }
    base = QUICKNET_GENESIS + QUICKNET_PERIOD * ROUND
    fitting = []
    for step in range(0, 400):
        now = base - step / 4
        os.environ[CLOCK] = str(now)
        if bittensor_core.get_encrypted_commit_v2(**arguments)[1] == ROUND:
            fitting.append(now)
        elif fitting:
            break
    del os.environ[CLOCK]
    return max(fitting)


async def schedule(client, netuid):
    block = await client.block()
    view = await client.at(block)

    async def read(item):
        return int(await view.query(("SubtensorModule", item), [netuid]) or 0)

    state = {
        "last_epoch_block": await read("LastEpochBlock"),
        "pending_epoch_at": await read("PendingEpochAt"),
        "subnet_epoch_index": await read("SubnetEpochIndex"),
        "tempo": await read("Tempo"),
        "blocks_since_last_step": await read("BlocksSinceLastStep"),
        "current_block": block,
    }
    return state, await read("RevealPeriodEpochs")


async def sdk_seals(chain):
    """The SDK commits weights and a commitment; the chain opens both with quicknet's round."""
    keys, netuid = Keys(VALIDATOR), chain.netuid
    async with Client(chain.endpoint) as client:
        await seal_from_now_on(chain)
        arguments = {
            "netuid": netuid,
            "mecid": 0,
            "dests": [1],
            "weights": [1],
            "version_key": 0,
        }
        result = await submit(client, keys, "SubtensorModule", "set_mechanism_weights", arguments)
        refused = not result.success and "commit/reveal is enabled" in (result.message or "")
        check("open weights are refused then", refused, result.message)

        sealed, rounds = False, []
        for _ in range(5):
            # The head moves on between this and the SDK's own reading; then it names another round.
            state, period = await schedule(client, netuid)
            os.environ[CLOCK] = str(clock_for(state, 0.25, period))
            try:
                result = await client.execute(
                    SetWeights(netuid=netuid, weights={1: 1.0, 2: 9.0}), keys
                )
            finally:
                os.environ.pop(CLOCK, None)
            rounds.append((result.data or {}).get("reveal_round"))
            sealed = result.success and rounds[-1] == ROUND
            if sealed:
                break
        check("the SDK seals weights to the round that it computes", sealed, rounds)
        waiting = await client.read("timelocked_weight_commits", netuid=netuid)
        found = [c["reveal_round"] for commits in waiting.values() for c in commits]
        check("it reads the sealed weights", ROUND in found, found)

        # What the pallet stores has no envelope: the round is a field of its own.
        text = b"\x14hello"
        envelope, _ = bittensor_core.encrypt_at_round(text, ROUND)
        inner = bytes(bittensor_core.inner_ciphertext(envelope))
        info = {
            "fields": [
                {"TimelockEncrypted": {"encrypted": "0x" + inner.hex(), "reveal_round": ROUND}}
            ]
        }
        commit = {"netuid": netuid, "info": info}
        result = await submit(client, Keys(MINER), "Commitments", "set_commitment", commit)
        check("it makes a sealed commitment", result.success, result.message)
        found = (await client.subnets.commitments(netuid))[MINER.ss58_address]
        check("which is sealed", found.status == "sealed", found.status)

        success, events = await asyncio.to_thread(
            administer, chain.endpoint, "System", "set_storage", the_round
        )
        check("the owner stores the round", success, events)
        row = await until(
            20,
            lambda: client.read("weights", netuid=netuid),
            lambda rows: abs(share(rows.get(0), 2) - 0.9) < 1e-4,
        )
        check("the chain opens the SDK's weights", abs(share(row.get(0), 2) - 0.9) < 1e-4, row)
        found = await until(
            10,
            lambda: client.subnets.commitments(netuid),
            lambda found: found[MINER.ss58_address].status == "revealed",
        )
        found = found[MINER.ss58_address]
        check("and its sealed commitment", found.value == "hello", (found.status, found.value))
        ours = await chain.ours("//Miner", "read")
        row = ours["weights"]["0"]
        check("our client reads what was opened", row == [[1, 7282], [2, 65535]], row)


def the_round(substrate):
    """Returns quicknet's round as an entry of the chain's storage."""
    key = substrate.create_storage_key("Drand", "Pulses", [ROUND]).to_hex()
    randomness = hashlib.sha256(ROUND_SIGNATURE).digest()
    pulse = ROUND.to_bytes(8, "little") + b"\x80" + randomness + b"\xc0" + ROUND_SIGNATURE
    return {"items": [(key, "0x" + pulse.hex())]}


def independent(endpoint, netuid):
    with SubstrateInterface(endpoint, ss58_format=42) as substrate:
        head = substrate.get_chain_head()
        number = substrate.get_block_number(head)
        check("async-substrate-interface reads the head", number > 0, number)
        tempo = plain(substrate.query("SubtensorModule", "Tempo", [netuid]))
        check("and storage", tempo == 20, tempo)
        uids = list(substrate.query_map("SubtensorModule", "Uids", [netuid]))
        check("and maps", len(uids) == 3, len(uids))
        slot = plain(substrate.get_constant("Aura", "SlotDuration"))
        check("and constants", slot == 250, slot)
        graph = plain(
            substrate.runtime_call("SubnetInfoRuntimeApi", "get_metagraph", [netuid])
        )
        check("and calls the runtime", graph["num_uids"] == 3, graph["num_uids"])
        pallets = set(substrate.get_metadata_call_functions())
        check("and metadata", {"SubtensorModule", "Commitments"} <= pallets, len(pallets))
        calls = {}
        for height in range(1, number + 1):
            for extrinsic in substrate.get_block(block_number=height)["extrinsics"]:
                value = plain(extrinsic)
                call = plain(value["call"])
                calls.setdefault(call["call_function"], set()).add(value.get("address"))
        ours = calls.get("set_commitment", set())
        both = {VALIDATOR.ss58_address, MINER.ss58_address} <= ours
        check("and decodes every transaction, the SDK's and ours", both, calls)


def plain(value):
    return getattr(value, "value", value)


async def own_beacon(chain):
    """Our client seals weights to the chain's own beacon, which opens them; the SDK reads them."""
    async with Client(chain.endpoint) as client:
        await seal_from_now_on(chain)
        first = await client.block()
        landed = await chain.ours("//Validator", "weights", "1=1")
        kinds = [status.split()[0] for status in landed["statuses"]]
        check("the chain's beacon opens our weights", kinds[-1] == "Landed", landed["statuses"])
        check("after they were sealed", kinds[0] == "Sealed", kinds)
        rows = await client.read("weights", netuid=chain.netuid)
        check("the SDK reads the opened weights", share(rows.get(0), 1) == 1.0, rows)
        last = await client.block()
        sent = await calls_of(client, first, last, VALIDATOR)
        sent = sent.get("commit_timelocked_mechanism_weights", {})
        check("it decodes our sealed weights", sent.get("commit_reveal_version") == 4, sent)


async def compare(examples):
    for line in (HERE / "requirements.txt").read_text().split():
        name, wanted = line.split("==")
        check(f"{name} is the pinned one", version(name) == wanted, version(name))
    with Chain(examples) as chain:
        await check.section("the SDK reads", sdk_reads(chain))
        await check.section("the SDK writes", sdk_writes(chain))
        await check.section("our client writes", ours_writes(chain))
        await check.section("the SDK seals", sdk_seals(chain))
        work = asyncio.to_thread(independent, chain.endpoint, chain.netuid)
        await check.section("async-substrate-interface", work)
    with Chain(examples, "--own-beacon") as chain:
        await check.section("a beacon of its own", own_beacon(chain))


def main():
    # A library that never answers must not keep this program.
    watch = threading.Timer(TOTAL_SECONDS, lambda: (print("FAIL out of time"), os._exit(2)))
    watch.daemon = True
    watch.start()
    asyncio.run(compare(Path(sys.argv[1])))
    count = check.held + len(check.failed)
    if count < CHECKS:
        check(f"there were {CHECKS} checks", False, count)
    print(f"{check.held} ok, {len(check.failed)} failed", flush=True)
    os._exit(1 if check.failed else 0)


if __name__ == "__main__":
    main()
