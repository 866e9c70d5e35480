"""Reads rollout_file.hex from the documentation alone, and prints its Merkle root.

    python3 read_rollout_file.py

A second implementation of `rollout::encoding` and `rollout::commitment`: Python's standard
library, no code shared with the crate.
"""

import hashlib
import pathlib
import struct

data = bytes.fromhex(pathlib.Path(__file__).with_name("rollout_file.hex").read_text())
offset = 0


def take(count):
    global offset
    offset += count
    assert offset <= len(data)
    return data[offset - count : offset]


def number(form):
    return struct.unpack("<" + form, take(struct.calcsize("<" + form)))[0]


def name():
    return take(number("I"))


def tokens():
    return [number("I") for _ in range(number("I"))]


def domain_hash(what, *parts):
    return hashlib.sha256(b"grail/v6/" + what + b"\0" + b"".join(parts)).digest()


def u32(value):
    return struct.pack("<I", value)


def u64(value):
    return struct.pack("<Q", value)


def sized(value):
    return u64(len(value)) + value


def sized_tokens(values):
    return u64(len(values)) + b"".join(map(u32, values))


def merkle(leaves):
    if not leaves:
        return domain_hash(b"merkle-empty")
    if len(leaves) == 1:
        return domain_hash(b"merkle-leaf", leaves[0])
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    return domain_hash(b"merkle-node", merkle(leaves[:half]), merkle(leaves[half:]))


assert take(8) == b"GRAILROL" and number("H") == 7
claimed_root, signature = take(32), take(64)
header = domain_hash(
    b"header",
    sized(name()),
    u32(number("H")),  # netuid
    take(8),  # window
    take(32),  # hotkey
    take(32),  # checkpoint
    sized(name()),  # environment id
    take(32),  # environment params
    take(4),  # temperature
    take(4),  # max_new_tokens
    take(32),  # tokenizer
    sized(name()),  # numerics
    take(4),  # rollouts_per_group
)
assert take(1) == b"\0"  # an open body
groups = []
for _ in range(number("I")):
    index = take(4)
    prompt = domain_hash(b"prompt", sized_tokens(tokens()))
    leaves = [
        domain_hash(
            b"rollout",
            header,
            index,
            u64(rollout),
            prompt,
            sized_tokens(tokens()),
            take(4),  # reward
            take(1),  # success
            take(32),  # hidden digest
        )
        for rollout in range(number("I"))
    ]
    groups.append(
        domain_hash(b"group", header, index, prompt, u64(len(leaves)), merkle(leaves))
    )
assert offset == len(data)
root = domain_hash(b"file", header, u64(len(groups)), merkle(groups))
assert root == claimed_root
print(root.hex())
