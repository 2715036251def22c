//! What became of a transaction: asked where its home group may be, and, if the asker wants a definite answer, settled there.

use crate::contract::{Reply, RequestId};
use crate::core::{Question, StepResult, TwoPhase, is_final, keep_reason, unfit};
use crate::timers::{Timer, Wait};
use fulcrum_types::{
    AbortCause, Decide, Decision, Participant, Receipt, Refusal, TransactionAnswer, TransactionId,
    TransactionOperation, TransactionState,
};

/// A look-up under way.
#[derive(Clone, Debug)]
pub(crate) struct LookingUp {
    id: TransactionId,
    pub(crate) places: Vec<Place>,
    settle: Option<AbortCause>,
    last: Option<Refusal>,
}

/// Where the home group may be.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    participant: Participant,
    pub(crate) wait: Wait,
    pub(crate) found: Option<Found>,
}

/// What a place knows, or why it does not say.
type Found = Result<(TransactionState, Receipt), Refusal>;

impl Place {
    fn new(participant: Participant) -> Self {
        Self {
            participant,
            wait: Wait::Nothing,
            found: None,
        }
    }
}

impl LookingUp {
    pub(crate) fn new(id: TransactionId, places: Vec<Participant>, settle: Option<AbortCause>) -> Self {
        Self {
            id,
            places: places.into_iter().map(Place::new).collect(),
            settle,
            last: None,
        }
    }

    fn operation(&self) -> TransactionOperation {
        match self.settle {
            None => TransactionOperation::LookUp(self.id),
            Some(cause) => TransactionOperation::Decide(Decide {
                id: self.id,
                fingerprint: None,
                cause,
            }),
        }
    }

    /// What all places together say. Where one holds a promise, its home group's word counts. Else an abort counts less than a place
    /// that could not say what it has, for that might be the home: an abort may be recorded in any group, for whoever asks for it there.
    /// A participant that says that another group is home counts least: the home is among those asked.
    fn conclusion(&self) -> Option<Found> {
        let weight = |found: &Found| match found {
            Ok((TransactionState::Decided(Decision::Committed { .. }), _)) => 6,
            Ok((TransactionState::Promised { .. }, _)) => 5,
            Err(Refusal::Invalid { .. }) => 0,
            Err(_) => 4,
            Ok((TransactionState::Decided(Decision::Aborted(_)), _)) => 3,
            Ok((TransactionState::NotSeen, _)) => 2,
            Ok((TransactionState::TooOld, _)) => 1,
        };
        let all: Option<Vec<_>> = self.places.iter().map(|place| place.found.as_ref()).collect();
        let most = all?.into_iter().max_by_key(|found| weight(found)).cloned()?;
        match most {
            Ok((promised @ TransactionState::Promised { home }, receipt)) => match self.found_at(home) {
                Some(Ok((TransactionState::NotSeen, receipt))) => Some(Ok((promised, receipt.clone()))),
                Some(word) => Some(word.clone()),
                None => Some(Ok((promised, receipt))),
            },
            other => Some(other),
        }
    }

    fn found_at(&self, participant: Participant) -> Option<&Found> {
        let place = self.places.iter().find(|place| place.participant == participant);
        place.and_then(|place| place.found.as_ref())
    }

    /// A promise names a home group that is not among those asked: where it is asked from now on.
    fn follow(&mut self, found: &Found) -> Option<usize> {
        let Ok((TransactionState::Promised { home }, _)) = found else {
            return None;
        };
        if self.places.iter().any(|place| place.participant == *home) {
            return None;
        }
        self.places.push(Place::new(*home));
        Some(self.places.len() - 1)
    }
}

impl TwoPhase {
    pub(crate) fn begin_look_up(&mut self, request: RequestId, looking: LookingUp) {
        let places = looking.places.len();
        let fits = places == 1 || (places > 1 && looking.settle.is_none());
        self.look_ups.insert(request, looking);
        if !fits {
            let reason = "a look-up asks one group at least, and one alone if it is to settle the transaction".into();
            self.end_look_up(request, Err(Refusal::Invalid { reason }));
            return;
        }
        for place in 0..places {
            self.ask_place(request, place);
        }
    }

    pub(crate) fn ask_place(&mut self, request: RequestId, place: usize) {
        let Some(deadline) = self.requests.get(&request).map(|known| known.deadline) else {
            return;
        };
        let Some(looking) = self.look_ups.get(&request) else {
            return;
        };
        let Some(to) = looking.places.get(place).map(|place| place.participant) else {
            return;
        };
        let operation = looking.operation();
        let ask = self.ask(to, operation, deadline, Question::LookUp(request, place));
        self.wait_for_place(request, place, Wait::Answer(ask));
    }

    fn wait_for_place(&mut self, request: RequestId, place: usize, wait: Wait) {
        let looking = self.look_ups.get_mut(&request);
        if let Some(place) = looking.and_then(|looking| looking.places.get_mut(place)) {
            place.wait = wait;
        }
    }

    pub(crate) fn place_answered(&mut self, request: RequestId, place: usize, result: StepResult) {
        self.wait_for_place(request, place, Wait::Nothing);
        let found = match result {
            Ok((TransactionAnswer::State(state), receipt)) => Ok((state, receipt)),
            Ok((TransactionAnswer::Decision(decision), receipt)) => Ok((state_of(decision), receipt)),
            Ok(_) => Err(unfit()),
            Err(refusal) => Err(refusal),
        };
        match found {
            // A commit is recorded at home and nowhere else.
            Ok((state @ TransactionState::Decided(Decision::Committed { .. }), receipt)) => {
                self.end_look_up(request, Ok(Reply::State { state, receipt }));
            }
            Err(refusal) if !is_final(&refusal) => self.ask_place_again(request, place, refusal),
            found => self.place_is_done(request, place, found),
        }
    }

    fn ask_place_again(&mut self, request: RequestId, place: usize, refusal: Refusal) {
        let at = self.now + self.options.pause;
        if let Some(looking) = self.look_ups.get_mut(&request) {
            keep_reason(&mut looking.last, refusal);
            self.timers.set(at, Timer::LookUp(request, place));
            self.wait_for_place(request, place, Wait::Until(at));
        }
    }

    fn place_is_done(&mut self, request: RequestId, place: usize, found: Found) {
        let Some(looking) = self.look_ups.get_mut(&request) else {
            return;
        };
        let home = looking.follow(&found);
        if let Some(place) = looking.places.get_mut(place) {
            place.found = Some(found);
        }
        if let Some(home) = home {
            self.ask_place(request, home);
            return;
        }
        if let Some(conclusion) = looking.conclusion() {
            let result = conclusion.map(|(state, receipt)| Reply::State { state, receipt });
            self.end_look_up(request, result);
        }
    }

    /// Its time is up. Who wanted it settled cannot tell whether it is.
    pub(crate) fn give_look_up_up(&mut self, request: RequestId) {
        let Some(looking) = self.look_ups.get(&request) else {
            return;
        };
        let refusal = match (looking.settle, looking.last.clone()) {
            (Some(_), _) => Refusal::Unknown {
                reason: "the home group did not say in time what it has recorded".into(),
            },
            (None, None | Some(Refusal::Unknown { .. })) => Refusal::DeadlineExceeded,
            (None, Some(last)) => last,
        };
        self.end_look_up(request, Err(refusal));
    }

    fn end_look_up(&mut self, request: RequestId, result: Result<Reply, Refusal>) {
        self.drop_look_up(request);
        self.reply(request, result);
    }

    pub(crate) fn drop_look_up(&mut self, request: RequestId) {
        let Some(looking) = self.look_ups.remove(&request) else {
            return;
        };
        for (place, asked) in looking.places.iter().enumerate() {
            match asked.wait {
                Wait::Nothing => {}
                Wait::Answer(ask) => {
                    self.questions.remove(&ask);
                }
                Wait::Until(at) => self.timers.clear(at, Timer::LookUp(request, place)),
            }
        }
    }
}

/// Past the horizon a home group has no record and makes none: an abort that it names then says nothing about what was.
fn state_of(decision: Decision) -> TransactionState {
    match decision {
        Decision::Aborted(AbortCause::TooOld) => TransactionState::TooOld,
        decision => TransactionState::Decided(decision),
    }
}
