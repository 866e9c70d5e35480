"""Writes a Llama-type Hugging Face folder as a GGUF file with bf16 matrices, for llama.cpp.

    python gguf_from_folder.py FOLDER TOKENIZER.gguf OUTPUT.gguf

The tokenizer's keys are copied from TOKENIZER.gguf, any GGUF file of the same model. Matrices stay
bf16, vectors become f32, as llama.cpp wants them.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def tensors(path):
    """Yields `(name, bf16 values as u16)` of a safetensors file."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    header_len = int(data[:8].view("<u8")[0])
    header = json.loads(bytes(data[8 : 8 + header_len]))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            sys.exit(f"{name} has dtype {entry['dtype']}; only BF16 folders are supported")
        start, end = entry["data_offsets"]
        raw = data[8 + header_len + start : 8 + header_len + end]
        yield name, np.frombuffer(bytes(raw), dtype="<u2").reshape(entry["shape"])


def interleave(rows, heads):
    """Reorders the rows of q or k: GGUF pairs rotary values (0, 1), the folder (0, head_dim / 2)."""
    out, width = rows.shape
    return rows.reshape(heads, 2, out // heads // 2, width).swapaxes(1, 2).reshape(out, width)


def gguf_name(name):
    """Returns the GGUF name of a tensor of the folder."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    if name == "lm_head.weight":
        return "output.weight"
    _, _, layer, *rest, kind = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(rest)]}.{kind}"


def main():
    folder, tokenizer, output = (Path(argument) for argument in sys.argv[1:4])
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "llama" or config.get("rope_scaling"):
        sys.exit("only Llama models without RoPE scaling are supported")
    writer = gguf.GGUFWriter(output, "llama")
    writer.add_name(folder.name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for field in gguf.GGUFReader(tokenizer).fields.values():
        if field.name.startswith("tokenizer."):
            kind = field.types[0]
            element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=element)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for shard in sorted(folder.glob("*.safetensors")):
        for name, values in tensors(shard):
            for projection, count in heads.items():
                if name.endswith(f"{projection}.weight"):
                    values = interleave(values, count)
            if values.ndim == 1:
                single = (values.astype(np.uint32) << 16).view(np.float32)
                writer.add_tensor(gguf_name(name), single)
            else:
                half = np.ascontiguousarray(values).view(np.uint8)
                writer.add_tensor(gguf_name(name), half, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
