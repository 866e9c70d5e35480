"""The work that every engine is given: the same token ids, counts and sampling."""

import time

PROMPT_TOKENS = 48
NEW_TOKENS = 64
GROUP = 16
PREFILL = (16, 512)
TRAIN = (8, 256)
SPREAD = 40_000  # token ids 300 .. 300 + SPREAD: ordinary words of the vocabulary


def tokens(sequence, count):
    """Returns `count` token ids of sequence `sequence`, the same rule as `grail bench engine`."""
    return [300 + (i * 7919 + sequence * 104_729) % SPREAD for i in range(count)]


def timed(call, repetitions):
    """Runs `call` once to warm up, then `repetitions` times.

    Returns what the first call returned, and the seconds of each of the others.
    """
    first = call()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return first, seconds


def peak_bytes():
    """Returns the process's largest resident size so far."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def result(tokens, seconds, check):
    """Returns the object that a peer prints; `check` (or None) is compared between engines."""
    return {"tokens": tokens, "seconds": seconds, "peak_bytes": peak_bytes(), "check": check}
