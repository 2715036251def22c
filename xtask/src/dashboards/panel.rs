//! What a dashboard is: rows of panels, each with its unit, what it tells, and what it asks.
//!
//! The one description that the JSON for Grafana, the page of the docs and the check against a real Prometheus are made from.

/// A dashboard.
pub(crate) struct Dashboard {
    /// Name of its file, and its identity in Grafana.
    pub(crate) uid: &'static str,
    pub(crate) title: &'static str,
    /// What it is for, in a sentence.
    pub(crate) about: &'static str,
    pub(crate) variables: &'static [Variable],
    pub(crate) rows: Vec<Row>,
}

/// What a reader may choose. All values are one of the choices.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
    /// The series whose values of the label of that name are offered.
    pub(crate) of: &'static str,
}

/// Matches everything, series without the label included.
pub(crate) const ALL: &str = ".*";

pub(crate) const CLUSTER: Variable = Variable {
    name: "cluster",
    label: "Cluster",
    of: "fulcrum_shard_node_map_version",
};
pub(crate) const KEYSPACE: Variable = Variable {
    name: "keyspace",
    label: "Keyspace",
    of: r#"fulcrum_shard_node_replicas{cluster=~"$cluster"}"#,
};
pub(crate) const INSTANCE: Variable = Variable {
    name: "instance",
    label: "Node",
    of: r#"fulcrum_shard_node_map_version{cluster=~"$cluster"}"#,
};

/// Panels under one heading.
pub(crate) struct Row {
    pub(crate) title: &'static str,
    pub(crate) panels: Vec<Panel>,
}

/// A panel.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    /// What it tells, and how to read it.
    pub(crate) about: &'static str,
    pub(crate) unit: Unit,
    pub(crate) kind: Kind,
    pub(crate) queries: Vec<Query>,
}

/// What it asks.
pub(crate) struct Query {
    pub(crate) expr: String,
    /// Name of a series, with `{{label}}`; of a table, of the column.
    pub(crate) legend: &'static str,
    /// Of a column.
    pub(crate) unit: Unit,
}

/// How the answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Over time.
    Lines,
    /// The last value.
    Number,
    /// The last values, a column for each query, a row for each set of labels.
    Table,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Bytes,
    PerSecond,
    Count,
    /// 0 to 1, shown in percent.
    Share,
    /// So many of one for each of the other.
    Ratio,
}

impl Unit {
    /// As Grafana calls it.
    pub(crate) fn grafana(self) -> &'static str {
        match self {
            Unit::Seconds => "s",
            Unit::Bytes => "bytes",
            Unit::PerSecond => "ops",
            Unit::Count => "short",
            Unit::Share => "percentunit",
            Unit::Ratio => "none",
        }
    }

    /// As a reader of the docs does.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
            Unit::PerSecond => "per second",
            Unit::Count => "count",
            Unit::Share => "percent",
            Unit::Ratio => "ratio",
        }
    }
}

impl Kind {
    /// Width and height on Grafana's grid of 24 columns.
    pub(crate) fn size(self) -> (u32, u32) {
        match self {
            Kind::Lines => (8, 8),
            Kind::Number => (4, 4),
            Kind::Table => (24, 9),
        }
    }

    pub(crate) fn grafana(self) -> &'static str {
        match self {
            Kind::Lines => "timeseries",
            Kind::Number => "stat",
            Kind::Table => "table",
        }
    }
}

impl Panel {
    fn new(kind: Kind, title: &'static str, unit: Unit, about: &'static str) -> Self {
        Self {
            title,
            about,
            unit,
            kind,
            queries: Vec::new(),
        }
    }

    pub(crate) fn lines(title: &'static str, unit: Unit, about: &'static str) -> Self {
        Self::new(Kind::Lines, title, unit, about)
    }

    pub(crate) fn number(title: &'static str, unit: Unit, about: &'static str) -> Self {
        Self::new(Kind::Number, title, unit, about)
    }

    pub(crate) fn table(title: &'static str, about: &'static str) -> Self {
        Self::new(Kind::Table, title, Unit::Count, about)
    }

    /// Asks, in the panel's unit.
    pub(crate) fn ask(self, legend: &'static str, expr: String) -> Self {
        let unit = self.unit;
        self.column(legend, unit, expr)
    }

    /// Asks for a column of a table.
    pub(crate) fn column(mut self, legend: &'static str, unit: Unit, expr: String) -> Self {
        self.queries.push(Query { expr, legend, unit });
        self
    }
}

impl Dashboard {
    pub(crate) fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.rows.iter().flat_map(|row| &row.panels)
    }
}
