//! Writes are joined at a node's door, as a router joins those of one message of a pipeline.
//!
//! The nodes cannot tell: they are handed a joint and answer it. Here it is made of writes of different clients, which is harder on it
//! than a router is, and sent by itself is whatever a router would send by itself. Only in some plans, so that the seeds that are
//! kept stay what they were.

use super::host::Asker;
use super::time::MS;
use super::world::{Happening, World};
use fulcrum_common::routing::parts;
use fulcrum_shard_node::event::Event;
use fulcrum_types::{Answer, Answered, GroupId, GroupRequest, JoinedWrite, NodeId, Operation, Refusal};
use std::collections::BTreeMap;

/// Most writes of a joint.
const MOST: usize = 5;

/// A write on its way, alone or in a joint.
type Asked = (Asker, GroupRequest);

/// The joints at a machine.
#[derive(Debug, Default)]
pub struct Joints {
    /// Not full yet.
    gathering: BTreeMap<GroupId, Vec<Asked>>,
    /// Handed to the node.
    handed_in: BTreeMap<u64, Vec<Asked>>,
    count: u64,
}

impl Joints {
    /// Whether a question is in a joint that waits for its answer.
    #[must_use]
    pub fn holds(&self, joint: u64, question: u64) -> bool {
        let asked = self.handed_in.get(&joint);
        let is_it = |(asker, _): &Asked| matches!(asker, Asker::Question { number, .. } if *number == question);
        asked.is_some_and(|asked| asked.iter().any(is_it))
    }
}

/// The write, if it may go jointly.
fn joinable(request: &GroupRequest) -> Option<JoinedWrite> {
    match &request.operation {
        Operation::Write { idempotency, seen, ops } => match ops.as_slice() {
            [op] => Some(JoinedWrite {
                idempotency: *idempotency,
                seen: *seen,
                op: op.clone(),
            }),
            _ => None,
        },
        _ => None,
    }
}

fn key(request: &GroupRequest) -> Option<bytes::Bytes> {
    joinable(request).map(|write| write.op.key)
}

impl World {
    /// A request has arrived at a running node: in a plan with joints a write waits a little for others.
    pub(super) fn hand_in(&mut self, to: NodeId, asker: Asker, request: GroupRequest) {
        if !self.plan.joints || joinable(&request).is_none() {
            return self.hand_in_alone(to, asker, request);
        }
        let group = request.group;
        let Some(host) = self.hosts.get(&to) else { return };
        let gathered = host.joints.gathering.get(&group).map_or(&[][..], Vec::as_slice);
        let same_key = |(_, other): &Asked| key(other) == key(&request);
        if gathered.len() >= MOST || gathered.iter().any(same_key) {
            self.hand_in_joint(to, group);
        }
        let wait = self.rng.skewed(0, 20 * MS);
        let Some(host) = self.hosts.get_mut(&to) else { return };
        let boot = host.boot;
        let gathering = host.joints.gathering.entry(group).or_default();
        gathering.push((asker, request));
        if gathering.len() == 1 {
            self.queue.at(self.now + wait, Happening::Joint(to, boot, group));
        }
    }

    fn hand_in_alone(&mut self, to: NodeId, asker: Asker, request: GroupRequest) {
        if let Some(host) = self.hosts.get_mut(&to) {
            let id = host.request_id(asker);
            self.deliver(to, Event::Request { id, request });
        }
    }

    /// The node gets what has gathered for a group.
    pub(super) fn hand_in_joint(&mut self, to: NodeId, group: GroupId) {
        let Some(host) = self.hosts.get_mut(&to) else { return };
        let Some(asked) = host.joints.gathering.remove(&group) else {
            return;
        };
        let Some(mut request) = asked.first().map(|(_, request)| request.clone()) else {
            return;
        };
        let deadline = asked.iter().map(|(_, request)| request.deadline).min();
        request.deadline = deadline.unwrap_or(request.deadline);
        request.operation = Operation::Joint(asked.iter().filter_map(|(_, request)| joinable(request)).collect());
        host.joints.count += 1;
        let number = host.joints.count;
        let several = asked.len() > 1;
        host.joints.handed_in.insert(number, asked);
        let id = host.request_id(Asker::Joint(number));
        if several {
            self.record.reached("joint of writes");
        }
        self.deliver(to, Event::Request { id, request });
    }

    /// A node has answered a joint: each of its writes is answered, or sent by itself.
    pub(super) fn answer_joint(&mut self, node: NodeId, number: u64, result: Result<Answered, Refusal>) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let asked = host.joints.handed_in.remove(&number).unwrap_or_default();
        match result {
            Ok(Answered {
                answer: Answer::Joint(results),
                receipt,
            }) if results.len() == asked.len() => {
                for ((asker, _), result) in asked.into_iter().zip(results) {
                    if result.is_err() {
                        self.record.reached("write of a joint refused");
                    }
                    let answered = result.map(|outcome| Answered {
                        answer: Answer::Written(vec![outcome]),
                        receipt: receipt.clone(),
                    });
                    self.send_reply_to(node, asker, answered);
                }
            }
            Err(refusal) if asked.len() > 1 && parts(&refusal) => {
                self.record.reached("joint parted");
                for (asker, request) in asked {
                    self.hand_in_alone(node, asker, request);
                }
            }
            Err(refusal) => {
                for (asker, _) in asked {
                    self.send_reply_to(node, asker, Err(refusal.clone()));
                }
            }
            Ok(other) => {
                let reason = format!("{node} answered a joint of {} with {:?}", asked.len(), other.answer);
                self.fail("joints", reason);
            }
        }
    }
}
