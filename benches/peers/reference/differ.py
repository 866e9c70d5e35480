#!/usr/bin/env python3
"""Compares what the reference and we make of damaged copies of a rollout file.

    differ.py --reference CHECKOUT --outcomes BINARY FILE [--copies 500] [--seed 1]

BINARY is `target/release/examples/outcomes` of grail-parquet. The undamaged file must give the same
commits in both; of the copies, every disagreement is printed. Needs pyarrow.
"""

import argparse
import collections
import hashlib
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Absent


def outcome(parquet_io, data):
    """The reference's word for a file, as `outcomes` prints it."""
    try:
        window = parquet_io.deserialize_parquet_to_window(data)
        digest = hashlib.sha256()
        for row in window["inferences"]:
            text = json.dumps(row["commit"], sort_keys=True, separators=(",", ":"))
            digest.update(hashlib.sha256(text.encode()).digest())
        return f"ok {len(window['inferences'])} {digest.hexdigest()}"
    except parquet_io.ParquetError:
        return "corrupt"
    except Exception:  # any other error is "not found" there
        return "unreadable"


def damaged(data, rng):
    """One to three changed bytes, a cut, or bytes put in."""
    data = bytearray(data)
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    if kind == 1:
        at = rng.randrange(len(data))
        return bytes(data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:])
    # Half of the changes are in the footer, where they do most.
    footer = int.from_bytes(data[-8:-4], "little") + 8
    for _ in range(rng.randrange(1, 4)):
        start = len(data) - footer if kind < 4 else 0
        data[rng.randrange(start, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--reference", required=True, metavar="CHECKOUT")
    parser.add_argument("--outcomes", required=True, metavar="BINARY")
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    sys.path.insert(0, args.reference)
    sys.meta_path.append(Absent())
    from grail.infrastructure import parquet_io

    rng = random.Random(args.seed)
    original = args.file.read_bytes()
    copies = [original] + [damaged(original, rng) for _ in range(args.copies)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(at)) for at in range(len(copies))]
        for path, copy in zip(paths, copies):
            path.write_bytes(copy)
        ours = subprocess.run([args.outcomes, *paths], capture_output=True, text=True, check=True)
        ours = ours.stdout.splitlines()
    theirs = [outcome(parquet_io, copy) for copy in copies]
    assert ours[0] == theirs[0] and ours[0].startswith("ok"), (ours[0], theirs[0])
    kinds = collections.Counter(
        (one.split()[0], other.split()[0], one == other) for one, other in zip(ours, theirs)
    )
    for (one, other, same), count in sorted(kinds.items()):
        print(f"{count:6}  ours {one:<11} reference {other:<11} {'' if same else 'differ'}")


if __name__ == "__main__":
    main()
