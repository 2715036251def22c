//! Whether every question of every dashboard has an answer.

use anyhow::Result;

use super::prometheus::{Prometheus, Series, Span};
use crate::dashboards::metrics::Metrics;
use crate::dashboards::panel::{ALL, Dashboard, Kind, Panel};

/// What Grafana puts for four looks of Prometheus, and more: a busy machine delays some.
const RATE_INTERVAL: &str = "10s";
const PRODUCT: &str = "fulcrum_";

/// The answers to a dashboard's panels: for each panel, for each query.
pub(super) type Answered = Vec<Vec<Vec<Series>>>;

/// Asks everything. What has no answer is named.
pub(super) fn panels(prometheus: &Prometheus, dashboards: &[Dashboard], span: Span) -> Result<(u8, Vec<Answered>)> {
    let mut code = 0;
    let mut all = Vec::new();
    for dashboard in dashboards {
        let mut answered = Answered::new();
        let mut queries = 0;
        for panel in dashboard.panels() {
            let answers = ask(prometheus, dashboard, panel, span)?;
            for (query, answer) in panel.queries.iter().zip(&answers) {
                queries += 1;
                if !has_data(answer) {
                    println!(
                        "EMPTY: {} / {} / {}: {}",
                        dashboard.title, panel.title, query.legend, query.expr
                    );
                    code = 1;
                }
            }
            answered.push(answers);
        }
        println!("{}: {} panels, {queries} queries", dashboard.title, answered.len());
        all.push(answered);
    }
    Ok((code, all))
}

fn ask(prometheus: &Prometheus, dashboard: &Dashboard, panel: &Panel, span: Span) -> Result<Vec<Vec<Series>>> {
    let answer = |query: &crate::dashboards::panel::Query| {
        let expr = substituted(&query.expr, dashboard, span);
        match panel.kind {
            Kind::Table => prometheus.at_the_end(&expr, span),
            Kind::Lines | Kind::Number => prometheus.over(&expr, span),
        }
    };
    panel.queries.iter().map(answer).collect()
}

/// As Grafana does before it asks, with all values of every variable.
fn substituted(expr: &str, dashboard: &Dashboard, span: Span) -> String {
    let expr = expr
        .replace("$__rate_interval", RATE_INTERVAL)
        .replace("$__range", &span.length());
    let variables = dashboard.variables.iter();
    variables.fold(expr, |expr, variable| expr.replace(&format!("${}", variable.name), ALL))
}

fn has_data(answer: &[Series]) -> bool {
    answer
        .iter()
        .flat_map(|series| &series.points)
        .any(|(_, value)| value.is_finite())
}

/// Every variable offers something.
pub(super) fn variables(prometheus: &Prometheus, dashboards: &[Dashboard]) -> Result<u8> {
    let mut code = 0;
    for dashboard in dashboards {
        for variable in dashboard.variables {
            let of = variable.of.replace("$cluster", ALL);
            let values = prometheus.values(variable.name, Some(&of))?;
            println!("{}: {} is one of {values:?}", dashboard.title, variable.name);
            if values.is_empty() {
                code = 1;
            }
        }
    }
    Ok(code)
}

/// What the cluster exports is what its sources register, under the labels that it gives. What did not happen in this run is told.
pub(super) fn metrics(prometheus: &Prometheus, known: &Metrics) -> Result<u8> {
    let exported = prometheus.values("__name__", None)?;
    let ours = exported.iter().filter(|name| name.starts_with(PRODUCT));
    let foreign: Vec<&String> = ours.clone().filter(|name| known.of_series(name).is_none()).collect();
    for name in &foreign {
        println!("{name} is exported, and no source of xtask/src/dashboards/metrics.rs registers it");
    }
    let renamed = prometheus.renamed_labels()?;
    for label in &renamed {
        println!("{label}: targets and metrics have a label of the same name");
    }
    let seen: std::collections::BTreeSet<&str> = ours.filter_map(|name| known.of_series(name)).collect();
    println!(
        "{} of {} metrics of the product were seen",
        seen.len(),
        known.names.len()
    );
    for name in known.names.iter().filter(|name| !seen.contains(name.as_str())) {
        println!("  not in this run: {name}");
    }
    Ok(u8::from(seen.is_empty() || !foreign.is_empty() || !renamed.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn answer(values: &[f64]) -> Vec<Series> {
        let points = values.iter().map(|value| (0.0, *value)).collect();
        vec![Series {
            labels: BTreeMap::new(),
            points,
        }]
    }

    #[test]
    fn an_answer_has_a_number_in_it() {
        assert!(has_data(&answer(&[f64::NAN, 0.0])));
        for empty in [Vec::new(), answer(&[]), answer(&[f64::NAN]), answer(&[f64::INFINITY])] {
            assert!(!has_data(&empty));
        }
    }
}
