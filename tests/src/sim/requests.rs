//! Traffic between clients and nodes.

use super::client::Next;
use super::host::{Asker, Lane};
use super::network::Endpoint;
use super::time::MS;
use super::world::{Happening, World};
use fulcrum_types::{Answered, GroupRequest, NodeId, Refusal};

impl World {
    /// A lane begins its next operation by the plan's mix.
    pub(super) fn next_operation(&mut self, number: usize) {
        if !self.load || self.lanes[number].is_busy() {
            return;
        }
        let lane = &mut self.lanes[number];
        let process = &mut self.processes[lane.process];
        lane.begin(self.now, &self.plan.load, self.plan.mode, &self.plan.groups, process);
        self.attempt(number);
    }

    /// A lane makes the next attempt of its operation.
    pub(super) fn attempt(&mut self, number: usize) {
        let watcher = number.checked_sub(self.lanes.len());
        let group = match watcher {
            Some(watcher) => Some(self.watchers[watcher].group),
            None => self.lanes[number].group(),
        };
        let Some(group) = group else {
            return;
        };
        let replicas = self
            .plan
            .groups
            .iter()
            .find(|g| g.group == group)
            .map_or(&[][..], |g| &g.replicas);
        let (now, patience) = (self.now, self.plan.load.patience);
        let attempt = match watcher {
            Some(watcher) => Some(self.watchers[watcher].attempt(now, patience, replicas)),
            None => self.lanes[number].attempt(now, patience, replicas),
        };
        let Some(attempt) = attempt else {
            return;
        };
        let asker = Lane {
            lane: number,
            attempt: attempt.number,
        };
        let to = attempt.to;
        self.record
            .event(self.now, &[20, number as u64, attempt.number, to.0], || {
                format!("client {} asks {to}: {:?}", number + 1, attempt.request.operation)
            });
        self.queue.at(attempt.gives_up, Happening::Silence(asker));
        // A connection does not double what is sent over it: a refusal would say nothing of the other copy.
        let from = Endpoint::Client(number as u64);
        let mut request = Some(attempt.request);
        self.transmit(from, Endpoint::Node(to), || {
            let (request, asker) = (request.take()?, Asker::Lane(asker));
            Some(Happening::Request { to, asker, request })
        });
    }

    /// A request arrives. A machine that is off refuses the connection.
    pub(super) fn request(&mut self, to: NodeId, asker: Asker, request: GroupRequest) {
        let Some(host) = self.hosts.get(&to) else {
            return;
        };
        if host.node.is_none() {
            let result = Err(Refusal::Unreachable {
                reason: "connection refused".into(),
            });
            return self.queue.at(
                self.now + MS,
                Happening::Reply {
                    from: to,
                    asker,
                    result,
                },
            );
        }
        let Some(request) = self.befall(to, asker, request) else {
            return;
        };
        self.hand_in(to, asker, request);
    }

    /// An answer arrives.
    pub(super) fn reply(&mut self, from: NodeId, asker: Asker, result: &Result<Answered, Refusal>) {
        match asker {
            Asker::Lane(asker) => self.reply_to_lane(from, asker, result),
            // Its writes are answered one by one.
            Asker::Joint(_) => {}
            Asker::Question { number, attempt } => self.answer_to_question(from, number, attempt, result),
        }
    }

    fn reply_to_lane(&mut self, from: NodeId, asker: Lane, result: &Result<Answered, Refusal>) {
        if let Some(watcher) = asker.lane.checked_sub(self.lanes.len()) {
            return self.told(watcher, from, asker, result);
        }
        let lane = &mut self.lanes[asker.lane];
        let awaited = lane.awaits(asker.attempt);
        self.record.event(
            self.now,
            &[21, asker.lane as u64, asker.attempt, from.0, u64::from(result.is_ok())],
            || {
                let late = if awaited { "" } else { " (too late)" };
                match result {
                    Ok(a) => format!(
                        "client {} hears from {from}{late}: {:?} at {} {} by {:?}",
                        asker.lane + 1,
                        a.answer,
                        a.receipt.index,
                        a.receipt.epoch,
                        a.receipt.acknowledged_by
                    ),
                    Err(refusal) => format!("client {} hears from {from}{late}: {refusal:?}", asker.lane + 1),
                }
            },
        );
        if !awaited {
            return;
        }
        let process = &mut self.processes[lane.process];
        let next = lane.answer(self.now, from, result, process);
        self.go_on(asker.lane, next);
    }

    /// A lane gives up an attempt.
    pub(super) fn silence(&mut self, asker: Lane) {
        if let Some(watcher) = asker.lane.checked_sub(self.lanes.len()) {
            if self.watchers[watcher].awaits(asker.attempt) {
                self.watchers[watcher].silence();
                self.attempt(asker.lane);
            }
            return;
        }
        let lane = &mut self.lanes[asker.lane];
        if !lane.awaits(asker.attempt) {
            return;
        }
        self.record
            .event(self.now, &[22, asker.lane as u64, asker.attempt], || {
                format!("client {} hears nothing", asker.lane + 1)
            });
        let process = &mut self.processes[lane.process];
        let next = lane.silence(self.now, process);
        self.go_on(asker.lane, next);
    }

    /// A watch hears of its step.
    fn told(&mut self, number: usize, from: NodeId, asker: Lane, result: &Result<Answered, Refusal>) {
        let watcher = &mut self.watchers[number];
        if !watcher.awaits(asker.attempt) {
            return;
        }
        let (steps, anew, short) = (watcher.steps, watcher.begun_anew, watcher.cut_short);
        let at = watcher.answer(self.now, result);
        let words = [23, number as u64, asker.attempt, from.0, watcher.reached().0];
        if watcher.steps > steps {
            self.record.reached("watch step");
        }
        if watcher.cut_short > short {
            self.record.reached("watch cut short");
        }
        if watcher.begun_anew > anew {
            self.record.reached("watch begun anew");
        }
        self.record.event(self.now, &words, || {
            let told = result.as_ref().map(|answered| &answered.answer);
            format!("watch {} hears from {from}: {told:?}", number + 1)
        });
        self.queue.at(at, Happening::Again(asker.lane));
    }

    fn go_on(&mut self, number: usize, next: Next) {
        match next {
            Next::Retry(at) => self.queue.at(at, Happening::Again(number)),
            Next::Done(_) => {
                let rest = self.lanes[number].think(&self.plan.load);
                self.queue.at(self.now + rest, Happening::Next(number));
            }
        }
    }
}
