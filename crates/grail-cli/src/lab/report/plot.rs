//! Curves in a frame, drawn as SVG with a title and a description for readers who cannot see them.

use std::fmt::Write as _;

use crate::report::escape;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 36.0;
/// Colour variables of the page, and dashes that tell curves apart without colour.
const LOOKS: [(&str, &str); 9] = [
    ("a", ""),
    ("b", ""),
    ("c", ""),
    ("d", ""),
    ("a", "6 3"),
    ("b", "6 3"),
    ("c", "6 3"),
    ("d", "6 3"),
    ("ink", "2 3"),
];

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By the decimal logarithm; values at or below 0 are left out.
    Log,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with its unit.
    pub name: &'static str,
    /// How values become places.
    pub scale: Scale,
    /// Its ends.
    pub range: (f64, f64),
    /// Values that are written at it.
    pub ticks: Vec<f64>,
}

impl Axis {
    /// Returns the place of a value, 0 to 1, or nothing where it has none.
    fn place(&self, value: f64) -> Option<f64> {
        let of = |value: f64| match self.scale {
            Scale::Linear => Some(value),
            Scale::Log => (value > 0.0).then(|| value.log10()),
        };
        let (low, high) = (of(self.range.0)?, of(self.range.1)?);
        Some(((of(value)? - low) / (high - low)).clamp(0.0, 1.0))
    }
}

/// One curve.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// Points in the order in which they are joined.
    pub points: Vec<(f64, f64)>,
}

/// Returns a figure with `curves` in one frame.
pub fn figure(caption: &str, x: &Axis, y: &Axis, curves: &[Curve]) -> String {
    let names: Vec<&str> = curves.iter().map(|curve| curve.name.as_str()).collect();
    let mut svg = format!(
        "<figure>\n<figcaption>{caption}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         role=\"img\" aria-label=\"{caption}\">\n<desc>{} against {}; curves: {}</desc>\n",
        escape(y.name),
        escape(x.name),
        escape(&names.join(", ")),
        caption = escape(caption)
    );
    svg += &frame(x, y);
    for (curve, look) in curves.iter().zip(LOOKS.iter().cycle()) {
        svg += &line(curve, x, y, look);
    }
    svg += "</svg>\n";
    svg += &legend(curves);
    svg += "</figure>\n";
    svg
}

fn spot(x: f64, y: f64) -> (f64, f64) {
    (LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM))
}

fn frame(x: &Axis, y: &Axis) -> String {
    let mut svg = String::new();
    // Writing to a String cannot fail, hence the ignored results throughout this file.
    for tick in &y.ticks {
        let Some(place) = y.place(*tick) else { continue };
        let (left, at) = spot(0.0, place);
        let _ = writeln!(
            svg,
            "<line x1=\"{left:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" \
             stroke=\"var(--rule)\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{tick}</text>",
            WIDTH - RIGHT,
            left - 5.0,
            at + 4.0
        );
    }
    for tick in &x.ticks {
        let Some(place) = x.place(*tick) else { continue };
        let (at, bottom) = spot(place, 0.0);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>",
            bottom + 14.0
        );
    }
    let _ = writeln!(svg, "<text x=\"0\" y=\"12\">{}</text>", escape(y.name));
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 6.0,
        escape(x.name)
    );
    svg
}

fn line(curve: &Curve, x: &Axis, y: &Axis, (color, dashes): &(&str, &str)) -> String {
    let places = curve.points.iter().filter_map(|(a, b)| Some(spot(x.place(*a)?, y.place(*b)?)));
    let corners: Vec<String> = places.map(|(a, b)| format!("{a:.1},{b:.1}")).collect();
    format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"var(--{color})\" stroke-width=\"2\" \
         stroke-dasharray=\"{dashes}\"><title>{}</title></polyline>\n",
        corners.join(" "),
        escape(&curve.name)
    )
}

fn legend(curves: &[Curve]) -> String {
    let mut html = "<p class=\"legend\">".to_owned();
    for (curve, (color, dashes)) in curves.iter().zip(LOOKS.iter().cycle()) {
        let style = match *dashes {
            "" => "solid",
            "2 3" => "dotted",
            _ => "dashed",
        };
        let _ = write!(
            html,
            "<span style=\"border-top:2px {style} var(--{color})\">{}</span> ",
            escape(&curve.name)
        );
    }
    html + "</p>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale, range: (f64, f64)) -> Axis {
        Axis { name: "share", scale, range, ticks: vec![range.0, range.1] }
    }

    #[test]
    fn values_find_their_place() {
        let linear = axis(Scale::Linear, (0.0, 4.0));
        assert_eq!(linear.place(1.0), Some(0.25));
        assert_eq!(linear.place(9.0), Some(1.0));
        let log = axis(Scale::Log, (0.01, 1.0));
        assert_eq!(log.place(0.1), Some(0.5));
        assert_eq!(log.place(0.0), None);
    }

    #[test]
    fn a_figure_says_what_it_shows() {
        let curve = Curve { name: "int4 <&>".to_owned(), points: vec![(0.0, 0.0), (1.0, 1.0)] };
        let unit = axis(Scale::Linear, (0.0, 1.0));
        let figure = figure("ROC", &unit, &unit, &[curve]);
        for part in ["aria-label=\"ROC\"", "<desc>", "int4 &lt;&amp;&gt;", "<polyline"] {
            assert!(figure.contains(part), "{part}: {figure}");
        }
        assert!(!figure.contains("NaN") && !figure.contains("inf"));
    }
}
