"""Makes the vectors of tests/vectors/gguf with gguf-py, the writer and dequantiser of llama.cpp.

Made with Python 3.11, gguf 0.19.0, numpy, torch 2.15.0, transformers 5.23.0 (with
accelerate), safetensors 0.8.

    python3 make_gguf_vectors.py GOLDEN_FOLDER OUT_FOLDER

quants.json        for each packed type two random blocks (hex) and the f32 values (hex,
                   little-endian) that gguf-py unpacks them to
NAME.gguf          the golden model NAME of make_golden.py as GGUF, in several types
expected.json      for each of them the SHA-256 of the bf16 safetensors file it must become
"""

import hashlib
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file
from safetensors.torch import save
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

Type = gguf.GGMLQuantizationType
PACKED = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]

# Which bytes of a block are binary16 scales.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}

NAMES = [
    ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"),
    ("model.layers", "blk"), ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"), ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"), ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"), ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"),
]

# The type of each model's matrices; rows that are not whole blocks stay F16, vectors F32.
MATRIX_TYPES = {"llama": Type.Q8_0, "qwen2": Type.Q4_0, "qwen3": Type.BF16}


def make_quants(path):
    source = np.random.default_rng(3)
    cases = {}
    for name in PACKED:
        kind = Type[name]
        block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        n_blocks = 2 if block_len > 1 else 16
        data = source.integers(0, 256, (n_blocks, block_bytes), dtype=np.uint8)
        for block in data:
            for offset in SCALES.get(name, []):
                scale = np.float16(source.normal() * 0.02)
                block[offset : offset + 2] = np.frombuffer(scale.tobytes(), np.uint8)
            if block_len == 1:
                # Plain floats: any bits but those of infinities and NaN.
                block[1] &= 0xBB
        values = dequantize(data.reshape(-1) if block_len == 1 else data, kind)
        values = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
        assert np.isfinite(values).all() and values.size == n_blocks * block_len
        cases[name] = {"blocks": data.tobytes().hex(), "values": values.tobytes().hex()}
    path.write_text(json.dumps(cases, indent=1) + "\n")


def permute(rows, heads):
    """What llama.cpp's converter does to q and k of a Llama."""
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def tokens():
    """Three control tokens, the printable bytes that fit, and one merge."""
    plain = [chr(c) for c in range(ord("!"), ord("~") + 1)][:90]
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + plain + ["Ġ", "Ġa", "unused"]


def make_model(name, golden, out):
    config = json.loads((golden / "config.json").read_text())
    weights = load_file(golden / "model.safetensors")
    writer = gguf.GGUFWriter(out / f"{name}.gguf", name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])

    vocabulary = tokens()
    assert len(vocabulary) == config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if name == "llama" else "qwen2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, 3, 3] + [1] * (len(vocabulary) - 4) + [5])
    writer.add_token_merges(["Ġ a"])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")

    expected = {}
    for tensor_name, values in weights.items():
        short = tensor_name
        for theirs, ours in NAMES:
            short = short.replace(theirs, ours)
        heads = None
        if name == "llama" and ".q_proj" in tensor_name:
            heads = config["num_attention_heads"]
        if name == "llama" and ".k_proj" in tensor_name:
            heads = config["num_key_value_heads"]
        stored = permute(values, heads) if heads else values
        kind = MATRIX_TYPES[name] if values.ndim == 2 else Type.F32
        if values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = Type.F16
        if kind == Type.F32:
            writer.add_tensor(short, np.ascontiguousarray(stored))
            unpacked = values
        else:
            packed = quantize(np.ascontiguousarray(stored), kind)
            writer.add_tensor(short, packed, raw_dtype=kind)
            # Rows are packed one by one, so the order of rows does not matter to their values.
            unpacked = dequantize(quantize(values, kind), kind).reshape(values.shape)
        unpacked = np.ascontiguousarray(unpacked, dtype=np.float32)
        expected[tensor_name] = torch.from_numpy(unpacked).to(torch.bfloat16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    # A second opinion: transformers unpacks the same file.
    # Of Qwen3 it reads no head size, hence the configuration.
    model = AutoModelForCausalLM.from_pretrained(
        out, gguf_file=f"{name}.gguf", dtype=torch.bfloat16,
        config=AutoConfig.from_pretrained(golden), quantization_config=GgufConfig(dequantize=True),
    )
    theirs = model.state_dict()
    for tensor_name, values in expected.items():
        assert torch.equal(theirs[tensor_name], values), tensor_name
    return hashlib.sha256(save(expected, {"format": "pt"})).hexdigest()


def main():
    golden, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    make_quants(out / "quants.json")
    digests = {name: make_model(name, golden / name, out) for name in MATRIX_TYPES}
    (out / "expected.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
