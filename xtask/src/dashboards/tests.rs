//! What must hold of dashboards and rules without a cluster.

use std::collections::BTreeSet;

use serde_json::Value;

use super::metrics::{self, DEBUGGING, Metrics};
use super::panel::{ALL, Kind};
use super::{FOLDER, all, files, grafana};
use crate::workspace::root;

const RULES: [&str; 2] = [
    "deploy/prometheus/rules/recording.yml",
    "deploy/prometheus/rules/alerts.yml",
];

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Without comments: these may name what is not there.
fn rules() -> String {
    let lines = RULES.map(read).join("\n");
    let lines = lines.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

/// Everything that dashboards ask.
fn questions() -> String {
    let dashboards = all();
    let queries = dashboards
        .iter()
        .flat_map(|one| one.panels())
        .flat_map(|panel| &panel.queries);
    let of_panels = queries.map(|query| query.expr.clone());
    let variables = dashboards
        .iter()
        .flat_map(|one| one.variables.iter().map(|variable| variable.of.to_owned()));
    of_panels.chain(variables).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_committed_is_what_is_made() {
    for (path, text) in files().unwrap() {
        assert!(
            read(&path) == text,
            "{path} is not what `cargo xtask dashboards` makes: run it"
        );
    }
    let made = files().unwrap().len() - 1;
    let there = std::fs::read_dir(root().join(FOLDER)).unwrap().count();
    assert_eq!(made, there, "{FOLDER} has files that nothing makes");
}

#[test]
fn panels_have_names_units_and_words_and_their_ids_are_unique() {
    let mut uids = BTreeSet::new();
    for dashboard in all() {
        assert!(uids.insert(dashboard.uid));
        let json = grafana::json(&dashboard);
        let panels = json["panels"].as_array().unwrap();
        let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{}", dashboard.title);
        let titles: BTreeSet<&str> = dashboard.panels().map(|panel| panel.title).collect();
        assert_eq!(
            titles.len(),
            dashboard.panels().count(),
            "{} has a title twice",
            dashboard.title
        );
        for panel in panels {
            assert!(
                panel["title"].as_str().is_some_and(|title| !title.is_empty()),
                "{panel}"
            );
            if panel["type"] == "row" {
                continue;
            }
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{panel}");
            assert!(
                panel["description"]
                    .as_str()
                    .is_some_and(|words| words.ends_with('.') || words.ends_with("always.")),
                "{panel}"
            );
            assert!(
                panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()),
                "{panel}"
            );
        }
    }
}

#[test]
fn panels_lie_side_by_side_within_the_grid() {
    for dashboard in all() {
        let json = grafana::json(&dashboard);
        let side = |panel: &Value, name: &str| panel["gridPos"][name].as_u64().unwrap();
        let mut taken = BTreeSet::new();
        for panel in json["panels"].as_array().unwrap() {
            let (x, y) = (side(panel, "x"), side(panel, "y"));
            assert!(x + side(panel, "w") <= 24, "{panel}");
            for column in x..x + side(panel, "w") {
                for line in y..y + side(panel, "h") {
                    assert!(
                        taken.insert((column, line)),
                        "{} overlaps in {}",
                        panel["title"],
                        dashboard.title
                    );
                }
            }
        }
    }
}

#[test]
fn no_data_source_is_fixed_and_every_variable_can_be_all() {
    for (path, text) in files().unwrap().iter().filter(|(path, _)| path.ends_with(".json")) {
        let json: Value = serde_json::from_str(text).unwrap();
        let mut uids = Vec::new();
        data_sources(&json, &mut uids);
        assert!(
            !uids.is_empty() && uids.iter().all(|uid| uid == "${datasource}"),
            "{path}: {uids:?}"
        );
        for variable in json["templating"]["list"].as_array().unwrap() {
            if variable["type"] != "datasource" {
                assert_eq!(
                    (&variable["allValue"], &variable["includeAll"]),
                    (&Value::from(ALL), &Value::from(true))
                );
            }
        }
    }
}

fn data_sources(json: &Value, found: &mut Vec<String>) {
    if let Some(uid) = json["datasource"]["uid"].as_str() {
        found.push(uid.to_owned());
    }
    let children: Vec<&Value> = match json {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    };
    children.into_iter().for_each(|child| data_sources(child, found));
}

#[test]
fn every_variable_that_a_query_uses_is_one_of_its_dashboard() {
    const OF_GRAFANA: [&str; 2] = ["__rate_interval", "__range"];
    for dashboard in all() {
        let known = |name: &str| OF_GRAFANA.contains(&name) || dashboard.variables.iter().any(|one| one.name == name);
        for query in dashboard.panels().flat_map(|panel| &panel.queries) {
            for used in query.expr.split('$').skip(1) {
                let name = used
                    .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .next()
                    .unwrap();
                assert!(known(name), "${name} in {} of {}", query.expr, dashboard.title);
            }
        }
    }
}

#[test]
fn every_series_that_is_asked_for_exists_in_the_product() {
    let metrics = Metrics::of_sources(root()).unwrap();
    let mut asked = metrics::named(&questions());
    asked.extend(metrics::named(&rules()));
    let unknown: Vec<&String> = asked
        .iter()
        .filter(|series| metrics.of_series(series).is_none())
        .collect();
    assert!(unknown.is_empty(), "no service registers {unknown:?}");
    let recorded = metrics::recorded(&questions());
    let rules = rules();
    for rule in recorded.union(&metrics::recorded(&rules)) {
        assert!(rules.contains(&format!("record: {rule}\n")), "no rule records {rule}");
    }
}

#[test]
fn every_metric_of_the_product_is_used_or_said_to_be_for_debugging() {
    let metrics = Metrics::of_sources(root()).unwrap();
    let mut asked = metrics::named(&questions());
    asked.extend(metrics::named(&rules()));
    let used: BTreeSet<&str> = asked.iter().filter_map(|series| metrics.of_series(series)).collect();
    for name in &metrics.names {
        let is_for_debugging = DEBUGGING.contains(&name.as_str());
        assert!(
            used.contains(name.as_str()) != is_for_debugging,
            "{name} is used: {}",
            !is_for_debugging
        );
    }
    assert!(DEBUGGING.iter().all(|name| metrics.names.contains(*name)));
}

#[test]
fn every_alert_leads_to_its_runbook_and_has_a_test() {
    let alerts = read(RULES[1]);
    let tests = ["groups", "requests", "security"]
        .map(|name| read(&format!("deploy/prometheus/tests/{name}.yml")))
        .join("\n");
    let mut pages = BTreeSet::new();
    let mut seen = 0;
    for alert in alerts.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        let page = alert
            .split("runbook_url: ")
            .nth(1)
            .unwrap_or_else(|| panic!("{name} has no runbook"));
        let page = page.lines().next().unwrap();
        assert!(
            read(page).lines().next().unwrap().contains(name),
            "{page} is not about {name}"
        );
        assert!(
            read("docs/runbooks/README.md").contains(name),
            "the list of runbooks lacks {name}"
        );
        let cases = tests.matches(&format!("alertname: {name}")).count();
        assert!(
            cases >= 2 || name == "FulcrumRefusals",
            "{name} is tested {cases} times"
        );
        pages.insert(page.to_owned());
        seen += 1;
    }
    assert!(seen >= 14, "{seen} alerts");
    let there = std::fs::read_dir(root().join("docs/runbooks")).unwrap().count();
    assert_eq!(there, pages.len() + 1, "a runbook belongs to no alert");
    let metrics = Metrics::of_sources(root()).unwrap();
    for page in pages {
        for series in metrics::named(&read(&page)) {
            assert!(
                metrics.of_series(&series).is_some(),
                "{page} names {series}, which nothing registers"
            );
        }
    }
}

#[test]
fn names_are_read_from_sources_and_queries() {
    let metrics = Metrics::of_sources(root()).unwrap();
    for (series, metric) in [
        ("fulcrum_router_requests_total", Some("fulcrum_router_requests_total")),
        (
            "fulcrum_shard_node_fsync_seconds_bucket",
            Some("fulcrum_shard_node_fsync_seconds"),
        ),
        ("fulcrum_shard_node_fsync_seconds", None),
        ("fulcrum_shard_node_epoch_bucket", None),
        (
            "fulcrum_coordinator_undecided_oldest_seconds",
            Some("fulcrum_coordinator_undecided_oldest_seconds"),
        ),
        ("fulcrum_placement_held", Some("fulcrum_placement_held")),
        ("fulcrum_router_misspelt_total", None),
    ] {
        assert_eq!(metrics.of_series(series), metric, "{series}");
    }
    let expr = r#"rate(fulcrum_a_total{x="1"}[5m]) / a:fulcrum_b:rate5m"#;
    assert_eq!(metrics::named(expr), BTreeSet::from(["fulcrum_a_total".to_owned()]));
    assert_eq!(
        metrics::recorded(expr),
        BTreeSet::from(["a:fulcrum_b:rate5m".to_owned()])
    );
}

#[test]
fn tables_have_columns_with_names_and_lines_a_legend() {
    for dashboard in all() {
        for panel in dashboard.panels() {
            let legends: BTreeSet<&str> = panel.queries.iter().map(|query| query.legend).collect();
            assert!(!legends.contains(""), "{}", panel.title);
            assert_eq!(legends.len(), panel.queries.len(), "{} has a legend twice", panel.title);
            assert!(panel.kind != Kind::Table || legends.len() > 1, "{}", panel.title);
        }
    }
}
