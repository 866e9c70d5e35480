//! Equality of expressions: both are read as Python would read them, and their difference is 0.
//!
//! The subset: rational numbers, 53-bit floats, names, `+ - * / ** !`, parentheses, roots, `pi`, a few
//! functions; other functions of a name stay unknown. Values are quotients of polynomials over the
//! rationals, in which roots of primes are variables with a known power. So sums, products and powers
//! of rationals and roots are decided exactly, and so are rational functions. What lies outside the
//! subset, or would take too much work, is not equal. Nothing is evaluated as code.

mod compute;
mod functions;
mod number;
mod parse;
mod tokens;
mod value;

use compute::Algebra;

/// Longest expression that is read, in bytes.
const EXPRESSION_BYTES_MAX: usize = 1_000;

/// Returns whether two normalised answers are expressions whose difference is 0.
pub fn are_equal(a: &str, b: &str) -> bool {
    difference_is_zero(a, b).unwrap_or(false)
}

fn difference_is_zero(a: &str, b: &str) -> Option<bool> {
    if a.len() > EXPRESSION_BYTES_MAX || b.len() > EXPRESSION_BYTES_MAX {
        return None;
    }
    let mut algebra = Algebra::new();
    let (a, b) = (parse::expression(a, &mut algebra)?, parse::expression(b, &mut algebra)?);
    let difference = algebra.subtract(&a, &b)?;
    Some(difference.is_zero())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pairs that a computer algebra system finds equal; see `reference/math_equality.py`.
    #[test]
    fn equal_expressions_are_equal() {
        for (a, b) in [
            ("x+1", "1+x"),
            ("2*x", "x+x"),
            ("x**2-1", "(x-1)*(x+1)"),
            ("(x**2-1)/(x-1)", "x+1"),
            ("1/(x-1)-1/(x+1)", "2/(x**2-1)"),
            ("27/33", "54/66"),
            ("1/2", "0.5"),
            ("0.5*x", "x/2"),
            ("0.25*pi", "pi/4"),
            ("sqrt(8)", "2*sqrt(2)"),
            ("sqrt(2)*sqrt(3)", "sqrt(6)"),
            ("sqrt(12)*sqrt(3)", "6"),
            ("1/sqrt(2)", "sqrt(2)/2"),
            ("1/(1+sqrt(2))", "sqrt(2)-1"),
            ("2**(1/2)*2**(1/4)", "2**(3/4)"),
            ("8**(1/3)", "2"),
            ("cbrt(54)", "3*root(2,3)"),
            ("sqrt(1/2)", "sqrt(2)/2"),
            ("sqrt(-4)", "2j"),
            ("sqrt(4*x)", "2*sqrt(x)"),
            ("sqrt(x)*sqrt(x)", "x"),
            ("sqrt(x+1)**2", "x+1"),
            ("sqrt(x+1)**3", "(x+1)*sqrt(x+1)"),
            ("sqrt(4*x+8)", "2*sqrt(x+2)"),
            ("sqrt(pi**2)", "pi"),
            ("(1+sqrt(5))/2", "1/2+sqrt(5)/2"),
            ("3!", "6"),
            ("-3!", "-6"),
            ("2**3!", "64"),
            ("3!**2", "36"),
            ("3!!", "3"),
            ("x!", "factorial(x)"),
            ("binomial(5,2)", "10"),
            ("0x10", "16"),
            ("1_000", "1000"),
            ("1e3", "1000"),
            ("2**3", "8"),
            ("2**-1", "1/2"),
            ("-2**2", "-4"),
            ("2**3**2", "512"),
            ("2^3", "1"),
            ("7//2", "3"),
            ("7%4", "3"),
            ("0**0", "1"),
            ("f(x)+1", "1+f(x)"),
            ("f(2*x)", "f(x+x)"),
            ("2**(x+1)", "2*2**x"),
            ("abs(-3)", "3"),
            ("max(1,2)", "2"),
            ("log(8)", "3*log(2)"),
            ("ln(4)/ln(2)", "2"),
            ("exp(0)", "1"),
            ("sin(pi/6)", "1/2"),
            ("cos(pi/4)", "sqrt(2)/2"),
            ("tan(pi/3)", "sqrt(3)"),
            ("sec(pi/3)", "2"),
            ("csc(pi/2)*cot(pi/4)", "1"),
            ("cot(x)*tan(x)", "1"),
            ("asin(-1)", "-pi/2"),
            ("acos(-1/2)", "2*pi/3"),
            ("atan(1)+atan(2)", "atan(2)+pi/4"),
            ("cosh(0)+sinh(0)", "1"),
            ("tanh(x)+1", "1+tanh(x)"),
            ("floor(2.5)+ceiling(-2.5)", "0"),
            ("sign(-3)", "-1"),
            ("re(2)+im(2)+conjugate(3)", "5"),
            ("gamma(5)", "24"),
            ("4**0.5", "2"),
            ("sqrt(pi*x)", "sqrt(pi*x)+0"),
        ] {
            assert!(are_equal(a, b), "{a} = {b}");
            assert!(are_equal(b, a), "{b} = {a}");
        }
    }

    #[test]
    fn other_expressions_are_not() {
        for (a, b) in [
            ("x", "y"),
            ("2x", "2*x"),
            ("1/3", "0.333333"),
            ("0.1+0.2", "0.3"),
            ("0.1*3", "0.3"),
            ("sqrt(2)", "2**0.5"),
            ("sqrt(2.0)", "sqrt(2)"),
            ("sqrt(x**2)", "x"),
            ("sqrt(x*y)", "sqrt(x)*sqrt(y)"),
            ("(-8)**(1/3)", "-2"),
            ("pi", "3.14"),
            ("1/0", "2/0"),
            ("x^2+1", "1+x^2"),
            ("x=5", "5"),
            ("1,000", "1000"),
            ("007", "7"),
            ("true", "1"),
            ("gamma+1", "1+gamma"),
            ("gamma(0)", "gamma(0)+0"),
            ("cot(0)", "cot(0)+0"),
            ("sec(pi/2)", "1+sec(pi/2)-1"),
            ("5%", "5"),
            ("lambda", "1"),
            ("__import__('os')", "1"),
            ("().__class__", "1"),
            ("x.y", "x"),
            ("", "0"),
            ("1e400", "1e400+1"),
            ("2**x", "x**2"),
            ("(1", "1"),
            ("1)", "1"),
            ("!3", "6"),
            ("3!!!", "3"),
        ] {
            assert!(!are_equal(a, b), "{a} is not {b}");
        }
    }

    #[test]
    fn endless_work_is_refused() {
        let deep = format!("{}1{}", "(".repeat(400), ")".repeat(400));
        let signs = format!("{}1", "-".repeat(900));
        let powers = vec!["2"; 300].join("**");
        let wide = format!("({})**50", vec!["x+y*z"; 30].join("+"));
        let long = "1+".repeat(1_000_000) + "1";
        let nested = format!("{}x{}", "sqrt(1+".repeat(60), ")".repeat(60));
        let applied = format!("{}x{}", "f(".repeat(60), ")".repeat(60));
        for hostile in [
            "9**9**9",
            "9**9**9**9",
            "(x+y+z+w)**99",
            "99999!",
            "2**99999",
            "1/(x+y)**60",
            "binomial(99999,5000)",
            "10**-99999",
            "0.1**999999",
            "factorial(factorial(9))",
            "sqrt(10**400+1)",
            "x**(1/99999999)",
            "x**99999999999999999999",
            &deep,
            &signs,
            &powers,
            &wide,
            &long,
            &nested,
            &applied,
        ] {
            let _ = are_equal(hostile, "1");
            let _ = are_equal("x", hostile);
            let _ = are_equal(hostile, hostile);
        }
        assert!(!are_equal("9**9**9", "1"));
        assert!(!are_equal(&deep, "1"));
    }

    /// Expressions over x with small numbers, as text.
    fn expressions() -> impl Strategy<Value = String> {
        let leaf = prop_oneof!["[1-9]", Just("x".to_owned()), Just("sqrt(2)".to_owned())];
        leaf.prop_recursive(3, 12, 2, |inner| {
            (inner.clone(), prop_oneof!["[-+*]", Just("/".to_owned())], inner)
                .prop_map(|(a, op, b)| format!("({a}{op}{b})"))
        })
    }

    proptest! {
        #[test]
        fn the_laws_of_arithmetic_hold(a in expressions(), b in expressions(), c in expressions()) {
            // Division by an expression that is 0 leaves nothing to compare.
            prop_assume!(are_equal(&a, &a) && are_equal(&b, &b) && are_equal(&c, &c));
            let pairs = [
                (format!("{a}+{b}"), format!("{b}+{a}")),
                (format!("{a}*{b}"), format!("{b}*{a}")),
                (format!("({a}+{b})*{c}"), format!("{a}*{c}+{b}*{c}")),
                (format!("({a}+{b})**2"), format!("{a}**2+2*{a}*{b}+{b}**2")),
                (format!("{a}-{a}"), "0".to_owned()),
            ];
            for (left, right) in pairs {
                prop_assert!(are_equal(&left, &right), "{left} = {right}");
            }
            let (more, a1) = (format!("{a}+1"), a.clone());
            prop_assert!(!are_equal(&more, &a1), "{more} is not {a1}");
        }

        #[test]
        fn no_text_panics(a in "(\\d|x|pi|[-+*/^!().,%]|\\*\\*|sqrt\\(|f\\(|e|j|_|é|'){0,40}") {
            let _ = are_equal(&a, &a);
            let _ = are_equal(&a, "x");
        }
    }
}
