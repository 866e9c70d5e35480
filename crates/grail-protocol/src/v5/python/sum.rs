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
