"""Measures the reference's deltas and weights hash on the work of `cargo bench --bench delta`.

    python benches/peers/reference/delta.py --reference CHECKOUT --files BASE CURRENT [--json]

BASE and CURRENT are safetensors files with the same tensors. Needs torch, numpy, safetensors,
zstandard and xxhash. Speeds are bytes of the weights in a second, the best of three runs.
"""

import argparse
import json
import sys
import time


def best(work, runs=3):
    """Returns the result of the last run and the shortest time, seconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return result, min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", required=True, help="checkout of the reference")
    parser.add_argument("--files", nargs=2, required=True, metavar=("BASE", "CURRENT"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.reference)

    from grail.infrastructure import delta_checkpoint, sparse_codec
    from safetensors.torch import load_file

    base, current = (load_file(path) for path in arguments.files)
    size = sum(tensor.numel() * tensor.element_size() for tensor in current.values())
    dtype = next(iter(base.values())).dtype

    encode = sparse_codec.encode_sparse_delta_v3_1
    decode = sparse_codec.decode_sparse_delta_v3_1
    (sparse, shapes, _), find_s = best(
        lambda: delta_checkpoint.compute_sparse_delta(current, base, threshold=0.0)
    )
    frame, encode_s = best(lambda: encode(sparse, shapes))
    (sparse, shapes), decode_s = best(lambda: decode(frame))
    # On a CPU the base itself is written to, so a copy of it is part of the work.
    applied, apply_s = best(
        lambda: delta_checkpoint.apply_sparse_delta(
            {name: tensor.clone() for name, tensor in base.items()}, sparse, shapes, dtype
        )
    )
    digest, hash_s = best(lambda: delta_checkpoint.compute_weights_hash(applied))
    assert digest == delta_checkpoint.compute_weights_hash(current), "the delta leads elsewhere"

    rows = {
        "v3.1 find changes GB/s": size / find_s / 1e9,
        "v3.1 encode GB/s": size / encode_s / 1e9,
        "v3.1 decode GB/s": size / decode_s / 1e9,
        "v3.1 apply to a copy GB/s": size / apply_s / 1e9,
        "weights hash GB/s": size / hash_s / 1e9,
        "v3.1 delta bytes": len(frame),
    }
    if arguments.json:
        print(json.dumps(rows))
        return
    for name, value in rows.items():
        print(f"{name:<32} {value:>14.3f}")


if __name__ == "__main__":
    main()
