"""Makes the golden vectors of tests/vectors/real: what PyTorch computes for published models.

Made with Python 3.11, torch 2.15.0 (CPU), transformers 5.23.0.

    python3 make_real_golden.py MODEL_FOLDER OUT.json

MODEL_FOLDER is what `grail model import` made. Its bf16 weights are widened and everything is
computed in f32, eager attention. OUT.json gets the token ids of a text, the likeliest next token and
the log-probability of the true one at every position, and every `stride`-th logit at three positions.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = (
    "def gcd(a: int, b: int) -> int:\n    while b:\n        a, b = b, a % b\n    return a\n\n"
    "The greatest common divisor of 48 and 18 is 6, since 48 = 6 * 8 and 18 = 6 * 3. "
)
LOGITS_KEPT = 500


def main():
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    ids = AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]  # [len, vocab]
    logprobs = torch.log_softmax(logits[:-1], dim=-1)
    true = torch.tensor(ids[1:])
    stride = logits.shape[1] // LOGITS_KEPT
    positions = [0, len(ids) // 2, len(ids) - 1]
    case = {
        "input_ids": ids,
        "argmax": logits.argmax(dim=-1).tolist(),
        "logprobs": logprobs.gather(1, true[:, None])[:, 0].tolist(),
        "stride": stride,
        "logits": {str(p): logits[p, ::stride].tolist() for p in positions},
    }
    top = logits.topk(2, dim=-1).values
    print("smallest gap of the two likeliest tokens", (top[:, 0] - top[:, 1]).min().item())
    out.write_text(json.dumps(case) + "\n")


if __name__ == "__main__":
    main()
