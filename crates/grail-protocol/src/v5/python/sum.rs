//! CPython 3.12's `sum` over floats: compensated, so that small terms are not lost.

/// Returns the sum as Neumaier's algorithm gives it. Of no values it is 0.
pub fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut total, mut lost) = (0.0f64, 0.0f64);
    for value in values {
        let next = total + value;
        lost += if total.abs() >= value.abs() {
            (total - next) + value
        } else {
            (value - next) + total
        };
        total = next;
    }
    // The correction of an overflow would be NaN.
    if lost != 0.0 && lost.is_finite() { total + lost } else { total }
}

/// Returns the sum rounded once, as `math.fsum` gives it, whatever the order. Of no values it is 0.
///
/// `None` where Python raises: infinities of both signs, or finite values whose sum on the way is
/// none.
pub fn fsum(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    // Parts that do not overlap, by rising magnitude; their sum is exact.
    let mut parts: Vec<f64> = Vec::new();
    let mut special: Option<f64> = None;
    let mut has_nan = false;
    for value in values {
        if !value.is_finite() {
            has_nan |= value.is_nan();
            special = Some(special.unwrap_or(0.0) + value);
            continue;
        }
        let (mut carried, mut kept) = (value, 0);
        for place in 0..parts.len() {
            let (high, low) = exact_sum(carried, parts[place]);
            if low != 0.0 {
                parts[kept] = low;
                kept += 1;
            }
            carried = high;
        }
        parts.truncate(kept);
        if !carried.is_finite() {
            return None;
        }
        parts.push(carried);
    }
    match special {
        None => Some(rounded(&parts)),
        Some(special) => (has_nan || !special.is_nan()).then_some(special),
    }
}

/// Returns the rounded sum of two values and what the rounding lost.
fn exact_sum(a: f64, b: f64) -> (f64, f64) {
    let (large, small) = if a.abs() < b.abs() { (b, a) } else { (a, b) };
    let high = large + small;
    (high, small - (high - large))
}

/// Rounds the sum of parts that do not overlap, half to even.
fn rounded(parts: &[f64]) -> f64 {
    let mut rest = parts.iter().rev().copied();
    let Some(mut high) = rest.next() else { return 0.0 };
    while let Some(part) = rest.next() {
        let before = high;
        high = before + part;
        let low = part - (high - before);
        if low == 0.0 {
            continue;
        }
        // Half way between two floats, and the parts below decide.
        if let Some(next) = rest.next()
            && (low < 0.0) == (next < 0.0)
        {
            let up = high + 2.0 * low;
            if up - high == 2.0 * low {
                high = up;
            }
        }
        break;
    }
    high
}
