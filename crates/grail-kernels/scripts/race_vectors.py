#!/usr/bin/env python3
"""Writes tests/vectors/race.json: cases of the seeded exponential race, for any implementation.

An independent statement of the rule in src/race.rs and of `ln` in src/math/mod.rs: every operation is
done exactly on rationals and then rounded once to binary32, so it trusts no floating-point unit.
Standard library only.

    python3 scripts/race_vectors.py > tests/vectors/race.json
"""

import json
import random
import struct
from fractions import Fraction

WORD = 0xFFFFFFFF


def philox(counter, key):
    """Philox4x32-10 (Salmon et al., 2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & WORD, (first >> 32) ^ c3 ^ k1, first & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


def round_f32(exact):
    """Rounds a rational to the nearest binary32, ties to even. Zero, subnormals, no overflow."""
    if exact == 0:
        return Fraction(0)
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    return round(exact / unit) * unit  # Python rounds halves of rationals to even


def of_bits(bits):
    return Fraction(struct.unpack("<f", struct.pack("<I", bits))[0])


def to_bits(value):
    return struct.unpack("<I", struct.pack("<f", float(value)))[0]


def fma(a, b, c):
    return round_f32(a * b + c)


def ln(x):
    b = (to_bits(x) + 0x004AFB0D) & WORD
    k = Fraction((b >> 23) - 127)
    f = round_f32(of_bits((b & 0x007FFFFF) + 0x3F3504F3) - 1)
    p = of_bits(0x3D8A8CC2)
    for bits in (
        0xBDEECC43, 0x3DF319A8, 0xBDFE1904, 0x3E11A36A,
        0xBE2AAE30, 0x3E4CD1EB, 0xBE800002, 0x3EAAAAA5,
    ):
        p = fma(p, f, of_bits(bits))
    s = round_f32(f * f)
    g = round_f32(s * f)
    low = round_f32(k * of_bits(0xB7F40417))
    y = fma(g, p, low)
    y = fma(s, Fraction(-1, 2), y)
    y = round_f32(f + y)
    return fma(k, of_bits(0x3F317400), y)


def exponential(word):
    w = round_f32(Fraction(word >> 1))
    v = round_f32(round_f32(w + Fraction(1, 2)) * Fraction(1, 1 << 31))
    v = min(v, 1 - Fraction(1, 1 << 24))
    u = round_f32(1 - v)
    d = round_f32(round_f32(1 - u) - v)
    return -round_f32(ln(u) + round_f32(d / u))


def word_of(key, step, token):
    return philox((token // 4, step, key[2], key[3]), (key[0], key[1]))[token % 4]


def case(key, step, token):
    word = word_of(key, step, token)
    e = exponential(word)
    return {
        "key": list(key),
        "step": step,
        "token": token,
        "word": word,
        "e_bits": to_bits(e),
        "ln_e_bits": to_bits(ln(e)),
    }


def main():
    # The published answers of Random123 for counters and keys of zeros, ones and pi.
    assert philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox((WORD,) * 4, (WORD,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert philox(*pi) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)

    generator = random.Random(1)
    cases = [case((0, 0, 0, 0), 0, token) for token in range(8)]
    cases += [case((WORD,) * 4, WORD, token) for token in (0, 3, WORD - 1, WORD)]
    for _ in range(300):
        key = [generator.getrandbits(32) for _ in range(4)]
        cases.append(case(key, generator.randrange(8192), generator.randrange(262144)))
    # Words that reach the ends of the range, and where the rounding to f32 and the cap begin.
    words = [0, 1, 2, 3, 4, 255, 256, 1 << 24, (1 << 25) + 1, (1 << 31) - 1, 1 << 31, WORD - 1, WORD]
    words += [WORD - (1 << shift) for shift in range(31)] + [1 << shift for shift in range(32)]
    extremes = [
        {"word": word, "e_bits": to_bits(exponential(word)), "ln_e_bits": to_bits(ln(exponential(word)))}
        for word in sorted(set(words))
    ]
    lines = lambda rows: ",\n".join("    " + json.dumps(row) for row in rows)
    print(f'{{\n  "cases": [\n{lines(cases)}\n  ],\n  "words": [\n{lines(extremes)}\n  ]\n}}')


if __name__ == "__main__":
    main()
