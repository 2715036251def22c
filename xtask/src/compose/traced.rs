//! What the taker of traces says has come: the spans of one trace, read from its log.
//!
//! Rotel (`--debug-log-verbosity=detailed`) writes each span as the collector of OpenTelemetry does: the service first, then its spans, field by
//! field. Fields before a span's trace are not its own.

use std::collections::BTreeSet;

/// A put by the command line in a `sync` keyspace: docs/observe.md draws it.
pub(super) const OF_A_PUT: [(&str, &str); 11] = [
    ("fulcrum", "fulcrum"),
    ("fulcrum", "fulcrum.v1.Kv/Put"),
    ("fulcrum-router", "fulcrum.v1.Kv/Put"),
    ("fulcrum-router", "forward"),
    ("fulcrum-shard-node", "write"),
    ("fulcrum-shard-node", "queue"),
    ("fulcrum-shard-node", "propose"),
    ("fulcrum-shard-node", "fsync"),
    ("fulcrum-shard-node", "replicate"),
    ("fulcrum-shard-node", "append"),
    ("fulcrum-shard-node", "apply"),
];

/// A span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Span {
    service: String,
    trace: String,
    id: String,
    parent: String,
    name: String,
}

/// What of a put's trace has not come yet, or hangs in the air; none if it is whole and one tree.
pub(super) fn lacks(log: &str, trace: &str) -> Vec<String> {
    let spans: Vec<Span> = spans(log).into_iter().filter(|span| span.trace == trace).collect();
    let is_there =
        |(service, name): &(&str, &str)| spans.iter().any(|span| span.service == *service && span.name == *name);
    let missing = OF_A_PUT.iter().filter(|wanted| !is_there(wanted));
    let mut lacking: Vec<String> = missing.map(|(service, name)| format!("{service} {name}")).collect();
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    // The command is the root; nothing else is.
    let orphans = spans
        .iter()
        .filter(|span| span.name != "fulcrum" && !ids.contains(span.parent.as_str()));
    lacking.extend(orphans.map(|span| format!("the parent of {} {}", span.service, span.name)));
    lacking
}

/// The id that the command line told on standard error.
pub(super) fn told(said: &str) -> Option<&str> {
    said.lines().find_map(|line| line.strip_prefix("trace "))
}

fn spans(log: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut service = String::new();
    for line in log.lines() {
        if let Some(named) = line.trim_start().strip_prefix("-> service.name: Str(") {
            named.trim_end_matches(')').clone_into(&mut service);
            continue;
        }
        let Some((field, value)) = line.split_once(" : ") else {
            continue;
        };
        let value = value.trim().to_owned();
        match (field.trim(), spans.last_mut()) {
            ("Trace ID", _) => spans.push(Span {
                service: service.clone(),
                trace: value,
                ..Span::default()
            }),
            ("Parent ID", Some(span)) => span.parent = value,
            ("ID", Some(span)) => span.id = value,
            ("Name", Some(span)) => span.name = value,
            _ => {}
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "000102030405060708090a0b0c0d0e0f";

    fn span(service: &str, name: &str, id: usize, parent: usize) -> String {
        format!(
            "ResourceSpans #0\nResource SchemaURL: \nResource attributes:\n     -> service.name: Str({service})\n\
             ScopeSpans #0\nInstrumentationScope fulcrum \nSpan #0\n    Trace ID       : {TRACE}\n    Parent ID      : {parent:016x}\n    \
             ID             : {id:016x}\n    Name           : {name}\n    Kind           : SPAN_KIND_SERVER\nStart time: 1\nEnd time: 2\n\
             Attributes:\n     -> fulcrum.level: Str(x)\n"
        )
    }

    fn put() -> Vec<String> {
        let numbered = OF_A_PUT.iter().enumerate();
        numbered
            .map(|(number, (service, name))| span(service, name, number + 1, number))
            .collect()
    }

    #[test]
    fn a_whole_trace_lacks_nothing_and_what_is_missing_or_hangs_in_the_air_is_named() {
        assert_eq!(lacks(&put().concat(), TRACE), Vec::<String>::new());
        assert_eq!(lacks(&put().concat(), &"f".repeat(32)).len(), OF_A_PUT.len());
        let mut torn = put();
        torn.remove(3);
        assert_eq!(
            lacks(&torn.concat(), TRACE),
            ["fulcrum-router forward", "the parent of fulcrum-shard-node write"]
        );
    }

    #[test]
    fn spans_are_those_of_the_service_that_was_named_last() {
        let two =
            span("fulcrum-router", "forward", 7, 6) + "Span #1\n    Trace ID       : ff\n    Name           : other\n";
        let seen = spans(&two);
        assert_eq!(
            (seen[0].id.as_str(), seen[0].parent.as_str()),
            ("0000000000000007", "0000000000000006")
        );
        assert_eq!(
            (seen[1].service.as_str(), seen[1].name.as_str()),
            ("fulcrum-router", "other")
        );
    }

    #[test]
    fn the_id_is_what_the_command_line_says() {
        assert_eq!(told("warning: x\ntrace abc\n"), Some("abc"));
        assert_eq!(told("written\n"), None);
    }
}
