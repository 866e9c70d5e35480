"""Measures PyTorch with transformers on one row of work; prints one JSON object.

    python peer_torch.py FOLDER ROW THREADS REPETITIONS f32|bf16
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import work

# Rows of one call when logits are wanted: a whole [8192, vocab] buffer would be 1.6 GB in f32.
VERIFY_ROWS = 4


def batch(shape):
    """Returns token ids `[rows, length]`."""
    rows, length = shape
    return torch.tensor([work.tokens(sequence, length) for sequence in range(rows)])


def generate(model, rows):
    """Returns a call that samples `NEW_TOKENS` tokens for `rows` copies of one prompt."""
    prompt = torch.tensor([work.tokens(0, work.PROMPT_TOKENS)] * rows)

    def call():
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=work.NEW_TOKENS,
            min_new_tokens=work.NEW_TOKENS,
            pad_token_id=0,
        )
        assert out.shape[1] == work.PROMPT_TOKENS + work.NEW_TOKENS

    return call


def verify(model, ids):
    """Returns the mean log-probability of the next tokens (the softmax is in f32)."""
    total = 0.0
    for start in range(0, len(ids), VERIFY_ROWS):
        rows = ids[start : start + VERIFY_ROWS]
        logits = model(rows).logits.float()
        logprobs = torch.log_softmax(logits, -1)[:, :-1]
        total += logprobs.gather(-1, rows[:, 1:].unsqueeze(-1)).sum().item()
    return total / ids[:, 1:].numel()


def train(model):
    """Returns a call that does one step: forward, backward, clipping, AdamW."""
    model.train()
    ids = batch(work.TRAIN)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0)

    def call():
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return call


def main():
    folder, row, threads, repetitions, dtype = sys.argv[1:6]
    torch.set_num_threads(int(threads))
    logging.set_verbosity_error()
    torch.manual_seed(1)
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()
    if row == "train":
        count = work.TRAIN[0] * work.TRAIN[1]
        check, seconds = work.timed(train(model), int(repetitions))
    else:
        with torch.inference_mode():
            if row in ("decode1", "decode16"):
                rows = 1 if row == "decode1" else work.GROUP
                call, count = generate(model, rows), rows * work.NEW_TOKENS
            elif row in ("prefill", "verify"):
                ids, count = batch(work.PREFILL), work.PREFILL[0] * work.PREFILL[1]
                call = (lambda: model.model(ids).last_hidden_state[0, 0, 0].item()) if row == "prefill" else (lambda: verify(model, ids))
            else:
                sys.exit(f"PyTorch does not do {row}")
            check, seconds = work.timed(call, int(repetitions))
    print(json.dumps(work.result(count, seconds, check)))


main()
