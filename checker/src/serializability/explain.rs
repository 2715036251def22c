//! Cycles in words: which transactions, and what on which key ties each to the next.

use super::anomaly::Anomaly;
use super::cycles::Cycle;
use super::graph::{Edge, Kind};
use super::order::Order;
use super::views::Views;
use crate::transactions::Element;

/// The cycle's name, its transactions in order, and what is wrong.
pub(super) fn explain(cycle: &Cycle, views: &Views<'_>, orders: &[Order<'_>]) -> (Anomaly, Vec<usize>, String) {
    let mut lines: Vec<String> = cycle.edges.iter().map(|e| line(e, views, &orders[e.key])).collect();
    let mut places: Vec<usize> = cycle.edges.iter().map(|e| e.from).collect();
    let mut anomaly = cycle.anomaly;
    if let (Anomaly::RealTime, Some(first), Some(last)) = (anomaly, cycle.edges.first(), cycle.edges.last()) {
        places.push(last.to);
        lines.push(format!(
            "#{} had ended before #{} began (real time)",
            last.to, first.from
        ));
        let never_seen = first.kind == Kind::Rw && first.version == orders[first.key].elements.len();
        if never_seen && cycle.edges.len() == 1 {
            anomaly = Anomaly::LostAppend;
        }
    }
    let around: Vec<String> = places.iter().chain(places.first()).map(|p| format!("#{p}")).collect();
    (
        anomaly,
        places,
        format!("{}: {}", around.join(" -> "), lines.join("; ")),
    )
}

fn line(edge: &Edge, views: &Views<'_>, order: &Order<'_>) -> String {
    let Edge { from, to, version, .. } = *edge;
    let key = views.keys[edge.key];
    let newest = version.checked_sub(1).map(|at| order.elements[at]);
    let up_to = newest.map_or("as empty".to_owned(), |e: Element| format!("up to {e}"));
    let unseen = || {
        order
            .unobserved
            .iter()
            .find(|(writer, _)| *writer == to)
            .map(|(_, e)| *e)
    };
    let next = order.elements.get(version).copied().or_else(unseen);
    let next = next.map_or("more".to_owned(), |e| e.to_string());
    let seen = match version < order.elements.len() {
        true => "",
        false => ", which no read has seen",
    };
    match edge.kind {
        Kind::Ww => {
            let before = newest.map_or("an element".to_owned(), |e| e.to_string());
            format!("#{from} appended {before} to {key}, behind it #{to} {next}{seen} (ww)")
        }
        Kind::Wr => format!("#{to} read {key} {up_to}, appended by #{from} (wr)"),
        Kind::Rw | Kind::Unseen => {
            format!("#{from} read {key} {up_to}, without {next}, appended by #{to}{seen} (rw)")
        }
    }
}
