"""Makes the golden vectors of tests/vectors/golden: tiny random models and what PyTorch computes.

Made with Python 3.11, torch 2.15.0 (CPU), transformers 5.23.0, safetensors 0.8.

    python3 make_golden.py OUT_FOLDER

For each architecture OUT_FOLDER/NAME gets
  config.json, model.safetensors   the model (f32), as `save_pretrained` writes it
  case.json                        input ids, loss weights, loss, optimiser settings
  expected.safetensors             logits.I, logprobs.I, hidden.I of sequence I; grad.NAME of every
                                   parameter; for llama also adamw.NAME after one AdamW step
and OUT_FOLDER/adamw.json holds three AdamW steps on a vector of eight numbers.

The loss is   -sum over sequences and positions t of  weights[t] * logprob(ids[t + 1] | ids[..=t]),
with weights of both signs, as advantages have. Everything is f32 on one thread, eager attention.
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

SHARED = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=36,
    num_hidden_layers=2,
    max_position_embeddings=128,
    hidden_act="silu",
    attention_dropout=0.0,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)

CONFIGS = {
    # Grouped queries (two per key head), tied head.
    "llama": LlamaConfig(
        **SHARED,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
    ),
    # Biases on q, k, v; one key head; untied head.
    "qwen2": Qwen2Config(
        **SHARED,
        num_attention_heads=4,
        num_key_value_heads=1,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        tie_word_embeddings=False,
    ),
    # Norms on q and k heads; heads * head_dim differs from the hidden size; untied head.
    "qwen3": Qwen3Config(
        **SHARED,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        tie_word_embeddings=False,
    ),
}

LENGTHS = [19, 7]
ADAMW = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)


def randomise(model, generator):
    """Draws weights large enough that attention is far from uniform and every term counts."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif "norm" in name:
                parameter.copy_(1.0 + 0.2 * noise)
            elif "embed" in name:
                parameter.copy_(0.7 * noise)
            else:
                parameter.copy_(1.5 * noise / math.sqrt(parameter.shape[1]))


def make(name, config, folder):
    generator = torch.Generator().manual_seed(1000 + len(name) + ord(name[-1]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.to(torch.float32)
    randomise(model, generator)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    expected, case, loss = {}, {"sequences": []}, torch.zeros(())
    for index, length in enumerate(LENGTHS):
        ids = torch.randint(0, config.vocab_size, (length,), generator=generator)
        weights = torch.randn(length - 1, generator=generator)
        out = model(input_ids=ids[None], output_hidden_states=True)
        logits = out.logits[0]  # [length, vocab]
        logprobs = torch.log_softmax(logits[:-1], dim=-1).gather(1, ids[1:, None])[:, 0]
        loss = loss - (weights * logprobs).sum()
        # The last entry is the input of lm_head: after the final norm.
        hidden = out.hidden_states[-1][0]
        assert torch.allclose(model.lm_head(hidden), logits, atol=1e-4)
        expected[f"hidden.{index}"] = hidden.detach().contiguous()
        expected[f"logits.{index}"] = logits.detach().contiguous()
        expected[f"logprobs.{index}"] = logprobs.detach().contiguous()
        case["sequences"].append({"input_ids": ids.tolist(), "weights": weights.tolist()})

    loss.backward()
    case["loss"] = loss.item()
    parameters = dict(model.named_parameters())
    for parameter_name, parameter in parameters.items():
        assert parameter.grad is not None, parameter_name
        expected[f"grad.{parameter_name}"] = parameter.grad.detach().clone().contiguous()
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters.values()])
    case["grad_norm"] = norm.item()

    if name == "llama":
        case["adamw"] = ADAMW
        torch.optim.AdamW(parameters.values(), foreach=False, **ADAMW).step()
        for parameter_name, parameter in parameters.items():
            expected[f"adamw.{parameter_name}"] = parameter.detach().clone().contiguous()

    save_file(expected, folder / "expected.safetensors")
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")


def make_adamw(path):
    generator = torch.Generator().manual_seed(7)
    parameter = torch.nn.Parameter(torch.randn(8, generator=generator))
    optimizer = torch.optim.AdamW([parameter], foreach=False, **ADAMW)
    steps = [{"parameter": parameter.tolist()}]
    for _ in range(3):
        parameter.grad = torch.randn(8, generator=generator)
        optimizer.step()
        state = optimizer.state[parameter]
        steps.append(
            {
                "grad": parameter.grad.tolist(),
                "parameter": parameter.tolist(),
                "exp_avg": state["exp_avg"].tolist(),
                "exp_avg_sq": state["exp_avg_sq"].tolist(),
            }
        )
    path.write_text(json.dumps({"adamw": ADAMW, "steps": steps}, indent=1) + "\n")


def main():
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for name, config in CONFIGS.items():
        make(name, config, out / name)
    make_adamw(out / "adamw.json")


if __name__ == "__main__":
    main()
