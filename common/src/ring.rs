//! Which group takes which slot: consistent hashing with bounded load (DESIGN section 4).
//!
//! The ring only *proposes*; the table in the cluster map is in force, so that routers and nodes never have to agree on the
//! ring. A slot goes to the group that the ring names, unless that group is full: no group takes more than
//! `ceil(1.1 x slots / groups)`. Then the slot is hashed again, until a group with room comes up (after Mirrokni, Thorup and
//! Zadimoghaddam, *Consistent Hashing with Bounded Loads*).
//!
//! Everything is hashed by [`StableHasher`], whose results do not depend on process, platform or compiler version.

use consistent_hash_ring::{Ring, RingBuilder};
use fulcrum_types::{GroupId, SLOTS};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};

const VNODES: usize = 256;
/// Keeps the hashes of slots apart from those of groups with the same number.
const SLOT_DOMAIN: u64 = 0x51_07_00_00_00_00_00_00;
/// After so many full groups in a row, a slot goes to the least loaded one.
const ATTEMPTS: u64 = 64;

/// Builds [`StableHasher`]s.
#[derive(Clone, Copy, Debug, Default)]
pub struct StableBuildHasher;

/// Hashes little-endian bytes and mixes well also for neighbouring numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct StableHasher(u64);

impl BuildHasher for StableBuildHasher {
    type Hasher = StableHasher;
    fn build_hasher(&self) -> StableHasher {
        StableHasher(0)
    }
}

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            // The length keeps [1] and [1, 0] apart.
            self.absorb(u64::from_le_bytes(word) ^ ((chunk.len() as u64) << 59));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.write(&value.to_le_bytes());
    }

    fn finish(&self) -> u64 {
        mix(self.0)
    }
}

impl StableHasher {
    fn absorb(&mut self, word: u64) {
        self.0 = mix(self.0.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word);
    }
}

/// A bijection in which every input bit moves about half of the output bits (Stafford's variant 13 of the MurmurHash3
/// finaliser).
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Most slots that one of `groups` groups may hold.
#[must_use]
pub fn load_bound(groups: usize) -> usize {
    (usize::from(SLOTS) * 11).div_ceil(groups.max(1) * 10)
}

/// Proposes a group for every slot. None if there is no group. The order of `groups` does not matter.
#[must_use]
pub fn propose_slots(groups: &[GroupId]) -> Option<Vec<GroupId>> {
    let mut sorted = groups.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.is_empty() {
        return None;
    }
    let ring: Ring<u64, StableBuildHasher> = RingBuilder::new(StableBuildHasher)
        .vnodes(VNODES)
        .nodes_iter(sorted.iter().map(|g| g.0))
        .build();
    let bound = load_bound(sorted.len());
    let mut load = vec![0usize; sorted.len()];
    let mut table = Vec::with_capacity(usize::from(SLOTS));
    for slot in 0..u64::from(SLOTS) {
        let chosen = first_with_room(&ring, &sorted, &load, bound, slot).unwrap_or_else(|| least_loaded(&load));
        load[chosen] += 1;
        table.push(sorted[chosen]);
    }
    Some(table)
}

fn first_with_room(
    ring: &Ring<u64, StableBuildHasher>,
    groups: &[GroupId],
    load: &[usize],
    bound: usize,
    slot: u64,
) -> Option<usize> {
    (0..ATTEMPTS).find_map(|attempt| {
        let group = ring.try_get(SLOT_DOMAIN | (attempt << 16) | slot)?;
        let at = groups.binary_search(&GroupId(*group)).ok()?;
        (load[at] < bound).then_some(at)
    })
}

fn least_loaded(load: &[usize]) -> usize {
    (0..load.len()).min_by_key(|at| load[*at]).unwrap_or(0)
}

/// The table after `new` has joined: only slots that it takes over move, each from the group that then holds most, and as
/// many as make a fair share. If no group was over its bound, none is afterwards.
#[must_use]
pub fn add_group(current: &[GroupId], new: GroupId) -> Vec<GroupId> {
    let mut table = current.to_vec();
    let mut held: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
    for (slot, group) in current.iter().enumerate() {
        held.entry(*group).or_default().push(slot);
    }
    if held.contains_key(&new) {
        return table;
    }
    for slots in held.values_mut() {
        // Taken from the end: a choice that does not favour low slots.
        slots.sort_by_key(|slot| StableBuildHasher.hash_one((*slot as u64, new.0)));
    }
    for _ in 0..current.len() / (held.len() + 1) {
        let fullest = held
            .iter_mut()
            .max_by_key(|(group, slots)| (slots.len(), Reverse(**group)));
        let Some(slot) = fullest.and_then(|(_, slots)| slots.pop()) else {
            break;
        };
        table[slot] = new;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: u64) -> Vec<GroupId> {
        (1..=n).map(GroupId).collect()
    }

    fn loads(table: &[GroupId]) -> BTreeMap<GroupId, usize> {
        table.iter().fold(BTreeMap::new(), |mut counts, group| {
            *counts.entry(*group).or_default() += 1;
            counts
        })
    }

    /// The table in a map of long ago must still be the one proposed today, or adding a group moves too much.
    #[test]
    fn golden_hashes() {
        let hashed = [0, 1, 2, u64::MAX].map(|input| StableBuildHasher.hash_one(input));
        assert_eq!(
            hashed,
            [
                13808100129840483670,
                1203611125005016456,
                15479203135231729584,
                4442384040594522700
            ]
        );
    }

    #[test]
    fn golden_table() {
        let table = propose_slots(&ids(8)).unwrap();
        let head: Vec<u64> = table[..16].iter().map(|g| g.0).collect();
        assert_eq!(head, [7, 4, 7, 4, 1, 1, 8, 5, 8, 4, 6, 4, 5, 4, 8, 4]);
        let sum = table.iter().fold(0, |sum, group| mix(sum ^ group.0));
        assert_eq!(sum, 8997748350601217869);
    }

    #[test]
    fn neighbours_spread() {
        let distinct: std::collections::BTreeSet<u64> =
            (0..1024u64).map(|i| StableBuildHasher.hash_one(i) >> 56).collect();
        assert!(distinct.len() > 230, "{}", distinct.len());
    }

    #[test]
    fn no_group_is_over_the_bound_and_none_is_idle() {
        for n in [1, 2, 3, 5, 8, 16, 33, 64, 127] {
            let table = propose_slots(&ids(n)).unwrap();
            assert_eq!(table.len(), 1024);
            let loads = loads(&table);
            let most = *loads.values().max().unwrap();
            assert!(most <= load_bound(n as usize), "{n} groups: {most}");
            assert_eq!(loads.len() as u64, n, "{n} groups");
        }
        assert_eq!(load_bound(8), 141);
    }

    #[test]
    fn the_order_of_groups_does_not_matter() {
        let mut reversed = ids(8);
        reversed.reverse();
        assert_eq!(propose_slots(&reversed), propose_slots(&ids(8)));
        assert_eq!(propose_slots(&[]), None);
    }

    #[test]
    fn the_ring_proposes_little_movement() {
        for n in [3, 8, 16, 32] {
            let before = propose_slots(&ids(n)).unwrap();
            let after = propose_slots(&ids(n + 1)).unwrap();
            let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
            let share = usize::from(SLOTS) / (n as usize + 1);
            assert!(
                moved <= share * 2,
                "{n} -> {}: {moved} slots moved, a share is {share}",
                n + 1
            );
        }
    }

    #[test]
    fn a_new_group_takes_its_share_and_nothing_else_moves() {
        let mut table = propose_slots(&ids(2)).unwrap();
        for n in 3..=40u64 {
            let after = add_group(&table, GroupId(n));
            let moved: Vec<GroupId> = table
                .iter()
                .zip(&after)
                .filter(|(b, a)| b != a)
                .map(|(_, a)| *a)
                .collect();
            assert!(moved.iter().all(|to| *to == GroupId(n)));
            assert_eq!(moved.len(), usize::from(SLOTS) / n as usize);
            let most = *loads(&after).values().max().unwrap();
            assert!(most <= load_bound(n as usize), "{n} groups: {most}");
            table = after;
        }
        assert_eq!(add_group(&table, GroupId(1)), table);
    }
}
