#!/usr/bin/env python3
"""Fits the polynomials of src/math.rs and prints their f32 coefficients, lowest degree first.

Remez exchange on the relative error of the final result, in 50-digit decimal arithmetic, standard
library only. The coefficients are then rounded to f32; what that and the f32 evaluation cost is
measured by the tests of math.rs over every f32, not here.

    python3 scripts/fit.py
"""

import math
import struct
from decimal import Decimal, getcontext

getcontext().prec = 50
ONE = Decimal(1)
GRID = 4000
# The weights vanish at 0, where the exchange would degenerate; this keeps them positive.
FLOOR = Decimal("0.003")


def solve(rows, right):
    """Solves a square linear system by Gaussian elimination with pivoting."""
    n = len(rows)
    rows = [row[:] + [value] for row, value in zip(rows, right)]
    for column in range(n):
        pivot = max(range(column, n), key=lambda r: abs(rows[r][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for r in range(column + 1, n):
            factor = rows[r][column] / rows[column][column]
            for c in range(column, n + 1):
                rows[r][c] -= factor * rows[column][c]
    out = [Decimal(0)] * n
    for r in range(n - 1, -1, -1):
        rest = sum((rows[r][c] * out[c] for c in range(r + 1, n)), Decimal(0))
        out[r] = (rows[r][n] - rest) / rows[r][r]
    return out


def polynomial(coefficients, x):
    value = Decimal(0)
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value


def remez(target, weight, low, high, degree):
    """Returns the coefficients that minimise the largest |weight * (polynomial - target)|."""
    points = [low + (high - low) * i / GRID for i in range(GRID + 1)]
    points = [x for x in points if abs(x) > Decimal("1e-9")]  # 0/0 in the targets
    table = [(x, target(x), weight(x)) for x in points]
    count = degree + 2
    # Start from the extremes of a Chebyshev polynomial.
    cosines = [math.cos(math.pi * i / (count - 1)) for i in range(count)]
    chosen = [round((1 - cosine) / 2 * (len(table) - 1)) for cosine in cosines]
    for _ in range(30):
        rows = []
        for sign, index in enumerate(chosen):
            x, _, w = table[index]
            rows.append([x**power for power in range(degree + 1)] + [(-1) ** sign / w])
        *coefficients, level = solve(rows, [table[index][1] for index in chosen])
        errors = [w * (polynomial(coefficients, x) - t) for x, t, w in table]
        # The new reference: the largest error of each run of one sign.
        runs = [[0]]
        for index in range(1, len(errors)):
            if (errors[index] > 0) == (errors[runs[-1][0]] > 0):
                runs[-1].append(index)
            else:
                runs.append([index])
        peaks = [max(run, key=lambda i: abs(errors[i])) for run in runs]
        while len(peaks) > count:
            peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
        worst = max(abs(errors[i]) for i in peaks)
        if len(peaks) == count and worst <= abs(level) * Decimal("1.001"):
            return coefficients, worst
        if len(peaks) < count:
            raise ArithmeticError(f"{len(peaks)} alternations instead of {count}")
        chosen = peaks
    raise ArithmeticError("the exchange did not converge")


def tanh(x):
    return 1 - 2 / ((2 * x).exp() + 1)


def to_f32(value):
    bits = struct.unpack("<I", struct.pack("<f", float(value)))[0]
    return bits, struct.unpack("<f", struct.pack("<I", bits))[0]


def show(name, coefficients, error):
    print(f"{name}: largest relative error {float(error):.3e}")
    for power, coefficient in enumerate(coefficients):
        bits, value = to_f32(coefficient)
        print(f"  {power}: {value!r:24} 0x{bits:08x}")


def split(name, value, bits):
    """Prints `value` as a head of `bits` significant bits and the f32 of the rest."""
    unit = Decimal(2) ** (math.floor(math.log2(value)) - bits + 1)
    head = (value / unit).to_integral_value() * unit
    for part, number in (("high", head), ("low", value - head)):
        low_bits, rounded = to_f32(number)
        print(f"{name}, {part}: {rounded!r} 0x{low_bits:08x}")


def main():
    ln2 = Decimal(2).ln()
    half = ln2 / 2 * Decimal("1.001")
    # exp(r) = 1 + r + r^2 q(r)
    show(
        "exp, q on [-ln2/2, ln2/2]",
        *remez(lambda r: (r.exp() - 1 - r) / r**2, lambda r: r**2 / r.exp() + FLOOR, -half, half, 4),
    )
    # ln(1 + f) = f - f^2/2 + f^3 p(f)
    root = Decimal(2).sqrt()
    show(
        "ln, p on [1/sqrt2 - 1, sqrt2 - 1]",
        *remez(
            lambda f: ((1 + f).ln() - f + f**2 / 2) / f**3,
            lambda f: f**3 / (1 + f).ln() + FLOOR,
            1 / root - 1,
            root - 1,
            8,
        ),
    )
    # tanh(x) = x + x^3 t(x^2)
    edge = Decimal("0.75")
    show(
        "tanh, t on [0, 0.75^2]",
        *remez(
            lambda s: (tanh(s.sqrt()) / s.sqrt() - 1) / s,
            lambda s: s * s.sqrt() / tanh(s.sqrt()) + FLOOR,
            Decimal(0),
            edge**2,
            5,
        ),
    )
    split("ln2", ln2, 14)
    print(f"1/ln2: {to_f32(1 / ln2)[1]!r} 0x{to_f32(1 / ln2)[0]:08x}")


if __name__ == "__main__":
    main()
