"""The rows of `crates/grail-parquet/benches/work` and `crates/grail-protocol/benches/v5.rs`."""

import hashlib
import struct

MASK = (1 << 64) - 1
PROMPT = 64
WINDOW = 5_123_430
RANDOMNESS = "f174f0835bc798522a0629c9a675d28bfd912724cf5167d6e3a76987566ed14d"
BLOCK_HASH = "0xf980a1d67b580de1f9b6a669a272ebb941e1d944a7506a696ae7fd252fb6e7f1"
HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


def mixed(row, place, salt):
    """A number that looks random; the Rust code has the same rule."""
    x = row << 32 | place
    x = (x ^ salt * 0x9E3779B97F4A7C15 & MASK) * 0xD6E8FEB86659FD93 & MASK
    return ((x ^ x >> 32) * 0xD6E8FEB86659FD93 & MASK) >> 16


def f32(value):
    """Rounds as a FLOAT column does."""
    return struct.unpack("f", struct.pack("f", value))[0]


def row(at, n_tokens):
    """One inference as a miner hands it to the serialiser."""
    sketches = [(mixed(at, i, 2) % 4_001 - 2_000) % 2_147_483_647 for i in range(n_tokens)]
    logprobs = [
        0.0 if i < PROMPT else f32(-f32(mixed(at, i, 3) % 1_000_000) / f32(400_000.0))
        for i in range(n_tokens)
    ]
    success = at % 2 == 0
    signature = (hashlib.sha256(struct.pack("<Q", at)).digest() * 2).hex()
    return {
        "window_start": WINDOW,
        "block": WINDOW + 3,
        "nonce": at,
        "block_hash": BLOCK_HASH,
        "randomness": RANDOMNESS,
        "use_drand": True,
        "rollout_group": at // 16,
        "rollout_index": at % 16,
        "total_in_group": 16,
        "checkpoint_window": WINDOW - 30,
        "commit": {
            "tokens": [mixed(at, i, 1) % 151_643 for i in range(n_tokens)],
            "commitments": [{"sketch": sketch} for sketch in sketches],
            "proof_version": "v5",
            "model": {"name": "async_trainer_snapshot", "layer_index": -1},
            "signature": signature,
            "beacon": {"randomness": RANDOMNESS},
            "rollout": {
                "total_reward": 1.0 if success else 0.0,
                "advantage": 1.0 if success else -1.0,
                "success": success,
                "token_logprobs": logprobs,
                "prompt_length": PROMPT,
                "completion_length": n_tokens - PROMPT,
            },
        },
        "timestamp": 1_700_000_000.0 + at / 8.0,
        "challenge": f"|{BLOCK_HASH}|{at}",
        "hotkey": HOTKEY,
        "signature": signature,
    }


def window(n_rows, n_tokens):
    """A whole file's dictionary."""
    return {
        "wallet": HOTKEY,
        "window_start": WINDOW,
        "window_length": 30,
        "timestamp": 1_700_000_123.456,
        "inferences": [row(at, n_tokens) for at in range(n_rows)],
    }


def activations(positions, hidden):
    """Hidden states of both signs, most of them small."""
    cells = ((at // hidden, at % hidden) for at in range(positions * hidden))
    units = (mixed(row, place, 4) % 2_000_001 / 1_000_000.0 - 1.0 for row, place in cells)
    return [unit * unit * unit * 40.0 for unit in units]
