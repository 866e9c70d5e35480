//! A line plot over windows, drawn as SVG.

use std::fmt::Write as _;

use super::fold::as_f64;
use super::html::escape;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 24.0;
const GRID_LINES: u32 = 4;

/// One series of points.
#[derive(Clone, Debug)]
pub struct Line {
    name: &'static str,
    /// Name of the page's colour variable.
    color: &'static str,
    points: Vec<(u64, f64)>,
}

impl Line {
    /// Returns an empty series drawn in the page's colour variable `color`.
    pub fn new(name: &'static str, color: &'static str) -> Self {
        Self { name, color, points: Vec::new() }
    }

    /// Adds a point; values that are absent or not finite leave a gap.
    pub fn push(&mut self, window: u64, value: Option<f64>) {
        self.points.extend(value.filter(|value| value.is_finite()).map(|value| (window, value)));
    }
}

/// A plot with its caption.
#[derive(Clone, Debug)]
pub struct Plot {
    caption: &'static str,
    lines: Vec<Line>,
}

/// The smallest box around all points, and the way from data to the drawing.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn around(lines: &[Line]) -> Option<Self> {
        let points = || lines.iter().flat_map(|line| &line.points);
        let x = span(points().map(|(window, _)| as_f64(*window)))?;
        let y = span(points().map(|(_, value)| *value))?;
        // Zero belongs to every axis here: shares, counts, rates, and a loss around it.
        Some(Self { x, y: (y.0.min(0.0), if y.1 > 0.0 { y.1 } else { 0.0 }) })
    }

    fn place(&self, window: u64, value: f64) -> (f64, f64) {
        let x = share(as_f64(window), self.x);
        let y = share(value, self.y);
        (LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM))
    }
}

fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |span, value| {
        let (low, high) = span.unwrap_or((value, value));
        Some((f64::min(low, value), f64::max(high, value)))
    })
}

fn share(value: f64, (low, high): (f64, f64)) -> f64 {
    if high > low { (value - low) / (high - low) } else { 0.5 }
}

impl Plot {
    /// Returns a plot of `lines`.
    pub fn new(caption: &'static str, lines: Vec<Line>) -> Self {
        Self { caption, lines }
    }

    /// Returns the plot as an HTML `figure`.
    pub fn figure(&self) -> String {
        let mut svg = format!(
            "<figure>\n<figcaption>{caption}</figcaption>\n\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{caption}\">\n",
            caption = escape(self.caption)
        );
        match Frame::around(&self.lines) {
            Some(frame) => {
                svg += &grid(&frame);
                svg += &self.legend();
                for line in &self.lines {
                    svg += &series(line, &frame);
                }
            }
            None => svg += "<text x=\"50%\" y=\"50%\" text-anchor=\"middle\">no data yet</text>\n",
        }
        svg += "</svg>\n</figure>\n";
        svg
    }

    fn legend(&self) -> String {
        let mut svg = String::new();
        let mut x = LEFT;
        for line in &self.lines {
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.0}\" y=\"6\" width=\"10\" height=\"10\" fill=\"var(--{})\"/>\
                 <text x=\"{:.0}\" y=\"15\">{}</text>",
                line.color,
                x + 15.0,
                escape(line.name)
            );
            x += 130.0;
        }
        svg
    }
}

fn grid(frame: &Frame) -> String {
    let mut svg = String::new();
    for step in 0..=GRID_LINES {
        let value = frame.y.0 + (frame.y.1 - frame.y.0) * f64::from(step) / f64::from(GRID_LINES);
        let (_, y) = frame.place(0, value);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"var(--rule)\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            tick(value)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{y:.0}\">{:.0}</text>\
         <text x=\"{:.0}\" y=\"{y:.0}\" text-anchor=\"end\">window {:.0}</text>",
        frame.x.0,
        WIDTH - RIGHT,
        frame.x.1,
        y = HEIGHT - 6.0,
    );
    svg
}

fn tick(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        size if size >= 0.01 => format!("{value:.2}"),
        size if size >= 0.0001 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

fn series(line: &Line, frame: &Frame) -> String {
    let places: Vec<(f64, f64)> =
        line.points.iter().map(|(window, value)| frame.place(*window, *value)).collect();
    let corners: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let mut svg = format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"var(--{})\" stroke-width=\"2\"/>\n",
        corners.join(" "),
        line.color
    );
    for ((x, y), (window, value)) in places.iter().zip(&line.points) {
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"var(--{})\">\
             <title>window {window}: {} {value:.4}</title></circle>",
            line.color,
            escape(line.name)
        );
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[(u64, f64)]) -> Line {
        let mut line = Line::new("name", "a");
        for (window, value) in points {
            line.push(*window, Some(*value));
        }
        line
    }

    #[test]
    fn corners_of_the_data_are_corners_of_the_frame() {
        let frame = Frame::around(&[line(&[(30, 0.0), (90, 2.0)])]).unwrap();
        assert_eq!(frame.place(30, 0.0), (LEFT, HEIGHT - BOTTOM));
        assert_eq!(frame.place(90, 2.0), (WIDTH - RIGHT, TOP));
    }

    #[test]
    fn nothing_equal_values_and_infinities_draw_without_harm() {
        assert!(Plot::new("p", vec![line(&[])]).figure().contains("no data yet"));
        for points in [&[(30, 1.0)][..], &[(30, 0.0), (60, 0.0)], &[(30, f64::NAN), (60, -1.0)]] {
            let figure = Plot::new("p", vec![line(points)]).figure();
            assert!(!figure.contains("NaN") && !figure.contains("inf"), "{figure}");
        }
    }
}
