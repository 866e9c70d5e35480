"""Compares MATH's equality with what the reference computes with sympy, and lists disagreements.

Pairs: gold answers of MATH against each other and against rewritten forms, and generated expressions.
Only text of these kinds is evaluated, in a process of its own. Run with a Python that has sympy:

    cargo build -p grail-environments --example reference_judge
    python crates/grail-environments/scripts/math_equality.py target/debug/examples/reference_judge [MATH.jsonl.gz ...]
"""

import gzip
import json
import random
import re
import signal
import subprocess
import sys

import sympy


def normalized(s):
    s = s.strip()
    for fraction in (r"\dfrac", r"\tfrac", r"\cfrac"):
        s = s.replace(fraction, r"\frac")
    s = re.sub(r"\\(left|right)\b", "", s)
    for space in (r"\,", r"\!", r"\;", r"\:"):
        s = s.replace(space, "")
    return re.sub(r"\s+", "", s).lower()


def timeout(_signal, _frame):
    raise TimeoutError


def equal(a, b):
    """The rule of the specification: as text, as expressions, as floats. None: it took over 5 seconds."""
    if not a or not b:
        return False
    a, b = normalized(a), normalized(b)
    if a == b:
        return True
    signal.alarm(5)
    try:
        if sympy.simplify(sympy.parse_expr(a) - sympy.parse_expr(b)) == 0:
            return True
    except TimeoutError:
        return None
    except Exception:
        pass
    finally:
        signal.alarm(0)
    try:
        return abs(float(a) - float(b)) < 1e-6
    except (ValueError, TypeError):
        return False


def expression(rng, depth):
    if depth == 0:
        return rng.choice(["x", "y", str(rng.randint(1, 12)), str(rng.randint(1, 12)), "0.5", "2.25", "pi", "sqrt(%d)" % rng.randint(2, 20)])
    a, b = expression(rng, depth - 1), expression(rng, depth - 1)
    return rng.choice(
        ["%s+%s", "%s-%s", "(%s)*(%s)", "(%s)/(%s)", "%s+%s", "(%s)*(%s)"]
    ) % (a, b) if rng.random() < 0.8 else "(%s)**%d" % (a, rng.randint(2, 3))


def rewritten(rng, text):
    """Another form of an expression, by sympy; most are equal to it."""
    value = sympy.parse_expr(text)
    form = rng.choice([sympy.expand, sympy.factor, sympy.together, sympy.simplify, sympy.nsimplify, lambda v: v + rng.choice([0, 0, 1])])
    return str(form(value))


def latex_plain(answer):
    """What a model may write instead of LaTeX."""
    answer = re.sub(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)", answer)
    return re.sub(r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)", answer).replace(r"\pi", "pi").replace("^", "**")


def main():
    signal.signal(signal.SIGALRM, timeout)
    judge, *files = sys.argv[1:]
    rng = random.Random(0)
    sets = {"generated": []}
    while len(sets["generated"]) < 1500:
        try:
            signal.alarm(5)
            text = expression(rng, rng.randint(1, 2))
            sets["generated"].append((text, rewritten(rng, text)))
        except Exception:
            continue
        finally:
            signal.alarm(0)
    for path in files:
        rows = [json.loads(line) for line in gzip.open(path, "rt")]
        gold = [row["answer"] for row in rows if row.get("answer")]
        plain = [latex_plain(answer) for answer in gold]
        sets[f"{path}: gold and itself"] = [(answer, answer) for answer in gold]
        some = rng.sample(range(len(gold)), min(1000, len(gold)))
        sets[f"{path}: gold and plain"] = [(gold[i], plain[i]) for i in some]
        sets[f"{path}: plain and another plain"] = [(plain[i], rng.choice(plain)) for i in some]
        sets[f"{path}: plain and spaced plain"] = [(plain[i], plain[i].replace("+", "+0+")) for i in some]
    for name, pairs in sets.items():
        lines = "".join(json.dumps({"predicted": a, "gold": b}) + "\n" for a, b in pairs)
        out = subprocess.run([judge], input=lines, capture_output=True, text=True, check=True).stdout
        ours = [json.loads(line) for line in out.splitlines()]
        theirs = [equal(a, b) for a, b in pairs]
        rows = [(pair, us, them) for pair, us, them in zip(pairs, ours, theirs, strict=True)]
        decided = [row for row in rows if row[2] is not None]
        wrong = [row for row in decided if row[1] != row[2]]
        print(f"{name}: {len(decided) - len(wrong)} of {len(decided)} agree; {sum(them for *_, them in decided)} equal; {len(rows) - len(decided)} took too long")
        for (a, b), us, _ in wrong[:40]:
            print(f"    we say {us}: {a!r} and {b!r}")


if __name__ == "__main__":
    main()
