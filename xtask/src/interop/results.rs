//! What holds where: clients across, features down.
//!
//! Every client writes a line a test: feature, verdict, seconds, test, with tabs between. A feature holds if all its tests do.

use anyhow::{Context, Result, bail};

#[derive(Clone, Copy, Default)]
struct Cell {
    passed: u32,
    failed: u32,
    seconds: f64,
}

/// The results of all clients, in the order in which they came.
#[derive(Default)]
pub(super) struct Results {
    clients: Vec<&'static str>,
    /// A feature, and a cell for each client.
    features: Vec<(String, Vec<Cell>)>,
}

impl Results {
    pub(super) fn is_empty(&self) -> bool {
        self.features.is_empty()
    }

    /// # Errors
    /// A line is not as it should be, or there is none: a client that says nothing has shown nothing.
    pub(super) fn add(&mut self, client: &'static str, text: &str) -> Result<()> {
        self.clients.push(client);
        let column = self.clients.len() - 1;
        if text.trim().is_empty() {
            bail!("{client} has run no test");
        }
        for line in text.lines() {
            self.add_line(column, line)
                .with_context(|| format!("{client} says: {line}"))?;
        }
        Ok(())
    }

    fn add_line(&mut self, column: usize, line: &str) -> Result<()> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [feature, verdict, seconds, _] = fields[..] else {
            bail!("not four fields");
        };
        let cell = self.cell(feature, column);
        match verdict {
            "pass" => cell.passed += 1,
            "fail" => cell.failed += 1,
            other => bail!("`{other}` is no verdict"),
        }
        cell.seconds += seconds.parse::<f64>().context("not a time")?;
        Ok(())
    }

    fn cell(&mut self, feature: &str, column: usize) -> &mut Cell {
        let at = self.features.iter().position(|(name, _)| name == feature);
        let at = at.unwrap_or_else(|| {
            self.features.push((feature.to_owned(), Vec::new()));
            self.features.len() - 1
        });
        let cells = &mut self.features[at].1;
        if cells.len() <= column {
            cells.resize(column + 1, Cell::default());
        }
        &mut cells[column]
    }

    /// A line a feature.
    pub(super) fn table(&self) -> String {
        let width = self.features.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = format!("  {:width$}", "");
        for client in &self.clients {
            text += &format!("  {client:>18}");
        }
        for (name, cells) in &self.features {
            text += &format!("\n  {name:width$}");
            for column in 0..self.clients.len() {
                let shown = cells.get(column).map_or_else(|| "-".to_owned(), |cell| cell.shown());
                text += &format!("  {shown:>18}");
            }
        }
        text
    }
}

impl Cell {
    fn shown(self) -> String {
        let all = self.passed + self.failed;
        match (all, self.failed) {
            (0, _) => "-".to_owned(),
            (_, 0) => format!("pass {all}, {:.1} s", self.seconds),
            (_, failed) => format!("FAIL {failed}/{all}, {:.1} s", self.seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_holds_if_all_its_tests_do() {
        let mut results = Results::default();
        results
            .add("python", "scan\tpass\t0.5\ta\nscan\tpass\t0.6\tb\nwatch\tpass\t1\tc\n")
            .unwrap();
        results.add("buf", "scan\tpass\t0.1\ta\nscan\tfail\t0.1\tb\n").unwrap();
        let table = results.table();
        assert!(table.contains("pass 2, 1.1 s"), "{table}");
        assert!(table.contains("FAIL 1/2, 0.2 s"), "{table}");
        let watch = table.lines().last().unwrap();
        assert!(watch.ends_with(" -"), "buf has no watch: {watch}");
    }

    #[test]
    fn a_client_that_says_nothing_or_nonsense_has_not_passed() {
        for text in ["", "\n", "scan\tpass\t0.5", "scan\tskip\t0.5\ta", "scan\tpass\tsoon\ta"] {
            assert!(Results::default().add("node", text).is_err(), "{text:?}");
        }
    }
}
