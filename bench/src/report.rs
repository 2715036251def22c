//! Rows of the result: what was measured, the bar it has to pass, and whether it does.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What a measured figure has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

/// One measured figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) measured: f64,
    pub(crate) unit: String,
    pub(crate) bar: Option<Bar>,
    /// The figures behind it, for people.
    pub(crate) detail: String,
}

impl Row {
    pub(crate) fn new(name: &str, measured: f64, unit: &str, detail: String) -> Self {
        Self {
            name: name.to_owned(),
            measured,
            unit: unit.to_owned(),
            bar: None,
            detail,
        }
    }

    pub(crate) fn bar(mut self, bar: Bar) -> Self {
        self.bar = Some(bar);
        self
    }

    pub(crate) fn passes(&self) -> Option<bool> {
        self.bar.map(|bar| match bar {
            Bar::AtLeast(least) => self.measured >= least,
            Bar::AtMost(most) => self.measured <= most,
        })
    }
}

pub(crate) fn table(rows: &[Row]) -> String {
    let name_width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let bar = match row.bar {
            Some(Bar::AtLeast(least)) => format!(">= {least}"),
            Some(Bar::AtMost(most)) => format!("<= {most}"),
            None => String::new(),
        };
        let verdict = match row.passes() {
            Some(true) => "pass",
            Some(false) => "MISS",
            None => "",
        };
        let measured = format!("{:.2} {}", row.measured, row.unit);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:name_width$}  {measured:>16}  {bar:>8}  {verdict:4}  {}",
            row.name, row.detail
        );
    }
    text
}

/// The middle one of some figures; of an even number the lower middle one.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_judged() {
        let row = Row::new("x", 0.5, "of echo", String::new());
        assert_eq!(row.passes(), None);
        assert_eq!(row.clone().bar(Bar::AtLeast(0.4)).passes(), Some(true));
        assert_eq!(row.clone().bar(Bar::AtMost(0.4)).passes(), Some(false));
        let text = table(&[row.bar(Bar::AtLeast(0.75))]);
        assert!(text.contains("0.50 of echo") && text.contains("MISS"), "{text}");
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 1.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
