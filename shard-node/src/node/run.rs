//! Runs what a core asks for: the only match on effects.

use super::bugs::Bug;
use super::group::Group;
use super::settings::durability;
use super::shared::{Failure, Shared};
use super::writes::Acknowledged;
use crate::event::{Observation, Output, RequestId};
use crate::storage::Durability;
use fulcrum_replication::{Divergence, Effect, LogChange, Message};
use fulcrum_types::{Index, NodeId, Now, Refusal, WriteId};
use std::sync::Arc;

impl Group {
    pub(super) fn run(&mut self, shared: &mut Shared, now: Now, effect: Effect) -> Result<(), Failure> {
        let group = self.id;
        match effect {
            Effect::Write { id, change } => self.write(shared, id, change)?,
            Effect::Send { to, message, after } => self.send(shared, to, message, after),
            Effect::Commit { through } => self.commit = self.commit.max(through),
            Effect::Proposed { id, position } => self.proposed(shared, now, RequestId(id.0), position),
            Effect::ProposalRefused { id, reason } => self.proposal_refused(shared, now, RequestId(id.0), &reason),
            Effect::Acknowledge {
                through,
                by,
                recheck_before,
            } => {
                let by = in_order(by);
                self.acknowledge(shared, now, through, &Acknowledged { by, recheck_before });
            }
            Effect::AcknowledgeAlone { at, by } => {
                let (by, recheck_before) = (in_order(by), None);
                self.acknowledge_alone(shared, now.mono, &at, &Acknowledged { by, recheck_before });
            }
            Effect::Abandon { through, reason } => self.abandon(shared, through, reason),
            Effect::AnswerRead { id, answer } => self.answer_read(shared, RequestId(id.0), answer)?,
            Effect::CompareAndSwap {
                attempt,
                expected,
                proposal,
            } => {
                if proposal.primary == Some(shared.settings.node) && proposal.epoch > self.view.epoch {
                    self.failover.stands(now.mono);
                }
                shared.out.push(Output::CompareAndSwap {
                    group,
                    attempt,
                    expected,
                    proposal,
                });
            }
            Effect::ReadConfiguration => shared.out.push(Output::ReadConfiguration { group }),
            Effect::ReadLease { node } => shared.out.push(Output::ReadLease { group, node }),
            Effect::SnapshotWanted { to, transfer } => self.snapshot_wanted(shared, to, transfer)?,
            Effect::SnapshotNext { to, transfer, number } => self.snapshot_next(to, transfer, number)?,
            Effect::SnapshotDone { to, transfer } => self.snapshot_done(shared, to, transfer),
            Effect::SnapshotStage { transfer, chunk } => {
                self.log.stage_snapshot(&mut shared.store, transfer, &chunk)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, shared: &mut Shared, to: NodeId, message: Message, after: Option<WriteId>) {
        let must_wait = after.filter(|write| *write > self.persisted && !shared.bugs.has(Bug::SendBeforePersisted));
        match must_wait {
            Some(write) => self.held.entry(write).or_default().push((to, message)),
            None => shared.out.push(Output::Send {
                to,
                group: self.id,
                message,
            }),
        }
    }

    fn write(&mut self, shared: &mut Shared, id: WriteId, change: LogChange) -> Result<(), Failure> {
        self.note(shared, &change);
        self.log.change(&mut shared.store, &change)?;
        let needed = match change {
            // A loss that is not on record after a crash would have been silent: never less than synced.
            LogChange::OpenCertificate { .. }
            | LogChange::Diverged(_)
            | LogChange::VoidEpoch { .. }
            | LogChange::Unled { .. } => Durability::Synced,
            _ => durability(self.keyspace.options.fsync),
        };
        let batch = shared.store.require(needed);
        self.written.push_back((id, batch));
        if let LogChange::InstallSnapshot { .. } | LogChange::DropState = change {
            self.state_replaced(shared)?;
            self.evaluate_due(shared)?;
        }
        Ok(())
    }

    /// Keeps what this side knows of the log in step with it.
    fn note(&mut self, shared: &mut Shared, change: &LogChange) {
        let group = self.id;
        match change {
            LogChange::HardState(_)
            | LogChange::Compact { .. }
            | LogChange::VoidEpoch { .. }
            | LogChange::Unled { .. } => {}
            LogChange::Append(entries) => {
                self.history.append(entries);
                self.tail.extend(entries.iter().cloned());
            }
            LogChange::Truncate { from } => {
                self.history.truncate(*from);
                self.cut_tail(*from);
                self.lose_writes(shared, *from);
            }
            LogChange::OpenCertificate {
                old_epoch, new_epoch, ..
            } => {
                let (old_epoch, new_epoch) = (*old_epoch, *new_epoch);
                shared.observe(Observation::CertificateOpened {
                    group,
                    old_epoch,
                    new_epoch,
                });
            }
            LogChange::Diverged(divergence) => self.note_divergence(shared, divergence),
            LogChange::InstallSnapshot { meta, .. } => {
                self.history.replace(&meta.epoch_starts, meta.position);
                self.tail.clear();
                self.commit = meta.position.index;
                self.lose_writes(shared, Index::ZERO);
                shared.observe(Observation::SnapshotInstalled {
                    group,
                    position: meta.position,
                });
            }
            LogChange::DropState => {
                self.history = Default::default();
                self.tail.clear();
                self.commit = Index::ZERO;
                self.lose_writes(shared, Index::ZERO);
                self.refuse_reads(shared, &Refusal::NotPrimary { hint: None });
                let reason = "diverged below its commit index in a failover".to_owned();
                shared.observe(Observation::Rebuilding { group, reason });
            }
        }
    }

    fn cut_tail(&mut self, from: Index) {
        while self.tail.back().is_some_and(|entry| entry.position.index >= from) {
            self.tail.pop_back();
        }
    }

    fn note_divergence(&self, shared: &mut Shared, divergence: &Divergence) {
        shared.observe(Observation::DivergenceRecorded {
            group: self.id,
            entries: divergence.entries.len(),
            acknowledged: usize::try_from(divergence.acknowledged_lost()).unwrap_or(usize::MAX),
        });
    }
}

/// As receipts have them, whatever the order in which a group lists its replicas.
fn in_order(mut nodes: Vec<NodeId>) -> Arc<[NodeId]> {
    nodes.sort_unstable();
    nodes.into()
}
