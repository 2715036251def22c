//! A bound on bytes that are held for others: who holds some has a share, which goes back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes may be held, and how many are. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct Budget {
    held: Arc<AtomicUsize>,
    most: usize,
}

/// Bytes that are held until it is dropped.
#[derive(Debug)]
pub struct Share {
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Budget {
    /// Nothing is held, and `most` bytes may be.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            held: Arc::default(),
            most,
        }
    }

    /// Holds so many bytes more, also beyond the bound: what has come is there. Look at [`Budget::is_spent`] before taking in
    /// the next.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Share {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Share {
            held: self.held.clone(),
            bytes,
        }
    }

    /// Whether as much is held as may be.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.held.load(Ordering::Relaxed) >= self.most
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_may_be_held_again() {
        let budget = Budget::new(10);
        let first = budget.take(6);
        assert!(!budget.is_spent());
        let beyond = budget.clone().take(7);
        assert!(budget.is_spent());
        drop(first);
        assert!(!budget.is_spent());
        drop(beyond);
        assert!(!budget.is_spent());
    }
}
