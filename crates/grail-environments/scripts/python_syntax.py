"""Compares `compiles` with CPython 3.12's own compiler.

Programs: the snippets of CPython's test of syntax errors, its standard library, MBPP-like functions
where given, and all of them with random damage. Run with CPython 3.12 from the workspace:

    cargo build -p grail-environments --example reference_judge
    python3.12 crates/grail-environments/scripts/python_syntax.py target/debug/examples/reference_judge [ROWS.jsonl.gz ...]
"""

import ast
import gzip
import json
import pathlib
import random
import re
import subprocess
import sys
import sysconfig
import warnings


def compiles(code):
    try:
        compile(code, "<string>", "exec")
        return True
    except Exception:
        return False


def doctests(path):
    """The snippets after `>>>` of a module of tests."""
    snippets, lines = [], []
    for line in path.read_text().splitlines():
        text = line.strip()
        if text.startswith(">>> ") or (lines and text.startswith("...")):
            if text.startswith(">>> ") and lines:
                snippets.append("\n".join(lines))
                lines = []
            lines.append(text[4:])
        elif lines:
            snippets.append("\n".join(lines))
            lines = []
    return snippets


def damaged(rng, code):
    """One to three random edits, of tokens or lines."""
    for _ in range(rng.randint(1, 3)):
        tokens = re.findall(r"\w+|\s+|.", code)
        if not tokens:
            break
        at = rng.randrange(len(tokens))
        edit = rng.randrange(5)
        if edit == 0:
            tokens[at] = ""
        elif edit == 1:
            tokens.insert(at, tokens[rng.randrange(len(tokens))])
        elif edit == 2:
            other = rng.randrange(len(tokens))
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif edit == 3:
            words = ["return", "yield", "await ", "global x", "nonlocal x", "break", "*", ":=", "(", ")", ":"]
            tokens.insert(at, " " + rng.choice(words) + " ")
        else:
            tokens = tokens[:at]
        code = "".join(tokens)
    return code


def main():
    warnings.simplefilter("ignore")
    judge, *rows = sys.argv[1:]
    rng = random.Random(0)
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    sets = {"test_syntax": doctests(library / "test" / "test_syntax.py")}
    files = [path.read_text() for path in sorted(library.glob("*.py"))]
    functions = []
    for text in files:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and len(ast.unparse(node)) < 2000:
                functions.append(ast.unparse(node))
    sets["library files"] = [text for text in files if len(text) < 250_000]
    sets["library functions"] = rng.sample(functions, min(3000, len(functions)))
    sets["damaged functions"] = [damaged(rng, rng.choice(functions)) for _ in range(10_000)]
    for path in rows:
        lines = [json.loads(line) for line in gzip.open(path, "rt")]
        code = [row.get("code") or row.get("prompt", "") + row.get("canonical_solution", "") for row in lines]
        sets[pathlib.Path(path).name] = code
        sets["damaged " + pathlib.Path(path).name] = [damaged(rng, rng.choice(code)) for _ in range(5_000)]
    for name, programs in sets.items():
        lines = "".join(json.dumps({"code": code}) + "\n" for code in programs)
        out = subprocess.run([judge], input=lines, capture_output=True, text=True, check=True).stdout
        ours = [json.loads(line) for line in out.splitlines()]
        theirs = [compiles(code) for code in programs]
        wrong = [(code, us) for code, us, them in zip(programs, ours, theirs, strict=True) if us != them]
        print(f"{name}: {len(programs) - len(wrong)} of {len(programs)} agree; {sum(theirs)} compile")
        for code, us in wrong[:12]:
            print(f"    we say {us}: {code[:160]!r}")


if __name__ == "__main__":
    main()
