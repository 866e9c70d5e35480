//! Limits of CPython's compiler on nesting and literals.

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, Number, Stmt};
use ruff_text_size::Ranged;

/// Deepest tree that CPython 3.12 compiles; measured there as 2,984 to 2,995, by kind of node.
const DEPTH_MAX: usize = 2_990;

/// Most loops, `with`s and `try`s inside each other (`CO_MAXBLOCKS`).
const BLOCKS_MAX: usize = 20;

/// Most digits of a decimal integer.
const DIGITS_MAX: usize = 4_300;

/// Returns whether no limit is exceeded.
pub fn is_within_limits(body: &[Stmt], source: &str) -> bool {
    let mut limits = Limits { source, depth: 0, blocks: 0, exceeded: false };
    limits.visit_body(body);
    !limits.exceeded
}

struct Limits<'a> {
    source: &'a str,
    depth: usize,
    blocks: usize,
    exceeded: bool,
}

impl<'a> Limits<'a> {
    fn deeper(&mut self, walk: impl FnOnce(&mut Self)) {
        self.depth += 1;
        self.exceeded |= self.depth > DEPTH_MAX;
        if !self.exceeded {
            walk(self);
        }
        self.depth -= 1;
    }

    fn block(&mut self, n: usize, body: &'a [Stmt]) {
        self.blocks += n;
        self.exceeded |= self.blocks > BLOCKS_MAX;
        self.visit_body(body);
        self.blocks -= n;
    }

    fn walk_blocks(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::For(stmt) => {
                self.visit_expr(&stmt.target);
                self.visit_expr(&stmt.iter);
                self.block(1, &stmt.body);
                self.visit_body(&stmt.orelse);
            }
            Stmt::While(stmt) => {
                self.visit_expr(&stmt.test);
                self.block(1, &stmt.body);
                self.visit_body(&stmt.orelse);
            }
            Stmt::With(stmt) => {
                stmt.items.iter().for_each(|item| self.visit_with_item(item));
                self.block(stmt.items.len(), &stmt.body);
            }
            Stmt::Try(stmt) => {
                let within_finally = usize::from(!stmt.finalbody.is_empty());
                let within_except = usize::from(!stmt.handlers.is_empty());
                self.block(within_finally + within_except, &stmt.body);
                self.blocks += within_finally;
                for handler in &stmt.handlers {
                    // A handler is one block, and the clean-up of its name another.
                    self.blocks += 2;
                    self.exceeded |= self.blocks > BLOCKS_MAX;
                    self.visit_except_handler(handler);
                    self.blocks -= 2;
                }
                self.visit_body(&stmt.orelse);
                self.blocks -= within_finally;
                self.block(within_finally, &stmt.finalbody);
            }
            Stmt::FunctionDef(_) | Stmt::ClassDef(_) => {
                let outer = std::mem::take(&mut self.blocks);
                walk_stmt(self, stmt);
                self.blocks = outer;
            }
            _ => walk_stmt(self, stmt),
        }
    }
}

impl<'a> Visitor<'a> for Limits<'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        self.deeper(|limits| limits.walk_blocks(stmt));
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        if let Expr::NumberLiteral(literal) = expr
            && matches!(literal.value, Number::Int(_))
        {
            self.exceeded |= has_too_many_digits(&self.source[literal.range()]);
        }
        self.deeper(|limits| walk_expr(limits, expr));
    }
}

fn has_too_many_digits(literal: &str) -> bool {
    let is_decimal = !literal.starts_with("0x") && !literal.starts_with("0X");
    let is_decimal = is_decimal && !literal.starts_with("0b") && !literal.starts_with("0B");
    let is_decimal = is_decimal && !literal.starts_with("0o") && !literal.starts_with("0O");
    is_decimal && literal.bytes().filter(u8::is_ascii_digit).count() > DIGITS_MAX
}
