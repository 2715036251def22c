//! A Prometheus that watches the cluster, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::plan::Role;
use crate::cluster::{Ledger, until};
use crate::http::{self, with_query};
use crate::process::Background;
use crate::workspace::root;

const CONFIGURATION: &str = "deploy/prometheus";
/// Instead of the committed intervals: a check is short.
const LOOKS_EVERY: &str = "1s";
const QUICKER: [&str; 3] = ["scrape_interval", "scrape_timeout", "evaluation_interval"];
const READY_WITHIN: Duration = Duration::from_secs(60);
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// Points of a question over time.
const POINTS: f64 = 60.0;
const CLUSTER: &str = "check";

pub(crate) struct Prometheus {
    address: String,
    /// Ends it, if it was started here.
    _process: Option<Background>,
}

/// What is looked at, in seconds since 1970 as Prometheus tells them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    from: f64,
    to: f64,
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    pub(super) labels: BTreeMap<String, String>,
    /// Time and value.
    pub(super) points: Vec<(f64, f64)>,
}

impl Span {
    pub(super) fn until_now(prometheus: &Prometheus, from: f64) -> Result<Self> {
        let to = prometheus.now()?;
        Ok(Self { from, to })
    }

    /// As Prometheus writes a time.
    pub(super) fn length(self) -> String {
        format!("{:.0}s", (self.to - self.from).max(1.0))
    }
}

impl Prometheus {
    /// Starts it on what the ledger lists, and waits until it answers.
    pub(super) fn start(program: &Path, folder: &Path, address: &str, ledger: &Ledger) -> Result<Self> {
        prepare(folder, ledger).with_context(|| format!("write the configuration into {}", folder.display()))?;
        let log = File::create(folder.join("log")).context("make the log")?;
        let mut command = Command::new(program);
        command
            .current_dir(folder)
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut process = Background::start(&mut command)?;
        let mut ended = false;
        let is_ready = || {
            ended = !matches!(process.ended(), Ok(None));
            let answer = http::get(address, "/-/ready", ANSWERS_WITHIN, MAX_ANSWER_BYTES);
            (ended || answer.is_ok_and(|answer| answer.is_ok())).then_some(())
        };
        let settled = until(READY_WITHIN, is_ready);
        if ended || settled.is_none() {
            bail!(
                "Prometheus does not serve at {address}; {} says why",
                folder.join("log").display()
            );
        }
        println!("Prometheus at http://{address}");
        Ok(Self {
            address: address.to_owned(),
            _process: Some(process),
        })
    }

    /// One that runs already.
    pub(crate) fn at(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            _process: None,
        }
    }

    /// Asks for a path; the data of the answer.
    pub(crate) fn ask(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let path = with_query(path, query);
        let answer = http::get(&self.address, &path, ANSWERS_WITHIN, MAX_ANSWER_BYTES).context("ask Prometheus")?;
        let json: Value = serde_json::from_str(&answer.body).context("read the answer of Prometheus")?;
        match answer.is_ok() {
            true => Ok(json["data"].clone()),
            false => bail!("Prometheus: {}", json["error"].as_str().unwrap_or("no reason")),
        }
    }

    /// Its time.
    pub(super) fn now(&self) -> Result<f64> {
        let data = self.ask("/api/v1/query", &[("query", "time()")])?;
        data["result"][0].as_f64().context("Prometheus does not tell its time")
    }

    /// What an expression was over time.
    pub(super) fn over(&self, expr: &str, span: Span) -> Result<Vec<Series>> {
        let step = ((span.to - span.from) / POINTS).max(1.0).to_string();
        let (from, to) = (span.from.to_string(), span.to.to_string());
        let data = self.ask(
            "/api/v1/query_range",
            &[("query", expr), ("start", &from), ("end", &to), ("step", &step)],
        )?;
        Ok(series(&data, "values"))
    }

    /// What an expression was at the end.
    pub(super) fn at_the_end(&self, expr: &str, span: Span) -> Result<Vec<Series>> {
        let data = self.ask("/api/v1/query", &[("query", expr), ("time", &span.to.to_string())])?;
        Ok(series(&data, "value"))
    }

    /// The sum of a metric now; none if there are no series of it.
    pub(crate) fn sum(&self, metric: &str) -> Result<Option<f64>> {
        let data = self.ask("/api/v1/query", &[("query", &format!("sum({metric})"))])?;
        Ok(series(&data, "value")
            .first()
            .and_then(|one| Some(one.points.first()?.1)))
    }

    /// Labels that Prometheus renamed, because a target has one of that name.
    pub(super) fn renamed_labels(&self) -> Result<Vec<String>> {
        let data = self.ask("/api/v1/labels", &[])?;
        let labels = data.as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(labels
            .filter(|label| label.starts_with("exported_"))
            .map(str::to_owned)
            .collect())
    }

    /// The values of a label.
    pub(super) fn values(&self, label: &str, of: Option<&str>) -> Result<BTreeSet<String>> {
        let of: Vec<(&str, &str)> = of.iter().map(|of| ("match[]", *of)).collect();
        let data = self.ask(&format!("/api/v1/label/{label}/values"), &of)?;
        let values = data.as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(values.map(str::to_owned).collect())
    }

    /// Every rule was evaluated without an error.
    pub(crate) fn rules_are_well(&self) -> Result<u8> {
        let data = self.ask("/api/v1/rules", &[])?;
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        let rules: Vec<&Value> = groups
            .iter()
            .filter_map(|group| group["rules"].as_array())
            .flatten()
            .collect();
        let ill: Vec<&&Value> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
        for rule in &ill {
            println!("{}: {} {}", rule["name"], rule["health"], rule["lastError"]);
        }
        println!("{} rules, {} not well", rules.len(), ill.len());
        Ok(u8::from(rules.is_empty() || !ill.is_empty()))
    }
}

/// The committed configuration, but quicker, with the cluster as its target.
fn prepare(folder: &Path, ledger: &Ledger) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    for needed in ["rules", "targets"] {
        std::fs::create_dir_all(folder.join(needed))?;
    }
    let committed = root().join(CONFIGURATION);
    for entry in std::fs::read_dir(committed.join("rules"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), folder.join("rules").join(entry.file_name()))?;
    }
    let configuration = std::fs::read_to_string(committed.join("prometheus.yml"))?;
    std::fs::write(folder.join("prometheus.yml"), quicker(&configuration))?;
    std::fs::write(folder.join("targets/cluster.json"), targets(ledger).to_string())?;
    Ok(())
}

fn quicker(configuration: &str) -> String {
    let line = |line: &str| match QUICKER.iter().find(|key| line.trim_start().starts_with(*key)) {
        Some(key) => format!("  {key}: {LOOKS_EVERY}\n"),
        None => format!("{line}\n"),
    };
    configuration.lines().map(line).collect()
}

fn targets(ledger: &Ledger) -> Value {
    let target = |started: &crate::cluster::Started| {
        let service = match started.role {
            Role::Etcd => "metadata",
            Role::Node => "shard-node",
            Role::Router => "router",
            Role::Coordinator => "coordinator",
        };
        let address = started
            .metrics
            .trim_start_matches("http://")
            .trim_end_matches("/metrics");
        json!({"targets": [address], "labels": {"cluster": CLUSTER, "service": service}})
    };
    ledger.started.iter().map(target).collect()
}

fn series(data: &Value, points: &str) -> Vec<Series> {
    let result = data["result"].as_array().into_iter().flatten();
    let one = |one: &Value| {
        let labels = one["metric"].as_object().into_iter().flatten();
        let labels = labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        let values = match &one[points] {
            // A single point, or many.
            Value::Array(pair) if pair.first().is_some_and(Value::is_number) => vec![one[points].clone()],
            Value::Array(pairs) => pairs.clone(),
            _ => Vec::new(),
        };
        let point = |pair: &Value| Some((pair[0].as_f64()?, pair[1].as_str()?.parse().ok()?));
        Series {
            labels: labels.collect(),
            points: values.iter().filter_map(point).collect(),
        }
    };
    result.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_at_a_moment_and_over_time() {
        let data = json!({"result": [{"metric": {"a": "b"}, "value": [1.5, "NaN"]}]});
        let one = &series(&data, "value")[0];
        assert_eq!(one.labels["a"], "b");
        assert!(one.points.len() == 1 && one.points[0].1.is_nan());
        let data = json!({"result": [{"metric": {}, "values": [[1, "2"], [2, "+Inf"]]}]});
        assert_eq!(series(&data, "values")[0].points, [(1.0, 2.0), (2.0, f64::INFINITY)]);
        assert!(series(&json!({}), "value").is_empty());
    }

    #[test]
    fn only_intervals_differ_from_what_is_committed() {
        let committed = std::fs::read_to_string(root().join(CONFIGURATION).join("prometheus.yml")).unwrap();
        let made = quicker(&committed);
        let changed: Vec<&str> = made
            .lines()
            .zip(committed.lines())
            .filter(|(a, b)| a != b)
            .map(|(a, _)| a)
            .collect();
        assert_eq!(
            changed,
            [
                "  scrape_interval: 1s",
                "  scrape_timeout: 1s",
                "  evaluation_interval: 1s"
            ]
        );
    }
}
