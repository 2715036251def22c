//! A dashboard as the JSON that Grafana (10 and later) loads.
//!
//! Panels are numbered and laid out here, from left to right. Which Prometheus is asked is the reader's choice: the data source is a variable.

use serde_json::{Value, json};

use super::panel::{ALL, Dashboard, Kind, Panel, Variable};

const SCHEMA_VERSION: u32 = 38;
const COLUMNS: u32 = 24;
const ROW_HEIGHT: u32 = 1;
const DATASOURCE: &str = "datasource";

/// The JSON of a dashboard.
pub(super) fn json(dashboard: &Dashboard) -> Value {
    let chosen = dashboard.variables.iter().map(variable);
    json!({
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["fulcrum"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": std::iter::once(datasource_variable()).chain(chosen).collect::<Vec<_>>()},
        "links": [{"type": "dashboards", "tags": ["fulcrum"], "title": "Fulcrum", "asDropdown": true, "keepTime": true, "includeVars": true}],
        "panels": panels(dashboard),
    })
}

fn datasource_variable() -> Value {
    json!({"name": DATASOURCE, "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0})
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": format!("${{{DATASOURCE}}}")})
}

fn variable(variable: &Variable) -> Value {
    let query = question(variable);
    json!({
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": datasource(),
        "query": {"query": query, "refId": variable.name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": true,
        "includeAll": true,
        "allValue": ALL,
        "current": {"text": ["All"], "value": ["$__all"]},
    })
}

/// As Grafana asks for the values of a variable.
fn question(variable: &Variable) -> String {
    format!("label_values({}, {})", variable.of, variable.name)
}

/// Where the next panel goes.
#[derive(Default)]
struct Place {
    x: u32,
    y: u32,
    /// Height of the line that is being filled.
    line: u32,
    id: u32,
}

impl Place {
    fn next(&mut self, (width, height): (u32, u32)) -> Value {
        if self.x + width > COLUMNS {
            self.new_line();
        }
        let place = json!({"x": self.x, "y": self.y, "w": width, "h": height});
        self.x += width;
        self.line = self.line.max(height);
        self.id += 1;
        place
    }

    fn new_line(&mut self) {
        (self.x, self.y, self.line) = (0, self.y + self.line, 0);
    }
}

fn panels(dashboard: &Dashboard) -> Vec<Value> {
    let mut place = Place::default();
    let mut made = Vec::new();
    for row in &dashboard.rows {
        place.new_line();
        let at = place.next((COLUMNS, ROW_HEIGHT));
        made.push(
            json!({"id": place.id, "type": "row", "title": row.title, "collapsed": false, "gridPos": at, "panels": []}),
        );
        let mut last = None;
        for one in &row.panels {
            // A number stands beside numbers.
            if last.is_some_and(|last| last != one.kind) {
                place.new_line();
            }
            last = Some(one.kind);
            let at = place.next(one.kind.size());
            made.push(panel(one, place.id, at));
        }
    }
    made
}

fn panel(panel: &Panel, id: u32, at: Value) -> Value {
    json!({
        "id": id,
        "type": panel.kind.grafana(),
        "title": panel.title,
        "description": panel.about,
        "gridPos": at,
        "datasource": datasource(),
        "targets": targets(panel),
        "fieldConfig": {"defaults": defaults(panel), "overrides": overrides(panel)},
        "options": options(panel.kind),
        "transformations": transformations(panel),
    })
}

fn targets(panel: &Panel) -> Vec<Value> {
    let is_table = panel.kind == Kind::Table;
    let queries = panel.queries.iter().zip('A'..='Z');
    let target = queries.map(|(query, letter)| {
        json!({
            "refId": letter.to_string(),
            "datasource": datasource(),
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend,
            "format": if is_table { "table" } else { "time_series" },
            "instant": is_table,
            "range": !is_table,
        })
    });
    target.collect()
}

fn defaults(panel: &Panel) -> Value {
    let custom = match panel.kind {
        Kind::Lines => {
            json!({"drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": false})
        }
        Kind::Number | Kind::Table => json!({}),
    };
    json!({"unit": panel.unit.grafana(), "min": 0, "noValue": "none", "custom": custom})
}

/// Columns have units of their own.
fn overrides(panel: &Panel) -> Vec<Value> {
    if panel.kind != Kind::Table {
        return Vec::new();
    }
    let column = |query: &super::panel::Query| {
        json!({
            "matcher": {"id": "byName", "options": query.legend},
            "properties": [{"id": "unit", "value": query.unit.grafana()}],
        })
    };
    panel.queries.iter().map(column).collect()
}

fn options(kind: Kind) -> Value {
    match kind {
        Kind::Lines => json!({
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }),
        Kind::Number => {
            json!({"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"})
        }
        Kind::Table => json!({"showHeader": true, "cellHeight": "sm"}),
    }
}

/// A table's queries become its columns, by name.
fn transformations(panel: &Panel) -> Vec<Value> {
    if panel.kind != Kind::Table {
        return Vec::new();
    }
    let queries = panel.queries.iter().zip('A'..='Z');
    let names = queries.map(|(query, letter)| (format!("Value #{letter}"), json!(query.legend)));
    let names: serde_json::Map<String, Value> = names.collect();
    vec![
        json!({"id": "merge", "options": {}}),
        json!({"id": "organize", "options": {"excludeByName": {"Time": true}, "renameByName": names}}),
    ]
}
