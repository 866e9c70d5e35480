"""Makes the golden vectors of tests/vectors/golden/lora: gradients of LoRA pairs by PyTorch.

Made with Python 3.11, torch 2.15.0 (CPU), transformers 5.23.0, safetensors 0.8.

    python3 make_lora_golden.py GOLDEN_FOLDER

reads GOLDEN_FOLDER/qwen2 (made by make_golden.py) and its sequences, and writes GOLDEN_FOLDER/lora:
  case.json              rank, alpha, targets, loss
  expected.safetensors   pair.NAME: random values of each A and B; grad.NAME: their gradients

Every target W is used as W + alpha / rank * (B A), all in f32 on one thread, eager attention. The
loss is that of make_golden.py. Names are those of PEFT without its prefix.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.func import functional_call
from transformers import AutoModelForCausalLM

RANK = 3
ALPHA = 7
TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]


def main():
    torch.set_num_threads(1)
    golden = Path(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(
        golden / "qwen2", dtype=torch.float32, attn_implementation="eager"
    )
    generator = torch.Generator().manual_seed(3)
    pairs, merged = {}, dict(model.named_parameters())
    for name, weight in model.named_parameters():
        stem = name.removesuffix(".weight")
        if stem.split(".")[-1] not in TARGETS or name == stem:
            continue
        out_features, in_features = weight.shape
        a = torch.randn(RANK, in_features, generator=generator) / in_features**0.5
        b = torch.randn(out_features, RANK, generator=generator) / 4
        pairs[f"{stem}.lora_A.weight"] = a.requires_grad_()
        pairs[f"{stem}.lora_B.weight"] = b.requires_grad_()
        merged[name] = weight.detach() + ALPHA / RANK * (b @ a)
    case = json.loads((golden / "qwen2" / "case.json").read_text())
    loss = torch.zeros(())
    for sequence in case["sequences"]:
        ids = torch.tensor(sequence["input_ids"])
        logits = functional_call(model, merged, (ids[None],)).logits[0]
        logprobs = torch.log_softmax(logits[:-1], -1).gather(1, ids[1:, None])[:, 0]
        loss = loss - (torch.tensor(sequence["weights"]) * logprobs).sum()
    loss.backward()
    expected = {}
    for name, pair in pairs.items():
        expected[f"pair.{name}"] = pair.detach().contiguous()
        expected[f"grad.{name}"] = pair.grad.contiguous()
    folder = golden / "lora"
    folder.mkdir(exist_ok=True)
    save_file(expected, folder / "expected.safetensors")
    facts = {"rank": RANK, "alpha": ALPHA, "targets": TARGETS, "loss": loss.item()}
    (folder / "case.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
