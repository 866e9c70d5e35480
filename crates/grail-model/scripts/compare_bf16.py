"""Compares both runtimes with torch, row by row, and finds the operation whose rounding matters.

    GRAIL_TEST_MODEL_QWEN=MODEL GRAIL_TEST_WRITE_SCORES=FOLDER \\
        cargo test -p grail-model --test engine real_model_bf16_runtime -- --nocapture
    python compare_bf16.py MODEL FOLDER

Needs torch, transformers, safetensors and numpy. MODEL has its LM head apart (not tied).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

MODEL, FOLDER = sys.argv[1], Path(sys.argv[2])
# Sequences with the largest margins, and others between them.
WORST, OTHERS = 5, 4
TOP = 20  # tokens whose logits are compared


def load(dtype, attention):
    return AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=dtype, attn_implementation=attention
    ).eval()


def rows(model, sequences):
    """The LM head's input at every position that predicts a completion token."""
    seen = {}
    hook = model.model.norm.register_forward_hook(
        lambda _m, _i, out: seen.__setitem__("rows", out.detach().float())
    )
    found = []
    with torch.no_grad():
        for sequence in sequences:
            model(torch.tensor([sequence["tokens"]]), use_cache=False)
            found.append(seen["rows"][0][sequence["prompt_len"] - 1 : -1].numpy())
    hook.remove()
    return np.concatenate(found)


def error(found, wanted):
    return np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)


def rounded(_module, _inputs, out):
    if isinstance(out, tuple):
        return (out[0].bfloat16().float(), *out[1:])
    return out.bfloat16().float()


def main():
    torch.set_num_threads(2)
    listed = json.loads((FOLDER / "exact-prefill.json").read_text())
    hidden = json.loads((Path(MODEL) / "config.json").read_text())["hidden_size"]
    lengths = [len(sequence["margins"]) for sequence in listed]
    starts = np.cumsum([0, *lengths])
    margins = np.concatenate([sequence["margins"] for sequence in listed])
    order = np.argsort(-margins)
    of = lambda row: int(np.searchsorted(starts, row, "right") - 1)
    worst = list(dict.fromkeys(of(row) for row in order))[:WORST]
    chosen = worst + [i for i in range(0, len(listed), 8) if i not in worst][:OTHERS]
    sequences = [listed[i] for i in chosen]
    print(f"{len(margins)} tokens, largest margins {np.round(margins[order[:8]], 3).tolist()}")

    def ours(name):
        values = np.fromfile(FOLDER / f"{name}.f32", dtype="<f4").reshape(-1, hidden)
        return np.concatenate([values[starts[i] : starts[i + 1]] for i in chosen])

    with safe_open(next(Path(MODEL).glob("*.safetensors")), "pt") as file:
        head = file.get_tensor("lm_head.weight").float().numpy()
    exact = load(torch.float32, "eager")
    wanted = rows(exact, sequences)
    logits = wanted @ head.T
    top = np.argpartition(-logits, TOP, axis=1)[:, :TOP]
    kinds = {
        "exact-1": ours("exact-prefill"),
        "bf16-1": ours("bf16-prefill"),
        "torch bf16, eager": rows(load(torch.bfloat16, "eager"), sequences),
        "torch bf16, sdpa": rows(load(torch.bfloat16, "sdpa"), sequences),
    }
    shown = sorted(int(row) for row in order[:3])
    places = [
        sum(lengths[i] for i in chosen[: chosen.index(of(row))]) + int(row - starts[of(row)])
        for row in shown
    ]
    print(f"against torch f32, {len(wanted)} rows; the last column: rows of {shown}")
    for name, found in kinds.items():
        wrong = error(found, wanted)
        apart = np.take_along_axis(found @ head.T - logits, top, 1)
        apart = np.abs(apart - apart.mean(1, keepdims=True)).max(1)
        print(
            f"  {name:20} relative error: mean {wrong.mean():.5f}, p99 {np.quantile(wrong, 0.99):.5f}, "
            f"max {wrong.max():.5f}; logits, nats: p99 {np.quantile(apart, 0.99):.4f}, "
            f"max {apart.max():.4f}; {np.round(wrong[places], 4).tolist()}"
        )

    layers = exact.model.layers
    attention = lambda name: [getattr(layer.self_attn, name) for layer in layers]
    for name in ("q_proj", "k_proj"):
        largest = [round(float(it.bias.detach().abs().max()), 1) for it in attention(name)]
        print(f"largest {name} bias by layer: {largest}")
    print("torch f32, rounding to bf16 only the output of")
    places_of = {
        "q_proj": attention("q_proj"),
        "k_proj": attention("k_proj"),
        "k_proj, layers 0 to 2": attention("k_proj")[:3],
        "k_proj, layers from 3": attention("k_proj")[3:],
        "v_proj": attention("v_proj"),
        "o_proj": attention("o_proj"),
        "input_layernorm": [layer.input_layernorm for layer in layers],
        "post_attention_layernorm": [layer.post_attention_layernorm for layer in layers],
        "mlp": [layer.mlp for layer in layers],
        "the layer": list(layers),
    }
    near = [listed[i] for i in worst]
    count = sum(lengths[i] for i in worst)
    for name, modules in places_of.items():
        hooks = [module.register_forward_hook(rounded) for module in modules]
        wrong = error(rows(exact, near), wanted[:count])
        for hook in hooks:
            hook.remove()
        print(
            f"  {name:26} relative error: median {np.median(wrong):.4f}, max {wrong.max():.4f}; "
            f"{np.round(wrong[places], 4).tolist()}"
        )


main()
