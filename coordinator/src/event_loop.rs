//! The event loop: one task that owns the core, steps it through what happens, and runs what it asks for.

use crate::effects::Effects;
use crate::event::Event;
use fulcrum_common::Clock;
use fulcrum_two_phase::{Coordinate, Effect, Input, TwoPhase};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// Below a quarter of the core's heartbeat, and half its pause before a question is asked again.
const TICK: Duration = Duration::from_millis(25);

/// The core and the world around it.
pub(crate) struct EventLoop {
    core: TwoPhase,
    effects: Effects,
    inbox: mpsc::Receiver<Event>,
    clock: Arc<dyn Clock>,
    wanted: Vec<Effect>,
}

impl EventLoop {
    pub(crate) fn new(core: TwoPhase, effects: Effects, inbox: mpsc::Receiver<Event>, clock: Arc<dyn Clock>) -> Self {
        Self {
            core,
            effects,
            inbox,
            clock,
            wanted: Vec::new(),
        }
    }

    /// Runs until nobody can ask any more. What is under way then is left to the groups.
    pub(crate) async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                event = self.inbox.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
                answered = self.effects.answered() => answered,
                _ = ticks.tick() => Event::Tick,
            };
            self.turn(event);
        }
    }

    fn turn(&mut self, event: Event) {
        let now = self.clock.now().mono;
        let is_tick = matches!(event, Event::Tick);
        let Some(input) = self.input(event) else { return };
        self.core.step(now, input, &mut self.wanted);
        for effect in self.wanted.drain(..) {
            self.effects.run(now, effect);
        }
        if is_tick {
            self.effects.show(now, &self.core.status());
        }
    }

    /// What the core makes of an event, if it hears of it.
    fn input(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::Tick => Some(Input::Tick),
            Event::Asked(asked) => Some(self.effects.expect(asked)),
            Event::Gone(request) => self.effects.gone(request).then_some(Input::Cancelled { request }),
            Event::Answered { ask, result } => Some(Input::Answered { ask, result }),
        }
    }
}
