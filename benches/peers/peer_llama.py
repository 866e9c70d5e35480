"""Measures llama.cpp (through xllamacpp) on one row of work; prints one JSON object.

    python peer_llama.py MODEL.gguf ROW THREADS REPETITIONS
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import xllamacpp

import work


def server(model, threads, slots, context):
    """Starts the in-process server with `slots` parallel sequences of `context` tokens each."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.n_threads_http = slots + 2
    params.verbosity = -1
    return xllamacpp.Server(params)


def complete(engine, prompt, new_tokens, cache, sampler):
    """Runs one completion and checks that it has exactly `new_tokens` tokens."""
    sampling = {"temperature": 1.0, "samplers": ["temperature"]}
    if sampler == "top_k":
        sampling = {"temperature": 1.0, "samplers": ["top_k", "temperature"], "top_k": 40}
    request = {
        "prompt": prompt,
        "n_predict": new_tokens,
        "ignore_eos": True,
        "cache_prompt": cache,
        "return_tokens": True,
        **sampling,
    }
    answer = engine.handle_completions(request)
    got = answer["timings"]["predicted_n"]
    if got != new_tokens:
        sys.exit(f"llama.cpp returned {got} tokens, expected {new_tokens}: {answer}")
    return answer


def main():
    model, row, threads, repetitions = sys.argv[1:5]
    threads, repetitions = int(threads), int(repetitions)
    sampler = "top_k" if row.endswith("-top-k") else "full"
    row = row.removesuffix("-top-k")
    if row in ("decode1", "decode16"):
        slots = 1 if row == "decode1" else work.GROUP
        engine = server(model, threads, slots, work.PROMPT_TOKENS + work.NEW_TOKENS + 16)
        prompts = [work.tokens(0, work.PROMPT_TOKENS)] * slots
        new_tokens, cache, count = work.NEW_TOKENS, True, slots * work.NEW_TOKENS
    elif row == "prefill":
        slots, length = work.PREFILL
        engine = server(model, threads, slots, length + 16)
        prompts = [work.tokens(sequence, length) for sequence in range(slots)]
        # One token comes out: the server has no request for a prompt alone.
        new_tokens, cache, count = 1, False, slots * length
    else:
        sys.exit(f"llama.cpp does not do {row}")
    with ThreadPoolExecutor(slots) as pool:

        def call():
            jobs = [
                pool.submit(complete, engine, prompt, new_tokens, cache, sampler)
                for prompt in prompts
            ]
            for job in jobs:
                job.result()

        check, seconds = work.timed(call, repetitions)
    print(json.dumps(work.result(count, seconds, check)))


main()
