//! The page of the docs that says what every panel tells.

use std::fmt::Write as _;

use super::metrics::DEBUGGING;
use super::panel::{Dashboard, Kind};

const HEAD: &str = "# Dashboards

Made by `cargo xtask dashboards` from `xtask/src/dashboards`, as the JSON in `deploy/grafana/dashboards` is; do not edit either. How to use them, and how they are
checked: [observe.md](observe.md). The pictures show the last `cargo xtask dashboards check --pictures`: a real cluster of three nodes on a very busy machine, and nodes that are killed. They are no measurement.
";

/// The whole page.
pub(super) fn page(dashboards: &[Dashboard]) -> String {
    let mut page = HEAD.to_owned();
    for dashboard in dashboards {
        // Writing into a string cannot fail.
        let _ = write!(
            page,
            "\n## {}\n\n{}\n\n![{}](pictures/{}.svg)\n",
            dashboard.title, dashboard.about, dashboard.title, dashboard.uid
        );
        for row in &dashboard.rows {
            let _ = write!(
                page,
                "\n### {}\n\n| panel | unit | what it tells |\n| --- | --- | --- |\n",
                row.title
            );
            for panel in &row.panels {
                let unit = match panel.kind {
                    Kind::Table => "by column",
                    _ => panel.unit.word(),
                };
                let _ = writeln!(page, "| {} | {unit} | {} |", panel.title, panel.about);
            }
        }
    }
    page + &debugging()
}

fn debugging() -> String {
    if DEBUGGING.is_empty() {
        return "\nEvery metric that there is stands in a dashboard or a rule.\n".to_owned();
    }
    let listed: String = DEBUGGING.iter().map(|name| format!("- `{name}`\n")).collect();
    format!("\n## For debugging\n\nIn no dashboard and no rule:\n\n{listed}")
}
