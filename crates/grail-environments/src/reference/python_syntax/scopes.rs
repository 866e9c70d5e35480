//! What CPython's symbol table and compiler check: `return` outside a function, `global` after a use,
//! `await` in the wrong place. Ruff knows the rules and asks where a node stands; this keeps track.

use std::cell::Cell;

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Comprehension, ExceptHandler, Expr, ExprContext, PythonVersion, Stmt};
use ruff_python_parser::semantic_errors::{
    LazyImportContext, SemanticSyntaxChecker, SemanticSyntaxContext, SemanticSyntaxError,
};
use ruff_text_size::{Ranged as _, TextRange};

use super::bindings::Bindings;

/// The one name besides keywords that nothing may be called.
const DEBUG: &str = "__debug__";

/// Returns whether no check fails.
pub fn are_valid(body: &[Stmt], source: &str) -> bool {
    let mut walk = Walk {
        checker: SemanticSyntaxChecker::new(),
        source,
        scopes: vec![Scope::new(Kind::Module, Bindings::of(None, body))],
        has_error: Cell::new(false),
    };
    walk.visit_body(body);
    !walk.has_error.get()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Module,
    Class,
    Function { is_async: bool },
    Lambda,
    Comprehension { is_async: bool, is_generator: bool },
}

struct Scope {
    kind: Kind,
    bindings: Bindings,
    /// How many loops of this scope the walk is in.
    loops: usize,
}

impl Scope {
    fn new(kind: Kind, bindings: Bindings) -> Self {
        Self { kind, bindings, loops: 0 }
    }
}

struct Walk<'a> {
    checker: SemanticSyntaxChecker,
    source: &'a str,
    /// From the module inwards; never empty.
    scopes: Vec<Scope>,
    has_error: Cell<bool>,
}

impl<'a> Walk<'a> {
    fn check(&mut self, check: impl FnOnce(&mut SemanticSyntaxChecker, &Self)) {
        let mut checker = std::mem::take(&mut self.checker);
        check(&mut checker, self);
        self.checker = checker;
    }

    fn within(&mut self, kind: Kind, bindings: Bindings, walk: impl FnOnce(&mut Self)) {
        self.scopes.push(Scope::new(kind, bindings));
        walk(self);
        self.scopes.pop();
    }

    fn innermost(&self) -> &Scope {
        self.scopes.last().expect("the module's scope is never left")
    }

    fn visit_loop(&mut self, body: &'a [Stmt], orelse: &'a [Stmt]) {
        let scope = self.scopes.len() - 1;
        self.scopes[scope].loops += 1;
        self.visit_body(body);
        self.scopes[scope].loops -= 1;
        self.visit_body(orelse);
    }

    /// Rules that the checker does not know: a name used before it is declared nonlocal, and
    /// `__debug__` as an attribute that is set or the name of an argument.
    fn breaks_a_rule(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Name(name) => {
                let declared = self.innermost().bindings.nonlocals.get(name.id.as_str());
                declared.is_some_and(|declared| name.start() < declared.start())
            }
            Expr::Attribute(attribute) => {
                attribute.ctx != ExprContext::Load && attribute.attr.as_str() == DEBUG
            }
            Expr::Call(call) => call
                .arguments
                .keywords
                .iter()
                .any(|keyword| keyword.arg.as_ref().is_some_and(|name| name.as_str() == DEBUG)),
            _ => false,
        }
    }

    /// The first iterable belongs to the scope around the comprehension.
    fn visit_comprehension_of(
        &mut self,
        generators: &'a [Comprehension],
        is_generator: bool,
        elements: &[&'a Expr],
    ) {
        if let Some(first) = generators.first() {
            self.visit_expr(&first.iter);
        }
        let is_async = generators.iter().any(|generator| generator.is_async);
        let kind = Kind::Comprehension { is_async, is_generator };
        self.within(kind, Bindings::default(), |walk| {
            for (position, generator) in generators.iter().enumerate() {
                walk.visit_expr(&generator.target);
                if position > 0 {
                    walk.visit_expr(&generator.iter);
                }
                generator.ifs.iter().for_each(|condition| walk.visit_expr(condition));
            }
            elements.iter().for_each(|element| walk.visit_expr(element));
        });
    }

    /// Returns the kind of the innermost scope that is no comprehension.
    fn around_comprehensions(&self) -> Kind {
        let kinds = self.scopes.iter().rev().map(|scope| scope.kind);
        kinds
            .into_iter()
            .find(|kind| !matches!(kind, Kind::Comprehension { .. }))
            .expect("the module is no comprehension")
    }
}

impl<'a> Visitor<'a> for Walk<'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        self.check(|checker, walk| checker.visit_stmt(stmt, walk));
        if let Stmt::Try(stmt) = stmt {
            let untyped = stmt
                .handlers
                .iter()
                .position(|ExceptHandler::ExceptHandler(handler)| handler.type_.is_none());
            // What catches everything must be the last.
            if untyped.is_some_and(|position| position + 1 < stmt.handlers.len()) {
                self.has_error.set(true);
            }
        }
        match stmt {
            // Nothing can be unpacked into a statement.
            Stmt::Expr(statement) if statement.value.is_starred_expr() => self.has_error.set(true),
            Stmt::FunctionDef(function) => {
                function
                    .decorator_list
                    .iter()
                    .for_each(|decorator| self.visit_decorator(decorator));
                if let Some(parameters) = &function.type_params {
                    self.visit_type_params(parameters);
                }
                self.visit_parameters(&function.parameters);
                if let Some(returns) = &function.returns {
                    self.visit_annotation(returns);
                }
                let bindings = Bindings::of(Some(&function.parameters), &function.body);
                let kind = Kind::Function { is_async: function.is_async };
                self.within(kind, bindings, |walk| walk.visit_body(&function.body));
            }
            Stmt::ClassDef(class) => {
                class.decorator_list.iter().for_each(|decorator| self.visit_decorator(decorator));
                if let Some(parameters) = &class.type_params {
                    self.visit_type_params(parameters);
                }
                if let Some(arguments) = &class.arguments {
                    self.visit_arguments(arguments);
                }
                let bindings = Bindings::of(None, &class.body);
                self.within(Kind::Class, bindings, |walk| walk.visit_body(&class.body));
            }
            Stmt::For(stmt) => {
                self.visit_expr(&stmt.iter);
                self.visit_expr(&stmt.target);
                self.visit_loop(&stmt.body, &stmt.orelse);
            }
            Stmt::While(stmt) => {
                self.visit_expr(&stmt.test);
                self.visit_loop(&stmt.body, &stmt.orelse);
            }
            _ => walk_stmt(self, stmt),
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        self.check(|checker, walk| checker.visit_expr(expr, walk));
        if self.breaks_a_rule(expr) {
            self.has_error.set(true);
        }
        match expr {
            Expr::Lambda(lambda) => {
                let parameters = lambda.parameters.as_deref();
                if let Some(parameters) = parameters {
                    self.visit_parameters(parameters);
                }
                let bindings = Bindings::of(parameters, &[]);
                self.within(Kind::Lambda, bindings, |walk| walk.visit_expr(&lambda.body));
            }
            Expr::ListComp(comp) => {
                self.visit_comprehension_of(&comp.generators, false, &[&comp.elt]);
            }
            Expr::SetComp(comp) => {
                self.visit_comprehension_of(&comp.generators, false, &[&comp.elt]);
            }
            Expr::Generator(comp) => {
                self.visit_comprehension_of(&comp.generators, true, &[&comp.elt]);
            }
            Expr::DictComp(comp) => {
                let elements: Vec<&Expr> =
                    comp.key.as_deref().into_iter().chain([&*comp.value]).collect();
                self.visit_comprehension_of(&comp.generators, false, &elements);
            }
            _ => walk_expr(self, expr),
        }
    }
}

impl SemanticSyntaxContext for Walk<'_> {
    fn future_annotations_or_stub(&self) -> bool {
        false
    }

    fn lazy_import_context(&self) -> Option<LazyImportContext> {
        None
    }

    fn python_version(&self) -> PythonVersion {
        PythonVersion::PY312
    }

    fn source(&self) -> &str {
        self.source
    }

    fn global(&self, name: &str) -> Option<TextRange> {
        self.innermost().bindings.globals.get(name).copied()
    }

    fn has_nonlocal_binding(&self, name: &str) -> bool {
        let outer = self.scopes.iter().rev().skip(1);
        outer
            .filter(|scope| matches!(scope.kind, Kind::Function { .. } | Kind::Lambda))
            .any(|scope| scope.bindings.offers(name))
    }

    fn in_async_context(&self) -> bool {
        self.around_comprehensions() == Kind::Function { is_async: true }
    }

    fn in_await_allowed_context(&self) -> bool {
        matches!(self.around_comprehensions(), Kind::Function { .. } | Kind::Lambda)
    }

    fn in_yield_allowed_context(&self) -> bool {
        matches!(self.innermost().kind, Kind::Function { .. } | Kind::Lambda)
    }

    fn in_sync_comprehension(&self) -> bool {
        let comprehensions = self.scopes.iter().rev().map(|scope| scope.kind);
        comprehensions
            .take_while(|kind| matches!(kind, Kind::Comprehension { .. }))
            .any(|kind| matches!(kind, Kind::Comprehension { is_async: false, .. }))
    }

    fn in_class_body_comprehension(&self) -> bool {
        self.around_comprehensions() == Kind::Class
    }

    fn in_module_scope(&self) -> bool {
        self.scopes.len() == 1
    }

    fn in_function_scope(&self) -> bool {
        matches!(self.innermost().kind, Kind::Function { .. })
    }

    fn in_generator_context(&self) -> bool {
        matches!(self.innermost().kind, Kind::Comprehension { is_generator: true, .. })
    }

    fn in_notebook(&self) -> bool {
        false
    }

    fn report_semantic_error(&self, _error: SemanticSyntaxError) {
        self.has_error.set(true);
    }

    fn in_loop_context(&self) -> bool {
        self.innermost().loops > 0
    }

    fn is_bound_parameter(&self, name: &str) -> bool {
        self.innermost().bindings.parameters.contains(name)
    }
}
