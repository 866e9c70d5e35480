"""Writes sketch.json: sketches computed from their documentation, with nothing but Python's integers
and doubles (whose results, rounded once more to f32, are those of f32 arithmetic).

    python3 sketch_vectors.py > sketch.json
"""

import hashlib
import json
import struct

MASK = 0xFFFFFFFF


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def philox(counter, key):
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k0, q & MASK, (p >> 32) ^ d ^ k1, p & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return a, b, c, d


def value(i, token):
    """Dimension `i` of the row of `token`: thirds and sevenths, so that every step rounds."""
    return f32(f32((i * 37 + token * 101) % 257 / 3) / 7)


def mean(i):
    return f32(1 / (3 + i % 5))


def scale(i):
    return f32((1 + i % 7) / 3)


def sketch(key, hidden, token):
    words = struct.unpack("<4I", hashlib.sha256(b"grail/v6/sketch-key\0" + struct.pack("<4I", *key)).digest()[:16])
    sums = [0.0] * 64
    for i in range(hidden):
        low, high, _, _ = philox((i, 0, words[2], words[3]), words[:2])
        signs = low | high << 32
        white = f32(f32(value(i, token) - mean(i)) * scale(i))
        for bit in range(64):
            sums[bit] = f32(sums[bit] + (-white if signs >> bit & 1 else white))
    return sum(1 << bit for bit in range(64) if sums[bit] < 0)


def whitening_digest(hidden):
    fields = [mean(i) for i in range(hidden)] + [scale(i) for i in range(hidden)]
    return hashlib.sha256(
        b"grail/v6/whitening\0" + struct.pack("<Q", hidden) + struct.pack(f"<{len(fields)}f", *fields)
    ).hexdigest()


def case(key, hidden, tokens):
    sketches = [f"{sketch(key, hidden, token):016x}" for token in range(0, max(tokens // 4, 1) * 4, 4)]
    return {
        "race_key": key,
        "hidden": hidden,
        "tokens": tokens,
        "whitening": whitening_digest(hidden),
        "sketches": sketches,
    }


if __name__ == "__main__":
    cases = [
        case([1, 2, 3, 4], 576, 9),
        case([0, 0, 0, 0], 1, 4),
        case([MASK, 0, 7, MASK], 37, 13),
    ]
    print(json.dumps({"cases": cases}, indent=1))
