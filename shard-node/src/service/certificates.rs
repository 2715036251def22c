//! Loss certificates on the wire: what this node has of them. A router puts the parts of all nodes together.

use crate::state_machine::Command;
use crate::storage::{Certificate, Opening, Unled};
use fulcrum_common::wire::internal;
use fulcrum_common::wire::v1::failover_report_response as report;
use fulcrum_types::{Entry, Epoch, Member, NodeId, Payload};

/// What this node knows of one failover's losses: its opening, and a part for each record of what logs held.
pub(super) fn certificate_to_wire(
    node: NodeId,
    keyspace: &str,
    certificate: Certificate,
    with_entries: bool,
) -> impl Iterator<Item = report::Certificate> {
    let Certificate { group, new_epoch, .. } = certificate;
    let part = move |old_epoch: Epoch| report::Certificate {
        group: group.0,
        keyspace: keyspace.to_owned(),
        old_epoch: old_epoch.0,
        new_epoch: new_epoch.0,
        ..Default::default()
    };
    let opening = certificate.opening.map(|opening| report::Certificate {
        promotion: Some(opening.promotion.into()),
        ..part(opening.old_epoch)
    });
    let records = certificate.diverged.into_iter().map(move |divergence| {
        let shown = divergence.entries.iter();
        let never = shown.filter(|entry| !divergence.may_be_acknowledged(entry)).count() as u64;
        report::Certificate {
            extent_known: divergence.complete,
            acknowledged_lost: divergence.acknowledged_lost(),
            never_acknowledged: never,
            seen_on: node.0,
            common: Some(divergence.common.into()),
            entries: match with_entries {
                true => divergence
                    .entries
                    .iter()
                    .map(|entry| lost_to_wire(divergence.may_be_acknowledged(entry), entry.clone()))
                    .collect(),
                false => Vec::new(),
            },
            ..part(divergence.old_epoch)
        }
    });
    opening.into_iter().chain(records)
}

/// What this node knows of the epochs themselves.
pub(super) fn notes_to_wire(certificate: &Certificate) -> impl Iterator<Item = internal::EpochNote> + use<> {
    use internal::epoch_note::Note;
    let group = certificate.group.0;
    let note = move |epoch: Epoch, note: Note| internal::EpochNote {
        group,
        epoch: epoch.0,
        note: Some(note),
    };
    let named = certificate.new_epoch;
    let void = certificate.void.then(|| note(named, Note::Void(true)));
    let deposed = |opening: Opening| Some(note(opening.old_epoch, Note::Won(member_to_wire(opening.deposed?))));
    let before = |unled: Unled| Some(note(unled.first.prev(), Note::Won(member_to_wire(unled.before?))));
    let unled = certificate.unled.map(|unled| {
        let words = internal::epoch_note::Unled {
            first: unled.first.0,
            who: Some(member_to_wire(unled.who)),
        };
        note(named, Note::Unled(words))
    });
    let won = [
        certificate.opening.and_then(deposed),
        certificate.unled.and_then(before),
    ];
    void.into_iter().chain(won.into_iter().flatten()).chain(unled)
}

fn member_to_wire(member: Member) -> internal::GroupMember {
    internal::GroupMember {
        node: member.node.0,
        data: member.data.0,
    }
}

fn lost_to_wire(acknowledged: bool, entry: Entry) -> report::LostEntry {
    let lost = match entry.payload {
        Payload::Noop => Vec::new(),
        Payload::Command(command) => match Command::decode(command) {
            Ok(command) => command.into_keyed_writes(),
            // A newer program's command: its position is told, what it did is not.
            Err(_) => Vec::new(),
        },
    };
    let (idempotency, writes): (Vec<_>, Vec<_>) = lost.into_iter().unzip();
    report::LostEntry {
        position: Some(entry.position.into()),
        acknowledged,
        time_ms: entry.time.0,
        writes: writes.into_iter().map(Into::into).collect(),
        idempotency: idempotency
            .into_iter()
            .map(|key| key.map(Into::into).unwrap_or_default())
            .collect(),
    }
}
