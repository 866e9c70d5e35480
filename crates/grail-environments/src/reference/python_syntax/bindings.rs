//! The names that a scope binds or declares, found before its statements are checked.

use std::collections::{BTreeMap, BTreeSet};

use ruff_python_ast::visitor::{Visitor, walk_except_handler, walk_expr, walk_pattern, walk_stmt};
use ruff_python_ast::{
    Alias, ExceptHandler, Expr, ExprContext, Identifier, Parameters, Pattern, Stmt,
};
use ruff_text_size::TextRange;

/// Names of one scope, without those of scopes inside it.
#[derive(Default)]
pub struct Bindings {
    /// Parameters of the function.
    pub parameters: BTreeSet<String>,
    /// Names bound by any statement, parameters included.
    bound: BTreeSet<String>,
    /// Names declared global, with where.
    pub globals: BTreeMap<String, TextRange>,
    /// Names declared nonlocal, with where.
    pub nonlocals: BTreeMap<String, TextRange>,
    /// How many comprehensions the walk is in: their targets are their own.
    comprehensions: usize,
}

impl Bindings {
    /// Collects the names of a function, class or module.
    pub fn of(parameters: Option<&Parameters>, body: &[Stmt]) -> Self {
        let mut bindings = Self::default();
        if let Some(parameters) = parameters {
            let names = parameters.iter().map(|parameter| parameter.name().to_string());
            bindings.parameters = names.collect();
            bindings.bound.clone_from(&bindings.parameters);
        }
        bindings.visit_body(body);
        bindings
    }

    /// Returns whether an inner function may declare the name nonlocal because of this scope.
    pub fn offers(&self, name: &str) -> bool {
        let is_bound = self.bound.contains(name) || self.nonlocals.contains_key(name);
        is_bound && !self.globals.contains_key(name)
    }

    fn bind(&mut self, name: &Identifier) {
        self.bound.insert(name.to_string());
    }
}

impl<'a> Visitor<'a> for Bindings {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(function) => {
                self.bind(&function.name);
                function
                    .decorator_list
                    .iter()
                    .for_each(|decorator| self.visit_decorator(decorator));
                self.visit_parameters(&function.parameters);
            }
            Stmt::ClassDef(class) => {
                self.bind(&class.name);
                class.decorator_list.iter().for_each(|decorator| self.visit_decorator(decorator));
                if let Some(arguments) = &class.arguments {
                    self.visit_arguments(arguments);
                }
            }
            Stmt::Global(global) => {
                for name in &global.names {
                    self.globals.entry(name.to_string()).or_insert(name.range);
                }
            }
            Stmt::Nonlocal(nonlocal) => {
                for name in &nonlocal.names {
                    self.nonlocals.entry(name.to_string()).or_insert(name.range);
                }
            }
            _ => walk_stmt(self, stmt),
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Lambda(_) => {}
            Expr::ListComp(_) | Expr::SetComp(_) | Expr::DictComp(_) | Expr::Generator(_) => {
                self.comprehensions += 1;
                walk_expr(self, expr);
                self.comprehensions -= 1;
            }
            // Unlike a target, a named expression binds outside of the comprehension.
            Expr::Named(named) => {
                if let Expr::Name(name) = &*named.target {
                    self.bound.insert(name.id.to_string());
                }
                self.visit_expr(&named.value);
            }
            Expr::Name(name) => {
                if self.comprehensions == 0 && name.ctx == ExprContext::Store {
                    self.bound.insert(name.id.to_string());
                }
            }
            _ => walk_expr(self, expr),
        }
    }

    fn visit_alias(&mut self, alias: &'a Alias) {
        match &alias.asname {
            Some(name) => self.bind(name),
            None => {
                let first = alias.name.split('.').next().unwrap_or_default();
                self.bound.insert(first.to_owned());
            }
        }
    }

    fn visit_except_handler(&mut self, handler: &'a ExceptHandler) {
        let ExceptHandler::ExceptHandler(except) = handler;
        except.name.iter().for_each(|name| self.bind(name));
        walk_except_handler(self, handler);
    }

    fn visit_pattern(&mut self, pattern: &'a Pattern) {
        let name = match pattern {
            Pattern::MatchAs(pattern) => pattern.name.as_ref(),
            Pattern::MatchStar(pattern) => pattern.name.as_ref(),
            Pattern::MatchMapping(pattern) => pattern.rest.as_ref(),
            _ => None,
        };
        name.into_iter().for_each(|name| self.bind(name));
        walk_pattern(self, pattern);
    }
}
