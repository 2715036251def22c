//! `cargo xtask compose test`: what a user does with it, and what may happen to it.
//!
//! From this machine, with the program that is in the image: writes by one router and reads by the other, transactions by both. Prometheus scrapes
//! everybody, evaluates every rule, and the recorded ones have data. A put is followed to the taker of traces, from the command line to the backups.
//! Then each service is restarted, one after the other, and at last all is ended and started again: what was written is there each time.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{COLLECTOR, Compose, IMAGE, traced};
use crate::cluster::until;
use crate::dashboards::check::prometheus::Prometheus;
use crate::image::docker;
use crate::package::succeeds;
use crate::process;
use crate::workspace::root;

const ROUTERS: [&str; 2] = ["127.0.0.1:7400", "127.0.0.1:7410"];
const PROMETHEUS: &str = "127.0.0.1:9090";
const TRACES: &str = "http://127.0.0.1:4317";
const KEYSPACE: &str = "compose-test";
const COPY: &str = "fulcrum-compose-copy";
/// Of `deploy/prometheus/compose.yml`.
const TARGETS: usize = 7;
/// Rates need some scrapes, and rules some evaluations after them.
const SEEN_WITHIN: Duration = Duration::from_secs(120);
/// Processes send spans every few seconds.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);
/// Values of what is refused, and of what was asked over long: nobody is refused here, and the ratio of nothing is nothing.
const NEED_NOT_HAVE_DATA: [&str; 2] = [
    "keyspace_cause:fulcrum_refusals:rate5m",
    "keyspace_cause:fulcrum_refusals:ratio_rate5m",
];
/// What has to be fulfilled within a restart.
const DEADLINE: &str = "30s";

/// The test. What is up stays up.
pub(super) fn run(compose: &Compose, services: &[String]) -> Result<u8> {
    let user = User::take_from_image()?;
    user.begin()?;
    for (number, router) in ROUTERS.iter().enumerate() {
        user.transfer(router, number)?;
    }
    user.finds_everything()?;
    println!("put, get and transactions through {}", ROUTERS.join(" and "));
    let prometheus = Prometheus::at(PROMETHEUS);
    watched(&prometheus, &user)?;
    if prometheus.rules_are_well()? != 0 {
        bail!("Prometheus has no rules, or some that cannot be evaluated");
    }
    match services.iter().any(|service| service == COLLECTOR) {
        true => followed(compose, &user)?,
        false => println!("no trace was looked for: {COLLECTOR} is left out"),
    }
    for service in services {
        compose.run(&["restart", service])?;
        compose.until_healthy(services)?;
        user.finds_everything()
            .with_context(|| format!("after a restart of {service}"))?;
        println!("{service} was restarted, and everything is there");
    }
    compose.run(&["down"])?;
    let mut words = vec!["up", "--detach"];
    words.extend(services.iter().map(String::as_str));
    compose.run(&words)?;
    compose.until_healthy(services)?;
    user.finds_everything().context("after down and up")?;
    println!("down and up again, and everything is there");
    user.fulcrum(ROUTERS[0], &["keyspace", "drop", KEYSPACE, "--yes"])?;
    println!("all of it held; it is still up: `cargo xtask compose down` ends it");
    Ok(0)
}

/// A put is followed, and all of its trace arrives.
fn followed(compose: &Compose, user: &User) -> Result<()> {
    let trace = user.put_followed()?;
    let mut lacking = Vec::new();
    let arrived = until(ARRIVES_WITHIN, || {
        lacking = match process::output_of(&mut compose.command(&["logs", "--no-color", "--no-log-prefix", COLLECTOR]))
        {
            Ok(log) => traced::lacks(&String::from_utf8_lossy(&log), &trace),
            Err(error) => vec![format!("{error:#}")],
        };
        lacking.is_empty().then_some(())
    });
    arrived.with_context(|| {
        let (seconds, lacking) = (ARRIVES_WITHIN.as_secs(), lacking.join(", "));
        format!("of trace {trace} there did not arrive within {seconds} s: {lacking}")
    })?;
    println!("trace {trace} arrived whole: from the command line by a router to a primary and its backups");
    Ok(())
}

/// Everybody is scraped, and everything recorded has data.
fn watched(prometheus: &Prometheus, user: &User) -> Result<()> {
    let mut last = String::new();
    let seen = until(SEEN_WITHIN, || {
        // Rates are of what goes on.
        let asked = user.finds_everything().and_then(|()| look(prometheus));
        match asked {
            Ok(missing) if missing.is_empty() => Some(()),
            Ok(missing) => {
                last = missing.join(", ");
                None
            }
            Err(error) => {
                last = format!("{error:#}");
                None
            }
        }
    });
    seen.with_context(|| format!("not seen by Prometheus within {} s: {last}", SEEN_WITHIN.as_secs()))?;
    println!("Prometheus: {TARGETS} targets are up, and what is recorded has data");
    Ok(())
}

fn look(prometheus: &Prometheus) -> Result<Vec<String>> {
    let targets = prometheus.ask("/api/v1/targets", &[("state", "active")])?;
    let mut missing = not_up(&targets);
    let rules = prometheus.ask("/api/v1/rules", &[("type", "record")])?;
    let recorded = recorded(&rules);
    if recorded.is_empty() {
        missing.push("recording rules".to_owned());
    }
    for name in recorded
        .iter()
        .filter(|name| !NEED_NOT_HAVE_DATA.contains(&name.as_str()))
    {
        if prometheus.sum(name)?.is_none() {
            missing.push(name.clone());
        }
    }
    Ok(missing)
}

/// Targets that are missing or not up.
fn not_up(targets: &Value) -> Vec<String> {
    let targets = targets["activeTargets"].as_array().cloned().unwrap_or_default();
    let mut missing: Vec<String> = targets
        .iter()
        .filter(|target| target["health"] != "up")
        .map(|target| format!("{} ({})", target["scrapeUrl"], target["lastError"]))
        .collect();
    if targets.len() != TARGETS {
        missing.push(format!("{} targets of {TARGETS}", targets.len()));
    }
    missing
}

/// The names of recording rules.
fn recorded(rules: &Value) -> Vec<String> {
    let groups = rules["groups"].as_array().into_iter().flatten();
    let rules = groups.filter_map(|group| group["rules"].as_array()).flatten();
    rules
        .filter_map(|rule| rule["name"].as_str())
        .map(str::to_owned)
        .collect()
}

/// Somebody on this machine with the command line.
struct User {
    program: PathBuf,
}

impl User {
    /// With the program that is in the image: surely of the same version.
    fn take_from_image() -> Result<Self> {
        let folder = root().join("target/deploy/compose");
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let program = folder.join("fulcrum");
        // One that an interrupted command has left.
        crate::image::succeeds_silently(&["rm", "--force", COPY])?;
        process::output_of(&mut docker(&["create", "--name", COPY, IMAGE]))?;
        let copied = succeeds(docker(&["cp", &format!("{COPY}:/usr/local/bin/fulcrum")]).arg(&program));
        process::output_of(&mut docker(&["rm", COPY]))?;
        copied.map(|()| Self { program })
    }

    fn fulcrum(&self, router: &str, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(["--router", router, "--deadline", DEADLINE]).args(words);
        let said = process::output_of(&mut command).with_context(|| format!("by {router}"))?;
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    }

    /// A keyspace of its own, without what an earlier test has left.
    fn begin(&self) -> Result<()> {
        let listed = self.fulcrum(ROUTERS[0], &["keyspace", "list", "-o", "json"])?;
        if listed.contains(&format!("\"{KEYSPACE}\"")) {
            self.fulcrum(ROUTERS[0], &["keyspace", "drop", KEYSPACE, "--yes"])?;
        }
        self.fulcrum(ROUTERS[0], &["keyspace", "create", KEYSPACE, "--mode", "sync"])?;
        for (number, router) in ROUTERS.iter().enumerate() {
            self.fulcrum(
                router,
                &["put", KEYSPACE, &format!("key/{number}"), &format!("value {number}")],
            )?;
        }
        Ok(())
    }

    /// The trace of a put.
    fn put_followed(&self) -> Result<String> {
        let said = self.program.with_extension("said");
        let file = File::create(&said).with_context(|| format!("make {}", said.display()))?;
        let mut command = Command::new(&self.program);
        command
            .args(["--router", ROUTERS[0], "--deadline", DEADLINE, "--trace", TRACES])
            .args(["put", KEYSPACE, "followed", "yes"])
            .stderr(file);
        let done = process::output_of(&mut command);
        let said = std::fs::read_to_string(&said).with_context(|| format!("read {}", said.display()))?;
        done.with_context(|| said.trim().to_owned())?;
        let trace = traced::told(&said).with_context(|| format!("which trace it was, is not told: {said}"))?;
        Ok(trace.to_owned())
    }

    /// A transaction over two keys, whose condition holds.
    fn transfer(&self, router: &str, number: usize) -> Result<()> {
        let script = [
            format!("if {KEYSPACE} key/{number} = 'value {number}'"),
            format!("put {KEYSPACE} moved/{number} 'by {number}'"),
            format!("put {KEYSPACE} log/{number} done"),
        ];
        let mut words = vec!["txn", "run"];
        for line in &script {
            words.extend(["-e", line]);
        }
        self.fulcrum(router, &words).map(drop)
    }

    /// Everything that was written, by each router.
    fn finds_everything(&self) -> Result<()> {
        for router in ROUTERS {
            for number in 0..ROUTERS.len() {
                for (key, value) in [
                    (format!("key/{number}"), format!("value {number}")),
                    (format!("moved/{number}"), format!("by {number}")),
                    (format!("log/{number}"), "done".to_owned()),
                ] {
                    let found = self.fulcrum(router, &["get", KEYSPACE, &key, "--level", "linearizable"])?;
                    if found != value {
                        bail!("{router} finds '{found}' at {key}, where '{value}' was written");
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn targets_that_are_down_or_missing_are_named() {
        let up = json!({"health": "up"});
        assert!(not_up(&json!({"activeTargets": vec![up.clone(); TARGETS]})).is_empty());
        let down = json!({"health": "down", "scrapeUrl": "http://etcd:2381/metrics", "lastError": "refused"});
        let said = not_up(&json!({"activeTargets": [up, down]}));
        assert_eq!(said, ["\"http://etcd:2381/metrics\" (\"refused\")", "2 targets of 7"]);
    }

    #[test]
    fn the_rules_that_need_no_data_are_rules() {
        let committed = std::fs::read_to_string(root().join("deploy/prometheus/rules/recording.yml")).unwrap();
        for name in NEED_NOT_HAVE_DATA {
            assert!(committed.contains(&format!("record: {name}\n")), "{name}");
        }
        let rules = json!({"groups": [{"rules": [{"name": "a:b:c"}]}, {"rules": []}]});
        assert_eq!(recorded(&rules), ["a:b:c"]);
    }
}
