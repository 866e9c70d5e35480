#!/usr/bin/env python3
"""Times the reference's own functions on the work of our benches.

    measure.py --reference CHECKOUT [--only parquet,group_keys,digests,sketches] [--json]

CHECKOUT is a checkout of the Python reference. Needs pyarrow for `parquet`, torch for `sketches`; what
else the reference imports and these functions do not use is replaced by nothing. Ours:
`cargo bench -p grail-parquet` and `cargo bench -p grail-protocol --bench v5`.
"""

import argparse
import importlib.abc
import importlib.machinery
import json
import statistics
import sys
import time
from unittest.mock import MagicMock

import work

ROUNDS = 5
# Rows for keys and digests, and tokens of each.
ROWS, TOKENS = 1_280, 512
# Hidden states that do not fit a cache together: 256 MiB.
ROLLOUTS = 64

# Imported by the reference's modules and not used by the functions that are timed.
UNUSED = (
    "bittensor transformers accelerate aiobotocore aiohttp async_substrate_interface botocore datasets "
    "dotenv httpx huggingface_hub requests safetensors scalecodec substrateinterface tenacity torch "
    "typer vllm wandb"
).split()


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for those that are not installed; it is asked last."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in UNUSED:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__ = []
        module.__spec__ = spec
        return module

    def exec_module(self, module):
        pass


def seconds(function):
    """Median of some rounds."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        rounds.append(time.perf_counter() - start)
    return statistics.median(rounds)


def parquet():
    from grail.infrastructure import parquet_io

    data = work.window(1_024, 512)
    encoded = parquet_io.serialize_window_to_parquet(data)
    yield "parquet.write", seconds(lambda: parquet_io.serialize_window_to_parquet(data)), "s"
    yield "parquet.read", seconds(lambda: parquet_io.deserialize_parquet_to_window(encoded)), "s"


def group_keys():
    from grail.validation.miner_validator import MinerValidator

    rows = [work.row(at, TOKENS) for at in range(ROWS)]
    choose = MinerValidator._determine_rollouts_to_check
    spent = seconds(lambda: choose(MagicMock(), rows, "5Grw", "ab", None, len(rows)))
    yield "group_keys", spent * 1e9 / (ROWS * TOKENS), "ns/token"


def digests():
    from grail.shared.digest import compute_completion_digest

    commits = [work.row(at, TOKENS)["commit"] for at in range(ROWS)]

    def all_rows():
        for commit in commits:
            compute_completion_digest(commit, commit["rollout"])

    yield "digests", seconds(all_rows) * 1e9 / (ROWS * TOKENS), "ns/token"


def sketches():
    import torch

    from grail.protocol.grail_verifier import GRAILVerifier

    positions, hidden = 512, 2_048
    states = torch.tensor(work.activations(positions, hidden), dtype=torch.float32)
    states = states.reshape(positions, hidden)
    r_vec = torch.tensor([at * 15 - 112 for at in range(16)], dtype=torch.int8)
    verifier = GRAILVerifier(hidden)
    rollouts = [states.clone() for _ in range(ROLLOUTS)]
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        spent = seconds(lambda: verifier.create_commitments_batch(states, r_vec))
        yield f"sketches.batch.{threads}_threads", spent * 1e6 / positions, "us/position"
        spent = seconds(lambda: [verifier.create_commitments_batch(one, r_vec) for one in rollouts])
        spent = spent * 1e6 / (positions * ROLLOUTS)
        yield f"sketches.batch_from_memory.{threads}_threads", spent, "us/position"
    if len(states) > 0 and hasattr(verifier, "create_commitment"):
        few = states[:64]
        spent = seconds(lambda: [verifier.create_commitment(row, r_vec) for row in few])
        yield "sketches.single", spent * 1e6 / len(few), "us/position"


MEASURES = {
    "parquet": parquet,
    "group_keys": group_keys,
    "digests": digests,
    "sketches": sketches,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", required=True, metavar="CHECKOUT")
    parser.add_argument("--only", default=",".join(MEASURES), metavar="NAMES")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    sys.path.insert(0, args.reference)
    sys.meta_path.append(Absent())
    for name in args.only.split(","):
        for row, value, unit in MEASURES[name]():
            if args.json:
                print(json.dumps({"name": row, "reference": round(value, 6), "unit": unit}))
            else:
                print(f"{row:<38} {value:12.6f} {unit}")


if __name__ == "__main__":
    main()
