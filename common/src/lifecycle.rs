//! How far a service without data of its own is in its life: it starts, serves, stops. Its probe tells that to whoever must know
//! whether the next one may be taken down; what would last for ever (streams) ends by itself once it stops.
//!
//! That is all such a service can say of itself: it listens only once it has the cluster map, and serves from that map whether the metadata
//! store is there or not. So readiness depends on nobody else from then on.

use crate::metrics_server::Readiness;
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starts,
    Serves,
    Stops,
}

/// The life of one service; its clones are of the same life.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    service: &'static str,
    stage: Arc<watch::Sender<Stage>>,
}

impl Lifecycle {
    /// It starts. `service` is its name in reasons: `router`.
    #[must_use]
    pub fn of(service: &'static str) -> Self {
        let stage = Arc::new(watch::Sender::new(Stage::Starts));
        Self { service, stage }
    }

    /// It serves, unless it has been told to stop already.
    pub fn serves(&self) {
        self.stage.send_if_modified(|stage| {
            let starts = *stage == Stage::Starts;
            if starts {
                *stage = Stage::Serves;
            }
            starts
        });
    }

    /// It stops, and never serves again.
    pub fn stops(&self) {
        self.stage.send_replace(Stage::Stops);
    }

    /// Waits until it stops.
    pub async fn stopped(&self) {
        let mut stage = self.stage.subscribe();
        // The sender is in our hands.
        let _ = stage.wait_for(|stage| *stage == Stage::Stops).await;
    }

    /// For its probe.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let life = self.clone();
        Arc::new(move || match *life.stage.borrow() {
            Stage::Starts => Err(format!("the {} starts", life.service)),
            Stage::Serves => Ok(()),
            Stage::Stops => Err(format!("the {} stops", life.service)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn it_is_ready_only_between_its_start_and_its_end() {
        let life = Lifecycle::of("router");
        let ready = life.readiness();
        assert_eq!(ready(), Err("the router starts".to_owned()));
        life.serves();
        assert_eq!(ready(), Ok(()));
        assert_eq!(life.stopped().now_or_never(), None);
        life.clone().stops();
        assert_eq!(ready(), Err("the router stops".to_owned()));
        assert_eq!(life.stopped().now_or_never(), Some(()));
        life.serves();
        assert_eq!(
            ready(),
            Err("the router stops".to_owned()),
            "it was told to stop while it started"
        );
    }
}
