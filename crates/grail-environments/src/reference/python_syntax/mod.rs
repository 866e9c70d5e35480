//! Whether CPython 3.12 compiles a program: a parser, and what its compiler checks afterwards.
//!
//! Nothing is run. The parser is Ruff's, at the language of 3.12; names, scopes and nesting are checked
//! by [`scopes`]. Programs too large or too deep for the reference's own compiler do not compile.

mod bindings;
mod depth;
mod scopes;

use ruff_python_ast::{Mod, PythonVersion, Stmt};
use ruff_python_parser::{Mode, ParseOptions, parse_unchecked};

/// Longest program that is read, in bytes; a completion of 8,192 tokens has far fewer.
const SOURCE_BYTES_MAX: usize = 256 << 10;

/// Stack for syntax trees as deep as such a program can make them. It is reserved, not used.
const STACK_BYTES: usize = 256 << 20;

/// Returns whether `compile(source, ..., "exec")` succeeds.
pub fn compiles(source: &str) -> bool {
    // The parser skips a byte order mark, and CPython takes none in a text.
    if source.len() > SOURCE_BYTES_MAX || source.contains('\0') || source.starts_with('\u{feff}') {
        return false;
    }
    // A deep tree takes a deep stack to walk and to drop, and whose thread this is we do not know.
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
        let checked = builder.spawn_scoped(scope, || compiles_here(source));
        checked.is_ok_and(|checked| checked.join().unwrap_or(false))
    })
}

fn compiles_here(source: &str) -> bool {
    let options = ParseOptions::from(Mode::Module).with_target_version(PythonVersion::PY312);
    let parsed = parse_unchecked(source, options);
    if parsed.has_syntax_errors() {
        return false;
    }
    let body: &[Stmt] = match parsed.syntax() {
        Mod::Module(module) => &module.body,
        Mod::Expression(_) => &[],
    };
    depth::is_within_limits(body, source) && scopes::are_valid(body, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiled and refused by CPython 3.12; see `scripts/python_syntax.py` for many more.
    #[test]
    fn programs_compile_as_in_cpython() {
        for code in [
            "",
            "# nothing",
            "def f(x):\n\treturn x",
            "x = 1\r\ny = 2",
            "async def f():\n    [await x async for x in y]",
            "def f():\n    x = 1\n    def g():\n        nonlocal x\n        x = 2",
            "def f():\n    global x\n    x = 1",
            "for x in y:\n    if x: break\n    else: continue",
            "match x:\n    case [a, *b]: pass\n    case _: pass",
            "f'{x!r:>{10}} {\"a\"}'",
            "type X[T] = list[T]",
            "lambda: (yield)",
            "print('a' 'b', *c, **d)",
            "0x_ff + 1_000 + 1e5j",
            "x: int = 1",
        ] {
            assert!(compiles(code), "{code:?}");
        }
        for code in [
            "return 1",
            "def f(x) return",
            "break",
            "yield 1",
            "await x",
            "def f():\n    await x",
            "class A:\n    return 1",
            "while x:\n    def f():\n        break",
            "def f(a, a): pass",
            "f(a=1, a=2)",
            "nonlocal x",
            "def f():\n    nonlocal x",
            "x = 1\nglobal x",
            "def f():\n    x = 1\n    def g():\n        print(x)\n        nonlocal x",
            "obj.__debug__ = 1",
            "f(__debug__=1)",
            "f() = 1",
            "* x",
            "x = 1\n  y = 2",
            "if x:\n\ty\n        z",
            "from __future__ import braces",
            "print 1",
            "'a",
            "\u{feff}x = 1",
            "x = '\0'",
            "```python\nx = 1\n```",
            "try:\n    x\nexcept:\n    y\nexcept A:\n    z",
            "007",
        ] {
            assert!(!compiles(code), "{code:?}");
        }
    }

    #[test]
    fn limits_are_those_of_cpython() {
        let nested = |n: usize| {
            let line = |i: usize| format!("{}for x in y:\n", " ".repeat(i));
            (0..n).map(line).collect::<String>() + &" ".repeat(n) + "pass"
        };
        assert!(compiles(&nested(20)) && !compiles(&nested(21)));
        assert!(compiles(&"9".repeat(4_300)) && !compiles(&"9".repeat(4_301)));
        assert!(compiles(&format!("0x{}", "9".repeat(5_000))));
        assert!(compiles(&format!("{}1", "-".repeat(2_900))));
        assert!(!compiles(&format!("{}1", "-".repeat(3_000))));
    }

    #[test]
    fn hostile_programs_are_refused() {
        for hostile in [
            "(".repeat(100_000),
            "-".repeat(200_000) + "1",
            "x+".repeat(100_000) + "x",
            "lambda:".repeat(30_000) + "x",
            "[x for x in ".repeat(10_000),
            "f(".repeat(60_000),
            "if x:\n".repeat(30_000),
            " ".repeat(1_000_000) + "x",
        ] {
            assert!(!compiles(&hostile), "{}", &hostile[..10]);
        }
    }
}
