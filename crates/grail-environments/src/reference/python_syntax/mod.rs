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
