//! What a benchmark shows.

use super::worker::{Latency, Tally};
use crate::args::BenchArgs;
use crate::render::{Align, Paint, Table, count, latency, rate, span};
use crate::workload::Choice;
use serde_json::{Value, json};
use std::time::Duration;

/// What was measured, and for how long.
pub(super) struct Report {
    pub(super) tally: Tally,
    pub(super) took: Duration,
    pub(super) choice: Choice,
}

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

impl Report {
    pub(super) fn answered(&self) -> u64 {
        self.tally.operations()
    }

    pub(super) fn render(&self, args: &BenchArgs, paint: Paint) -> String {
        let how = args
            .pipeline
            .map_or("unary".to_owned(), |depth| format!("pipelined, {depth} deep"));
        let mut text = format!(
            "{}: {} clients, {how}, {} over {} records, values of {} bytes, reads {}\n\n",
            paint.bold(&format!("YCSB {}", args.workload)),
            args.clients,
            self.choice.name(),
            count(args.records),
            args.value_size,
            args.read
                .level
                .map_or("at the default level".to_owned(), |level| level.to_string()),
        );
        text.push_str(&self.table(paint));
        let total = rate(self.answered(), self.took);
        text.push_str(&format!("\n{total} operations/s over {}\n", span(self.took)));
        if self.tally.staleness.count() > 0 {
            let bounds = &self.tally.staleness;
            text.push_str(&format!(
                "reads were proved to be at most {} stale (p50), {} (p99), {} (max); {} had no proof\n",
                latency(bounds.at(0.5)),
                latency(bounds.at(0.99)),
                latency(bounds.max()),
                count(self.tally.unproved)
            ));
        }
        if self.tally.conflicts > 0 {
            text.push_str(&format!(
                "{} read-modify-writes met a newer version\n",
                count(self.tally.conflicts)
            ));
        }
        for ((step, code), number) in &self.tally.errors {
            text.push_str(&paint.yellow(&format!("{} {}: {code}\n", count(*number), step.name())));
        }
        text
    }

    fn table(&self, paint: Paint) -> String {
        let mut columns = vec![
            ("operation", Align::Left),
            ("answered", Align::Right),
            ("op/s", Align::Right),
        ];
        columns.extend(QUANTILES.map(|(name, _)| (name, Align::Right)));
        columns.extend([("max", Align::Right), ("failed", Align::Right)]);
        let mut table = Table::new(&columns);
        for (step, latencies) in &self.tally.latencies {
            let failed = self.tally.errors.iter().filter(|((of, _), _)| of == step);
            let mut cells = vec![
                step.name().to_owned(),
                count(latencies.count()),
                rate(latencies.count(), self.took),
            ];
            cells.extend(QUANTILES.map(|(_, quantile)| latency(latencies.at(quantile))));
            cells.push(latency(latencies.max()));
            cells.push(count(failed.map(|(_, number)| number).sum()));
            table.row(cells);
        }
        table.render(paint)
    }

    pub(super) fn as_json(&self, args: &BenchArgs) -> Value {
        let seconds = self.took.as_secs_f64();
        let operations = self.tally.latencies.iter().map(|(step, latencies)| {
            json!({
                "operation": step.name(),
                "answered": latencies.count(),
                "operations_per_second": latencies.count() as f64 / seconds.max(f64::MIN_POSITIVE),
                "latency_us": quantiles(latencies),
            })
        });
        let errors = self
            .tally
            .errors
            .iter()
            .map(|((step, code), number)| json!({"operation": step.name(), "code": code, "count": number}));
        json!({
            "workload": args.workload.to_string(),
            "keyspace": args.keyspace,
            "distribution": self.choice.name(),
            "clients": args.clients,
            "pipeline": args.pipeline,
            "records": args.records,
            "value_size": args.value_size,
            "level": args.read.level.map(|level| level.to_string()),
            "seed": args.seed,
            "seconds": seconds,
            "operations_per_second": self.answered() as f64 / seconds.max(f64::MIN_POSITIVE),
            "operations": operations.collect::<Vec<_>>(),
            "errors": errors.collect::<Vec<_>>(),
            "conflicts": self.tally.conflicts,
            "proved_staleness_us": quantiles(&self.tally.staleness),
            "reads_without_proof": self.tally.unproved,
        })
    }
}

fn quantiles(latencies: &Latency) -> Value {
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let mut object: serde_json::Map<String, Value> = QUANTILES
        .iter()
        .map(|(name, quantile)| ((*name).to_owned(), us(latencies.at(*quantile)).into()))
        .collect();
    object.insert("max".to_owned(), us(latencies.max()).into());
    object.insert("count".to_owned(), latencies.count().into());
    Value::Object(object)
}
