"""Drives the local chain with the official Python SDK and with async-substrate-interface.

    cargo build -p grail-infrastructure --example local_chain
    python tests/peers/bittensor.py target/debug/examples/local_chain

Needs the packages of requirements.txt. Ends with 0 when every check holds.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile

# This file has the name of the package that it tests.
sys.path.pop(0)
# The SDK keeps metadata by genesis and version; a stale one must not hide what the node answers.
os.environ["BITTENSOR_RUNTIME_CACHE_DIR"] = tempfile.mkdtemp(prefix="peers-cache-")

from async_substrate_interface import SubstrateInterface  # noqa: E402
from bittensor import BurnedRegister, Client, SetWeights  # noqa: E402
from bittensor_core import Keypair  # noqa: E402


class Keys:
    """A wallet in memory: the SDK asks for these two attributes."""

    def __init__(self, coldkey, hotkey):
        self.coldkey = self.coldkeypub = coldkey
        self.hotkey = self.hotkeypub = hotkey
        self.name = "peer"


def check(what, holds, found=""):
    print(("ok   " if holds else "FAIL ") + what, found)
    if not holds:
        raise SystemExit(f"failed: {what}")


async def call(client, keys, pallet, name, arguments):
    composed = await client.substrate.compose_call(pallet, name, arguments)
    return await client.submit_call(composed, keys, signer="hotkey")


async def official(endpoint, netuid, keys):
    validator, miner = keys.hotkey, Keypair.create_from_uri("//Miner")
    async with Client(endpoint) as client:
        block = await client.block()
        check("the SDK reads the block", block >= 0, block)
        graph = await client.subnets.metagraph(netuid)
        hotkeys = [neuron.hotkey for neuron in graph.neurons]
        check("and the metagraph", validator.ss58_address in hotkeys, hotkeys)
        parameters = await client.subnets.subnet_hyperparameters(netuid)
        check("and hyperparameters", bool(parameters))
        epoch = await client.read("epoch_status", netuid=netuid)
        check("and the epoch's state", epoch["tempo"] == 20, epoch)

        third = Keypair.create_from_uri("//Third")
        result = await client.execute(
            BurnedRegister(netuid=netuid, hotkey_ss58=third.ss58_address), keys
        )
        check("it registers a hotkey", result.success, result)

        result = await client.execute(
            SetWeights(netuid=netuid, weights={1: 1.0, 2: 0.5}), keys
        )
        check("it sets weights", result.success, result)
        rows = await client.read("weights", netuid=netuid)
        check("and reads them", abs(rows[0][1] - 2 / 3) < 1e-3, rows)

        info = {"fields": [{"Raw5": "0x" + b"hello".hex()}]}
        result = await call(
            client, keys, "Commitments", "set_commitment", {"netuid": netuid, "info": info}
        )
        check("it commits", result.success, result)
        graph = await client.subnets.metagraph(netuid)
        check("and reads the commitment", "hello" in repr(graph.commitments), graph.commitments)

        on = await client.substrate.compose_call(
            "AdminUtils",
            "sudo_set_commit_reveal_weights_enabled",
            {"netuid": netuid, "enabled": True},
        )
        sudo = await client.substrate.compose_call("Sudo", "sudo", {"call": on})
        result = await client.submit_call(sudo, keys, signer="coldkey")
        check("the owner turns commit-reveal on", result.success, result)
        result = await client.execute(
            SetWeights(netuid=netuid, weights={1: 1.0, 2: 1.0}), keys
        )
        check("it commits to weights", result.success, result)
        del miner


def independent(endpoint, netuid):
    with SubstrateInterface(endpoint, ss58_format=42) as substrate:
        head = substrate.get_chain_head()
        number = substrate.get_block_number(head)
        check("async-substrate-interface reads the head", number > 0, number)
        tempo = substrate.query("SubtensorModule", "Tempo", [netuid])
        check("and storage", getattr(tempo, "value", tempo) == 20, tempo)
        uids = list(substrate.query_map("SubtensorModule", "Uids", [netuid]))
        check("and maps", len(uids) == 3, uids)
        commitment = list(substrate.query_map("Commitments", "CommitmentOf", [netuid]))
        check("and commitments", len(commitment) == 1, commitment)
        names = set()
        for height in range(1, number + 1):
            block = substrate.get_block(block_number=height)
            for extrinsic in block["extrinsics"]:
                value = getattr(extrinsic, "value", extrinsic)
                call = value["call"]
                names.add(call["call_function"])
        wanted = {"burned_register", "set_commitment"}
        check("and decodes the transactions of every block", wanted <= names, names)


def main():
    keys = Keys(Keypair.create_from_uri("//Alice"), Keypair.create_from_uri("//Validator"))
    miner = Keypair.create_from_uri("//Miner")
    with tempfile.TemporaryDirectory(prefix="peers-chain-") as folder:
        neurons = [f"{keys.hotkey.ss58_address}=1000000000", f"{miner.ss58_address}=0"]
        node = subprocess.Popen(
            [sys.argv[1], folder, *neurons], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            facts = json.loads(node.stdout.readline())
            asyncio.run(official(facts["endpoint"], facts["netuid"], keys))
            independent(facts["endpoint"], facts["netuid"])
        finally:
            node.stdin.close()
            node.wait(timeout=10)
    print("all checks hold")


if __name__ == "__main__":
    main()
