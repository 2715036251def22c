//! The zipfian distribution: few items are asked for very often.
//!
//! Source: Gray et al., *Quickly generating billion-record synthetic databases* (SIGMOD 1994), with the constant 0.99 of
//! YCSB: item `i` of `n` comes with a probability proportional to `1 / (i + 1)^0.99`.

use super::rng::Rng;

/// YCSB's skew.
const THETA: f64 = 0.99;

/// Draws ranks: 0 is the most popular.
#[derive(Clone, Debug)]
pub struct Zipfian {
    items: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    /// The distribution over so many items; at least one.
    #[must_use]
    pub fn new(items: u64) -> Self {
        let items = items.max(1);
        Self::with(items, zeta(0, items, 0.0))
    }

    fn with(items: u64, zeta_all: f64) -> Self {
        let zeta_two = zeta(0, 2, 0.0);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - zeta_two / zeta_all);
        Zipfian {
            items,
            zeta: zeta_all,
            eta,
        }
    }

    /// Makes room for more items without summing up again what is known.
    pub fn grow(&mut self, items: u64) {
        if items > self.items {
            *self = Self::with(items, zeta(self.items, items, self.zeta));
        }
    }

    /// The next rank, below the number of items.
    pub fn draw(&self, rng: &mut Rng) -> u64 {
        let u = rng.unit();
        let scaled = u * self.zeta;
        if scaled < 1.0 || self.items == 1 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) || self.items == 2 {
            return 1;
        }
        let rank = self.items as f64 * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        (rank as u64).min(self.items - 1)
    }
}

fn zeta(from: u64, to: u64, known: f64) -> f64 {
    (from..to).fold(known, |sum, item| sum + 1.0 / ((item + 1) as f64).powf(THETA))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(zipfian: &Zipfian, draws: usize) -> Vec<f64> {
        let mut rng = Rng::new(3);
        let mut counts = vec![0.0; zipfian.items as usize];
        for _ in 0..draws {
            counts[zipfian.draw(&mut rng) as usize] += 1.0 / draws as f64;
        }
        counts
    }

    #[test]
    fn the_first_items_have_their_share() {
        let zipfian = Zipfian::new(1000);
        let shares = shares(&zipfian, 200_000);
        for rank in [0, 1] {
            let expected = 1.0 / ((rank + 1) as f64).powf(THETA) / zipfian.zeta;
            assert!(
                (shares[rank] - expected).abs() < 0.005,
                "{rank}: {} for {expected}",
                shares[rank]
            );
        }
        assert!(
            shares[..100].iter().sum::<f64>() > 0.6,
            "a tenth of the items takes most requests"
        );
        assert!(
            shares[500..].iter().sum::<f64>() > 0.03,
            "the long tail is asked for, too"
        );
    }

    #[test]
    fn growing_is_the_same_as_beginning_larger() {
        let mut grown = Zipfian::new(10);
        grown.grow(500);
        grown.grow(20);
        let fresh = Zipfian::new(500);
        assert_eq!(grown.items, 500);
        assert!((grown.zeta - fresh.zeta).abs() < 1e-9);
        assert!((grown.eta - fresh.eta).abs() < 1e-9);
    }

    #[test]
    fn few_items_stay_in_range() {
        let mut rng = Rng::new(9);
        for items in 0..5 {
            let zipfian = Zipfian::new(items);
            assert!((0..1000).all(|_| zipfian.draw(&mut rng) < items.max(1)));
        }
    }
}
