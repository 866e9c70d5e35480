#!/usr/bin/env python3
"""Compares the engine with PyTorch, llama.cpp and candle: the same model, tokens and threads.

    ./run.py MODEL_FOLDER [--rows decode1,decode16,...] [--rounds N] [--threads N] [--json FILE]

Engines take turns (A B C, A B C, ...), each in a fresh process that warms up, repeats the work and
tells its own seconds and peak memory. What is printed are medians over all rounds, their spread,
and the ratios to the bars. Needs nothing but Python; setup.sh prepares the peers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
GRAIL = HERE / "../../target/release/grail"
SCHEMA_VERSION = 1
# Longest that one engine may take for one turn.
TURN_SECONDS_MAX = 240

# Row: our row id, and the peers with how often each repeats in a turn.
ROWS = {
    "decode1": ("decode.1", {"llama": 3, "llama-top-k": 3, "torch-bf16": 2, "candle": 1}),
    "decode16": ("decode.16", {"llama": 2, "llama-top-k": 2, "torch-bf16": 2, "torch-f32": 1, "candle": 1}),
    "prefill": ("prefill", {"llama": 1, "torch-bf16": 1, "torch-f32": 1, "candle": 1}),
    "verify": ("score", {"torch-bf16": 1, "torch-f32": 1, "candle": 1}),
    "train": ("train", {"torch-bf16": 1, "torch-f32": 1, "candle": 1}),
}
# Row, peer and the least ratio of our speed to the peer's.
SPEED_BARS = [
    ("decode1", "llama", 1.1),
    ("decode16", "llama", 1.5),
    ("decode16", "torch-bf16", 3.0),
    ("prefill", "torch-f32", 2.5),
    ("prefill", "torch-bf16", 1.0),
    ("prefill", "llama", 1.2),
    ("prefill", "candle", 2.0),
    ("verify", "torch-f32", 2.5),
    ("verify", "torch-bf16", 1.0),
    ("verify", "candle", 2.0),
    ("train", "torch-f32", 2.0),
    ("train", "torch-bf16", 1.2),
    ("train", "candle", 1.5),
]
# Rows that the engine measures against itself or the machine: row, field, bar, whether it is the
# least or the most.
OWN_BARS = [
    ("step.1", "read_share", 0.8, "least"),
    ("ratio.capture_cost", "value", 0.02, "most"),
    ("ratio.race_share", "value", 0.05, "most"),
    ("ratio.generate_over_verify", "value", 4.0, "least"),
]
GEMM_ROWS = (16, 64, 256, 512)
GEMM_BAR = 0.8


def command(engine, row, options):
    """Returns the command line of one turn."""
    ours, peers = ROWS[row]
    folder, threads = options.folder, str(options.threads)
    if engine == "grail":
        line = [GRAIL, "bench", "engine", "--model", folder, "--threads", threads]
        return [*line, "--only", ours, "--json"]
    repetitions = str(peers[engine])
    if engine == "candle":
        return [HERE / "candle/target/release/peer-candle", folder, row, threads, repetitions]
    if engine.startswith("torch-"):
        python, dtype = HERE / ".venv/torch/bin/python", engine.removeprefix("torch-")
        return [python, HERE / "peer_torch.py", folder, row, threads, repetitions, dtype]
    python, model = HERE / ".venv/llama/bin/python", HERE / ".venv/model-bf16.gguf"
    kind = row + engine.removeprefix("llama")
    return [python, HERE / "peer_llama.py", model, kind, threads, repetitions]


def run_json(line):
    """Runs a command and returns the JSON object that it prints last."""
    line = [str(part) for part in line]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=TURN_SECONDS_MAX, env=environment
    )
    start = done.stdout.find("{")
    if done.returncode != 0 or start < 0:
        sys.exit(f"{' '.join(line)}\nended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout[start:])


def turn(engine, row, options):
    """Runs one turn; returns seconds of each repetition, tokens, and peak memory."""
    found = run_json(command(engine, row, options))
    if engine != "grail":
        return found["seconds"], found["tokens"], found["peak_bytes"]
    # The command gives the median of its repetitions and their range.
    (ours,) = [entry for entry in found["rows"] if entry["id"] == ROWS[row][0]]
    return [ours["seconds"]], ours["tokens"], ours["peak_bytes"]


def compare(row, options):
    """Runs the rounds of one row; returns what each engine did."""
    engines = ["grail", *ROWS[row][1]]
    if options.engines:
        engines = [engine for engine in engines if engine in options.engines]
    samples = {engine: [] for engine in engines}
    peaks = {engine: 0 for engine in engines}
    for number in range(options.rounds):
        for engine in engines:
            seconds, tokens, peak = turn(engine, row, options)
            samples[engine] += [tokens / one for one in seconds]
            peaks[engine] = max(peaks[engine], peak)
            told = ", ".join(f"{tokens / one:.1f}" for one in seconds)
            print(f"# {row} round {number + 1}: {engine} {told} tokens/s", file=sys.stderr)
    return {
        engine: {
            "tokens_per_s": statistics.median(speeds),
            "tokens_per_s_min": min(speeds),
            "tokens_per_s_max": max(speeds),
            "samples": len(speeds),
            "peak_bytes": peaks[engine],
        }
        for engine, speeds in samples.items()
    }


def judge(bars, row, name, value, bar, kind):
    """Adds one bar and whether it is met."""
    met = value >= bar if kind == "least" else value <= bar
    entry = {"row": row, "against": name, "value": value, "bar": bar, "kind": kind, "met": met}
    bars.append(entry)


def speed_bars(row, engines, bars):
    """Judges the ratios of a row to the peers."""
    if "grail" not in engines:
        return
    ours = engines["grail"]
    for bar_row, peer, bar in SPEED_BARS:
        if bar_row == row and peer in engines:
            ratio = ours["tokens_per_s"] / engines[peer]["tokens_per_s"]
            judge(bars, row, peer, ratio, bar, "least")
    for peer, found in engines.items():
        if row == "train" and peer != "grail":
            ratio = ours["peak_bytes"] / found["peak_bytes"]
            judge(bars, "train memory", peer, ratio, 1.0, "most")


def own_bars(options, bars):
    """Measures and judges what the engine is compared with itself and the machine."""
    only = ["ratio", *(row for row, *_ in OWN_BARS if not row.startswith("ratio"))]
    gemm = [f"gemm.{name}" for name in ("qkv", "o", "gate_up", "down")]
    line = [GRAIL, "bench", "engine", "--model", options.folder, "--threads", options.threads]
    report = run_json([*line, "--json", "--only", ",".join([*only, *gemm, "head"])])
    found = {entry["id"]: entry for entry in report["rows"] + report["ratios"]}
    for row, field, bar, kind in OWN_BARS:
        if row in found:
            judge(bars, row, field, found[row][field], bar, kind)
    for name in [*gemm, "head"]:
        for rows in GEMM_ROWS:
            row = f"head.{rows}" if name == "head" else f"{name}.{rows}.hot"
            judge(bars, row, "fma_share", found[row]["fma_share"], GEMM_BAR, "least")
    return report


def print_row(row, engines):
    print(f"\n{row:<10} {'engine':<12} {'tokens/s':>10} {'lowest':>10} {'highest':>10} {'peak MiB':>9}")
    for engine, found in engines.items():
        speeds = [found[key] for key in ("tokens_per_s", "tokens_per_s_min", "tokens_per_s_max")]
        cells = " ".join(f"{speed:>10.1f}" for speed in speeds)
        print(f"{'':<10} {engine:<12} {cells} {found['peak_bytes'] / 2**20:>9.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="bf16 model folder")
    parser.add_argument("--rows", default=",".join([*ROWS, "own"]), help="comma-separated; own: ratios to itself and the machine")
    parser.add_argument("--engines", help="only these, comma-separated, such as grail,llama")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    options.engines = options.engines.split(",") if options.engines else None
    result = {"schema_version": SCHEMA_VERSION, "threads": options.threads, "rounds": options.rounds}
    rows, bars, own = {}, [], None
    for row in options.rows.split(","):
        if row == "own":
            own = own_bars(options, bars)
        elif row in ROWS:
            rows[row] = compare(row, options)
            speed_bars(row, rows[row], bars)
            print_row(row, rows[row])
        else:
            parser.error(f"no row {row}; rows are {', '.join(ROWS)}, own")
    print(f"\n{'row':<28} {'against':<12} {'value':>8} {'bar':>8}")
    for bar in bars:
        sign = ">=" if bar["kind"] == "least" else "<="
        verdict = "" if bar["met"] else "  MISSED"
        print(f"{bar['row']:<28} {bar['against']:<12} {bar['value']:>8.3f} {sign}{bar['bar']:>6}{verdict}")
    if options.json:
        result |= {"rows": rows, "bars": bars, "own": own}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
