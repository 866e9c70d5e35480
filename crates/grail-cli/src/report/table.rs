//! A table in plain text: columns as wide as their widest cell, numbers to the right.

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Renders `rows` under `columns`; short rows are filled with empty cells. No trailing spaces.
pub fn render(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(idx, (name, _))| {
            let cells = rows.iter().filter_map(|row| row.get(idx)).map(|cell| width(cell));
            cells.chain([width(name)]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = columns
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(idx, ((_, align), width))| pad(cells.get(idx), *width, *align))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let header: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
    let mut lines = vec![line(&header), rule.join("  ")];
    lines.extend(rows.iter().map(|row| line(row)));
    lines.join("\n")
}

fn pad(cell: Option<&String>, to: usize, align: Align) -> String {
    let cell = cell.map_or("", String::as_str);
    let spaces = " ".repeat(to.saturating_sub(width(cell)));
    match align {
        Align::Left => format!("{cell}{spaces}"),
        Align::Right => format!("{spaces}{cell}"),
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["miner-1".to_owned(), "128".to_owned()],
            vec!["é".to_owned(), "4".to_owned()],
            vec!["short row".to_owned()],
        ];
        let table = render(&[("name", Align::Left), ("n", Align::Right)], &rows);
        assert_eq!(
            table,
            "name         n\n\
             ─────────  ───\n\
             miner-1    128\n\
             é            4\n\
             short row"
        );
    }
}
