//! The regular expressions that the reference looks for in a kernel's code, in linear time.

use super::super::text::is_space;

/// What a kernel's code contains, comments included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Structure {
    /// `class ModelNew(`.
    pub has_model: bool,
    /// `@triton.jit`.
    pub has_kernel: bool,
    /// An import of Triton.
    pub imports_triton: bool,
    /// An import of PyTorch.
    pub imports_torch: bool,
}

/// Signs of a kernel that is none. The reference records them and does not use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HackingSignals {
    /// After `forward` something like a kernel is named.
    pub forward_calls_kernel: bool,
    /// There is a `try` with an `except`.
    pub has_try_except: bool,
    /// The new model is the old one.
    pub is_pass_only: bool,
    /// After `forward` PyTorch's functions are named.
    pub forward_uses_functional: bool,
}

/// A step of a pattern.
#[derive(Clone, Copy)]
enum Step {
    /// This text.
    Text(&'static str),
    /// White space, any amount.
    MaybeSpace,
    /// White space, at least one character.
    Space,
}

use Step::{MaybeSpace, Space, Text};

impl Structure {
    /// Looks at code.
    pub fn of(code: &str) -> Self {
        let imports = |library| {
            let (import, from) =
                ([Text("import"), Space, Text(library)], [Text("from"), Space, Text(library)]);
            find(code, &import).is_some() || find(code, &from).is_some()
        };
        let model = [Text("class"), Space, Text("ModelNew"), MaybeSpace, Text("(")];
        Self {
            has_model: find(code, &model).is_some(),
            has_kernel: code.contains("@triton.jit"),
            imports_triton: imports("triton"),
            imports_torch: imports("torch"),
        }
    }

    /// Returns the share of the four that are there.
    pub fn share(self) -> f64 {
        let all = [self.has_model, self.has_kernel, self.imports_triton, self.imports_torch];
        all.iter().filter(|&&there| there).count() as f64 * 0.25
    }

    /// Returns whether all four are there.
    pub fn is_complete(self) -> bool {
        self.has_model && self.has_kernel && self.imports_triton && self.imports_torch
    }
}

impl HackingSignals {
    /// Looks at code.
    pub fn of(code: &str) -> Self {
        let forward = [Text("def"), Space, Text("forward"), MaybeSpace, Text("(")];
        // Any earlier match leaves more to search, so the first of each step decides.
        let body = find(code, &forward)
            .and_then(|end| Some(&code[end + code[end..].find(')')? + 1..]))
            .unwrap_or_default();
        let names = |names: &[&str]| names.iter().any(|name| body.contains(name));
        let tried = find(code, &[Text("try"), MaybeSpace, Text(":")]);
        Self {
            forward_calls_kernel: names(&["triton_", "_kernel", "_launch"]),
            has_try_except: tried.is_some_and(|end| code[end..].contains("except")),
            is_pass_only: is_pass_only(code),
            forward_uses_functional: names(&["torch.nn.functional", "F."]),
        }
    }
}

/// Returns the end of the first match.
fn find(code: &str, steps: &[Step]) -> Option<usize> {
    let Some((Text(first), rest)) = steps.split_first() else { return None };
    code.match_indices(first).find_map(|(at, _)| {
        let after = &code[at + first.len()..];
        Some(code.len() - match_all(after, rest)?.len())
    })
}

/// Returns what follows a match at the start of `text`. White space never begins the text of a step,
/// so taking all of it is right.
fn match_all<'a>(text: &'a str, steps: &[Step]) -> Option<&'a str> {
    steps.iter().try_fold(text, |text, step| {
        let after_space = text.trim_start_matches(is_space);
        match step {
            Text(expected) => text.strip_prefix(expected),
            MaybeSpace => Some(after_space),
            Space => (after_space.len() < text.len()).then_some(after_space),
        }
    })
}

/// Matches `class\s+ModelNew.*?:\s*\n\s+pass\s*$` with `$` at the end of any line.
fn is_pass_only(code: &str) -> bool {
    let mut rest = code;
    while let Some(end) = find(rest, &[Text("class"), Space, Text("ModelNew")]) {
        rest = &rest[end..];
        let line = rest.split('\n').next().unwrap_or_default();
        if line.match_indices(':').any(|(at, _)| is_only_pass(&rest[at + 1..])) {
            return true;
        }
    }
    false
}

fn is_only_pass(body: &str) -> bool {
    let after_space = body.trim_start_matches(is_space);
    let space = &body[..body.len() - after_space.len()];
    let Some(after) = after_space.strip_prefix("pass") else { return false };
    let is_indented = space.chars().rev().skip(1).any(|c| c == '\n');
    let after_pass = after.trim_start_matches(is_space);
    let trailing = &after[..after.len() - after_pass.len()];
    is_indented && (after_pass.is_empty() || trailing.contains('\n'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_pythons_do() {
        for (code, want) in [
            ("class ModelNew(A):\n    pass", true),
            ("class ModelNew(A):\n    pass  \nx", true),
            ("class ModelNew(A): # b: c\n\n  pass\n", false),
            ("class ModelNew(A): # b:\n\n  pass\n", true),
            ("class ModelNew(A): pass", false),
            ("class ModelNew(A):\npass", false),
            ("class ModelNew(A):\n    password", false),
            ("class ModelNew(A):\n    pass # x", false),
            ("class\u{1f}ModelNewer:\n\u{a0}pass", true),
            ("class ModelNew\n:\n pass", false),
        ] {
            assert_eq!(is_pass_only(code), want, "{code:?}");
        }
        let signals =
            HackingSignals::of("def forward (self\n, x): return a_kernel(F.x)\ntry : except");
        assert!(signals.forward_calls_kernel && signals.forward_uses_functional);
        assert!(signals.has_try_except && !signals.is_pass_only);
        let none = HackingSignals::of("a_kernel(F.x) except try: def forward(self, a_kernel");
        assert!(!none.forward_calls_kernel && !none.has_try_except);
        assert!(Structure::of("importtorch from\u{2003}triton").imports_triton);
        assert!(!Structure::of("importtorch").imports_torch);
    }

    proptest! {
        #[test]
        fn no_code_panics(code in "(class|ModelNew|def|forward|pass|try|import|torch|[():]|\\s|é){0,40}") {
            let _ = (HackingSignals::of(&code), Structure::of(&code).share());
        }
    }
}
