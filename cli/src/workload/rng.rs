//! Seeded chance: SplitMix64 (Steele, Lea and Flood, 2014). Small, fast, the same on every platform; no secrets from here.

/// A generator of numbers that a seed determines.
#[derive(Clone, Debug)]
pub struct Rng(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The mixer of SplitMix64: a bijection that spreads neighbouring numbers apart.
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Rng {
    /// The generator of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// A generator of its own for each number: clients with one seed do not all ask the same.
    #[must_use]
    pub const fn stream(seed: u64, number: u64) -> Self {
        Rng(mix(seed).wrapping_add(mix(number.wrapping_add(1))))
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `bound`, all equally likely up to a bias of `bound / 2^64`. Zero if there is no such number.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A number from 0 (inclusive) to 1 (exclusive).
    pub fn unit(&mut self) -> f64 {
        const SCALE: f64 = 1.0 / (1u64 << 53) as f64;
        (self.next_u64() >> 11) as f64 * SCALE
    }

    /// Printable bytes that hardly compress.
    pub fn text(&mut self, length: usize) -> Vec<u8> {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = Vec::with_capacity(length + 8);
        while text.len() < length {
            let bits = self.next_u64();
            text.extend((0..10).map(|n| LETTERS[(bits >> (6 * n)) as usize & 63]));
        }
        text.truncate(length);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_values() {
        let mut rng = Rng::new(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(
            drawn,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn bounds_are_kept() {
        let mut rng = Rng::new(7);
        assert_eq!(rng.below(0), 0);
        for bound in [1, 2, 10, 1000] {
            assert!((0..1000).all(|_| rng.below(bound) < bound));
        }
        assert!((0..1000).all(|_| (0.0..1.0).contains(&rng.unit())));
        assert_eq!(rng.text(0).len(), 0);
        assert_eq!(rng.text(33).len(), 33);
    }

    #[test]
    fn streams_differ() {
        let first = |number| Rng::stream(1, number).next_u64();
        assert_ne!(first(0), first(1));
        assert_eq!(first(3), first(3));
    }
}
