//! Tables of text: columns as wide as their widest cell, numbers to the right.

use super::paint::Paint;

/// Where a cell stands in its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
enum Row {
    Cells(Vec<String>),
    Rule,
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new(columns: &[(&str, Align)]) -> Self {
        Table {
            columns: columns
                .iter()
                .map(|(name, align)| ((*name).to_owned(), *align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; a missing cell stays empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| cell.replace(['\n', '\r', '\t'], " "));
        self.rows.push(Row::Cells(cells.collect()));
    }

    /// Adds a line between two parts of the table.
    pub fn rule(&mut self) {
        self.rows.push(Row::Rule);
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines of text, with a line break at the end.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| width(name)).collect();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            for (column, cell) in widths.iter_mut().zip(cells) {
                *column = (*column).max(width(cell));
            }
        }
        let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let rule: String = widths
            .iter()
            .map(|width| "─".repeat(*width))
            .collect::<Vec<_>>()
            .join("──");
        let mut text = format!("{}\n{}\n", paint.bold(&self.line(&names, &widths)), paint.dim(&rule));
        for row in &self.rows {
            match row {
                Row::Cells(cells) => text.push_str(&self.line(cells, &widths)),
                Row::Rule => text.push_str(&paint.dim(&rule)),
            }
            text.push('\n');
        }
        text
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (at, ((_, align), column)) in self.columns.iter().zip(widths).enumerate() {
            let cell = cells.get(at).map_or("", String::as_str);
            let padding = " ".repeat(column - width(cell));
            let gap = if at == 0 { "" } else { "  " };
            line.push_str(gap);
            match align {
                Align::Left => line.extend([cell, &padding]),
                Align::Right => line.extend([&padding, cell]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Columns on the screen, colours left out. Wide characters count as one.
fn width(text: &str) -> usize {
    let mut columns = 0;
    let mut in_escape = false;
    for letter in text.chars() {
        match (in_escape, letter) {
            (false, '\u{1b}') => in_escape = true,
            (true, 'm') => in_escape = false,
            (true, _) => {}
            (false, _) => columns += 1,
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[("group", Align::Left), ("lag", Align::Right), ("note", Align::Left)]);
        table.row(["g1".into(), "7".into(), "half\nway".into()]);
        table.rule();
        table.row(["g12345".into(), "12".into()]);
        table
    }

    #[test]
    fn golden() {
        let golden = "\
group   lag  note
─────────────────────
g1        7  half way
─────────────────────
g12345   12
";
        assert_eq!(sample().render(Paint::plain()), golden);
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let mut table = Table::new(&[("a", Align::Right), ("b", Align::Left)]);
        table.row([Paint::colour().red("1"), "x".into()]);
        table.row(["22".into(), "y".into()]);
        let text = table.render(Paint::plain());
        let columns: Vec<usize> = text.lines().skip(2).map(width).collect();
        assert_eq!(columns, [5, 5]);
    }
}
