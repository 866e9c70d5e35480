"""Makes the golden vectors of tests/vectors/golden: tiny random models and what PyTorch computes.

Made with Python 3.11, torch 2.15.0 (CPU), transformers 5.23.0, safetensors 0.8.

    python3 make_golden.py OUT_FOLDER

For each architecture OUT_FOLDER/NAME gets
  config.json, model.safetensors   the model (f32), as `save_pretrained` writes it
  case.json                        input ids, loss weights, loss, optimiser settings
  expected.safetensors             logits.I, logprobs.I, hidden.I of sequence I; grad.NAME of every
                                   parameter; for llama also adamw.NAME after one AdamW step
and OUT_FOLDER/adamw.json holds three AdamW steps on a vector of eight numbers, OUT_FOLDER/rope.json
configurations with the rotary frequencies and the factor of cosines and sines that transformers
computes for them.

The loss is   -sum over sequences and positions t of  weights[t] * logprob(ids[t + 1] | ids[..=t]),
with weights of both signs, as advantages have. Everything is f32 on one thread, eager attention.

Gemma3Attention reads attn_logit_softcapping but does not hand it to its attention function; that
function takes it as `softcap`, and so it is given here.
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

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

# Smaller, for one feature or two each.
TINY = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=128,
    attention_dropout=0.0,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)

CONFIGS |= {
    # Biases everywhere, untied head, angles divided by 4.
    "llama-linear": LlamaConfig(
        **TINY,
        head_dim=16,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        tie_word_embeddings=False,
    ),
    # Of eight angles one is kept, two are on the ramp, five are divided.
    "llama-llama3": LlamaConfig(
        **TINY,
        head_dim=16,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        tie_word_embeddings=True,
    ),
    # Yarn as Qwen2.5's documentation has it, scaled down; tied head.
    "qwen2-yarn": Qwen2Config(
        **TINY,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        tie_word_embeddings=True,
    ),
    # The first layer attends to everything, the second to five positions.
    "qwen2-window": Qwen2Config(
        **TINY,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
        tie_word_embeddings=False,
    ),
    # Yarn with every parameter, a window in the first layer, biases.
    "qwen3-yarn-window": Qwen3Config(
        **TINY,
        head_dim=16,
        attention_bias=True,
        use_sliding_window=True,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 5000.0,
            "factor": 3.0,
            "original_max_position_embeddings": 40,
            "beta_fast": 4.0,
            "beta_slow": 0.5,
            "mscale": 1.2,
            "mscale_all_dim": 0.6,
            "truncate": False,
        },
        tie_word_embeddings=True,
    ),
    # A scale of scores that is not the head's; tied head, as published.
    "gemma3": Gemma3TextConfig(
        **(TINY | {"num_hidden_layers": 3, "vocab_size": SHARED["vocab_size"]}),
        head_dim=16,
        query_pre_attn_scalar=24,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        tie_word_embeddings=True,
    ),
    # Both soft-caps, biases, untied head, angles of the first layer divided by 8.
    "gemma3-capped": Gemma3TextConfig(
        **TINY,
        head_dim=16,
        query_pre_attn_scalar=16,
        attention_bias=True,
        sliding_window=7,
        layer_types=["full_attention", "sliding_attention"],
        attn_logit_softcapping=3.0,
        final_logit_softcapping=5.0,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 100000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        },
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
                # Gemma stores the distance to one.
                centre = 0.0 if model.config.model_type.startswith("gemma") else 1.0
                parameter.copy_(centre + 0.2 * noise)
            elif "embed" in name:
                parameter.copy_(0.7 * noise)
            else:
                parameter.copy_(1.5 * noise / math.sqrt(parameter.shape[1]))


def attention_cap(config):
    cap = getattr(config, "attn_logit_softcapping", None)
    return {} if cap is None else {"softcap": cap}


def make(name, config, folder):
    generator = torch.Generator().manual_seed(1000 + len(name) + ord(name[-1]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.to(torch.float32)
    randomise(model, generator)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    expected, case, loss = {}, {"sequences": []}, torch.zeros(())
    # PyTorch gives the embedding of the padding token no gradient, so it must not occur; the first
    # three models were drawn before this was known and happen to be without it.
    lowest = 0 if name in ["llama", "qwen2", "qwen3"] else 1
    for index, length in enumerate(LENGTHS):
        ids = torch.randint(lowest, config.vocab_size, (length,), generator=generator)
        weights = torch.randn(length - 1, generator=generator)
        out = model(input_ids=ids[None], output_hidden_states=True, **attention_cap(config))
        logits = out.logits[0]  # [length, vocab]
        logprobs = torch.log_softmax(logits[:-1], dim=-1).gather(1, ids[1:, None])[:, 0]
        loss = loss - (weights * logprobs).sum()
        # The last entry is the input of lm_head: after the final norm.
        hidden = out.hidden_states[-1][0]
        capped = model.lm_head(hidden)
        if cap := getattr(config, "final_logit_softcapping", None):
            capped = cap * torch.tanh(capped / cap)
        assert torch.allclose(capped, logits, atol=1e-4)
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


def make_rope(path):
    """Published shapes and their scalings, and the corners of each formula."""
    llama3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    yarn = {"rope_type": "yarn", "factor": 4.0}
    cases = [
        (128, 10000.0, 4096, {"rope_type": "default"}),
        (64, 100000.0, 8192, {"rope_type": "default"}),
        (128, 10000.0, 16384, {"rope_type": "linear", "factor": 4.0}),
        (256, 1000000.0, 131072, {"rope_type": "linear", "factor": 8.0}),
        # Llama 3.1 8B, Llama 3.2 1B.
        (128, 500000.0, 131072, llama3 | {"factor": 8.0, "original_max_position_embeddings": 8192}),
        (64, 500000.0, 131072, llama3 | {"factor": 32.0, "original_max_position_embeddings": 8192}),
        # No original length: that of the model.
        (64, 500000.0, 4096, llama3 | {"factor": 2.5, "high_freq_factor": 3.0}),
        # Qwen2.5 and Qwen3 with their documented scaling.
        (128, 1000000.0, 131072, yarn | {"original_max_position_embeddings": 32768}),
        (128, 1000000.0, 32768, yarn),
        (128, 1000000.0, 131072, yarn | {"truncate": False, "original_max_position_embeddings": 32768}),
        # Mscale as DeepSeek has it (a ratio of one), with a ratio, with one of the two, with zero.
        (64, 10000.0, 163840, yarn | {"factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0}),
        (64, 10000.0, 163840, yarn | {"factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.5}),
        (64, 10000.0, 8192, yarn | {"mscale": 0.707}),
        (64, 10000.0, 8192, yarn | {"mscale": 0.707, "mscale_all_dim": 0.0}),
        (64, 10000.0, 8192, yarn | {"attention_factor": 0.75, "mscale": 2.0, "mscale_all_dim": 1.0}),
        (64, 10000.0, 8192, yarn | {"beta_fast": 16.0, "beta_slow": 2.0, "factor": 1.0}),
        (64, 10000.0, 8192, yarn | {"beta_fast": 0.0, "beta_slow": 0.0}),
        # The ramp ends where it begins, before the first pair, after the last one.
        (64, 10000.0, 8192, yarn | {"beta_fast": 8.0, "beta_slow": 8.0, "truncate": False}),
        (64, 10000.0, 8192, yarn | {"original_max_position_embeddings": 4}),
        (16, 2.0, 8192, yarn),
    ]
    out = []
    for head_dim, theta, positions, parameters in cases:
        config = LlamaConfig(
            **(TINY | {"max_position_embeddings": positions}),
            head_dim=head_dim,
            rope_parameters=parameters | {"rope_theta": theta},
        )
        written = json.loads(config.to_json_string(use_diff=False))
        kept = {key: written[key] for key in [*TINY, "head_dim", "rms_norm_eps"]}
        kept |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        kept["rope_parameters"] = parameters | {"rope_theta": theta}
        kind = parameters["rope_type"]
        if kind == "default":
            frequencies, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
        else:
            frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config)
        out.append(
            {"config": kept, "inv_freq": frequencies.tolist(), "attention_factor": factor}
        )
    path.write_text(json.dumps(out) + "\n")


def main():
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for name, config in CONFIGS.items():
        make(name, config, out / name)
    make_adamw(out / "adamw.json")
    make_rope(out / "rope.json")


if __name__ == "__main__":
    main()
