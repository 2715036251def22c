//! How things read in a script.

use fulcrum_replication::{Answered, Effect, LogChange, Status};
use fulcrum_types::{Entry, GroupConfiguration, Index, NodeId, Payload, Role};

pub fn configuration(c: &GroupConfiguration) -> String {
    let primary = c.primary.map_or("nobody".to_string(), |p| p.to_string());
    let in_sync: Vec<_> = c.in_sync.iter().map(|m| m.node.to_string()).collect();
    format!(
        "{} {} primary={primary} in_sync=[{}]",
        c.version,
        c.epoch,
        in_sync.join(" ")
    )
}

pub fn entry(e: &Entry) -> String {
    match &e.payload {
        Payload::Noop => format!("{} noop", e.position),
        Payload::Command(b) => format!("{} {}", e.position, String::from_utf8_lossy(b)),
    }
}

pub fn entries(all: &[Entry]) -> String {
    all.iter().map(entry).collect::<Vec<_>>().join(", ")
}

fn change(change: &LogChange) -> Option<String> {
    Some(match change {
        LogChange::HardState(_) | LogChange::Append(_) => return None,
        LogChange::Truncate { from } => format!("truncates from {from}"),
        LogChange::Compact { through } => format!("compacts through {through}"),
        LogChange::OpenCertificate {
            old_epoch,
            new_epoch,
            promotion,
            ..
        } => format!("opens a certificate: {old_epoch} -> {new_epoch} at {promotion}"),
        LogChange::Unled { first, last, .. } => format!("records that it led none of {first} to {last}"),
        LogChange::VoidEpoch { epoch } => format!("records that {epoch} acknowledged nothing"),
        LogChange::Diverged(d) => format!(
            "records {} -> {} diverged after {}: [{}], acknowledged through {}{}",
            d.old_epoch,
            d.new_epoch,
            d.common,
            entries(&d.entries),
            d.acknowledged_through,
            if d.complete { "" } else { ", others may have had more" }
        ),
        LogChange::InstallSnapshot { meta, .. } => format!("installs a snapshot at {}", meta.position),
        LogChange::DropState => "drops its state".to_string(),
    })
}

pub fn answer(answer: &Answered) -> String {
    match answer {
        Answered::Permit(p) => format!("may read at {} by {}", p.at, p.basis.name()),
        Answered::Refused(r) => format!("refuses the read: {r:?}"),
    }
}

pub fn effect(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Write { change: c, .. } => return change(c),
        Effect::Send { .. } | Effect::ReadConfiguration => return None,
        Effect::ReadLease { node } => format!("asks whether {node} has a lease"),
        Effect::Commit { through } => format!("commits {through}"),
        Effect::Proposed { position, .. } => format!("orders {position}"),
        Effect::ProposalRefused { reason, .. } => format!("refuses the write: {reason:?}"),
        Effect::Acknowledge { through, by, .. } => {
            let by: Vec<_> = by.iter().map(ToString::to_string).collect();
            format!("acknowledges {through}, durable on {}", by.join(" "))
        }
        Effect::AcknowledgeAlone { at, by } => {
            let [at, by] = [
                at.iter().map(ToString::to_string).collect::<Vec<_>>(),
                by.iter().map(ToString::to_string).collect(),
            ];
            format!("acknowledges {} alone, durable on {}", at.join(" "), by.join(" "))
        }
        Effect::Abandon { through, reason } => format!("answers UNKNOWN through {through}: {reason}"),
        Effect::AnswerRead { answer: a, .. } => answer(a),
        Effect::CompareAndSwap { expected, proposal, .. } => {
            let shown = configuration(&GroupConfiguration {
                version: *expected,
                ..proposal.clone()
            });
            format!("proposes from {shown}")
        }
        Effect::SnapshotWanted { to, .. } => format!("starts a snapshot for {to}"),
        Effect::SnapshotDone { to, .. } => format!("ends the snapshot for {to}"),
        Effect::SnapshotNext { .. } | Effect::SnapshotStage { .. } => return None,
    })
}

pub fn status(id: NodeId, s: &Status) -> String {
    let mut line = format!(
        "{id} {} {} {} last={} persisted={} commit={} applied={}",
        s.role, s.epoch, s.version, s.last, s.persisted, s.commit, s.applied
    );
    if s.role == Role::Primary {
        line += if s.ready { " ready" } else { " taking-over" };
        line += if s.lease_left.is_some() { " lease" } else { " no-lease" };
    }
    if s.compacted.index > Index::ZERO {
        line += &format!(" compacted={}", s.compacted);
    }
    if s.stranded {
        line += " stranded";
    }
    line
}
