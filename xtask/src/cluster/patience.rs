//! Waiting for something, but not for ever.

use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until there is something to see; none if there is nothing in time.
#[allow(
    clippy::disallowed_methods,
    reason = "a command of one thread, which waits for processes: it has no event loop and is not simulated"
)]
pub(crate) fn until<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if begun.elapsed() > within {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_once_more_than_never_and_gives_up() {
        assert_eq!(until(Duration::ZERO, || Some(1)), Some(1));
        let mut looks = 0;
        let third = || {
            looks += 1;
            (looks == 3).then_some(looks)
        };
        assert_eq!(until(Duration::from_secs(60), third), Some(3));
        assert_eq!(until::<()>(Duration::ZERO, || None), None);
    }
}
