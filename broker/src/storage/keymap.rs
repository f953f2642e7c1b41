//! Latest offset per key within a fixed amount of memory, for compaction.
//!
//! In: keys as hashes of 128 bits, offsets in rising order. Out: the latest offset of a key. Touches nothing.
//!
//! One table of slots of 24 bytes, filled up to four fifths; when it is full, compaction ends its pass there and goes on
//! in another. Two keys of one hash would cost a record: with 128 bits that is less likely than the disk lying. The hashes
//! are seeded at random, so that nobody can choose keys which meet.

use std::hash::{BuildHasher as _, DefaultHasher, Hasher as _, RandomState};

const SLOT_BYTES: usize = size_of::<Slot>();
/// Two halves of the hash, then the offset plus one: zeroed memory is an empty table.
type Slot = [u64; 3];

/// A key as the table knows it.
pub(super) type KeyHash = [u64; 2];

/// The table.
pub(super) struct KeyMap {
    slots: Vec<Slot>,
    used: usize,
    most: usize,
    seeds: [RandomState; 2],
}

/// Hashes one key, which may come in pieces.
pub(super) struct KeyHasher([DefaultHasher; 2]);

impl KeyHasher {
    pub fn write(&mut self, piece: &[u8]) {
        self.0.iter_mut().for_each(|hasher| hasher.write(piece));
    }

    pub fn finish(self) -> KeyHash {
        self.0.map(|hasher| hasher.finish())
    }
}

impl KeyMap {
    /// A table for so many keys, within so many bytes.
    pub fn new(bytes: usize, keys: u64) -> Self {
        let wanted = usize::try_from(keys).unwrap_or(usize::MAX).saturating_add(1).saturating_mul(5) / 4 + 1;
        let count = wanted.min(bytes / SLOT_BYTES).max(16);
        Self {
            slots: vec![[0; 3]; count],
            used: 0,
            most: count / 5 * 4,
            seeds: [RandomState::new(), RandomState::new()],
        }
    }

    /// Begins to hash a key.
    pub fn hasher(&self) -> KeyHasher {
        let [first, second] = &self.seeds;
        KeyHasher([first.build_hasher(), second.build_hasher()])
    }

    /// Whether no further key fits.
    pub fn is_full(&self) -> bool {
        self.used >= self.most
    }

    /// Keys in it.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Notes the latest offset of a key; `false` if there is no room for another one.
    pub fn put(&mut self, key: KeyHash, offset: i64) -> bool {
        let is_full = self.is_full();
        let at = self.find(key);
        let Some(slot) = self.slots.get_mut(at) else { return false };
        let [first, second, stored] = slot;
        if *stored == 0 {
            if is_full {
                return false;
            }
            [*first, *second] = key;
            self.used += 1;
        }
        *stored = (*stored).max(u64::try_from(offset).unwrap_or(0) + 1);
        true
    }

    /// The latest offset of a key.
    pub fn get(&self, key: KeyHash) -> Option<i64> {
        let [_, _, stored] = self.slots.get(self.find(key))?;
        stored.checked_sub(1).and_then(|offset| i64::try_from(offset).ok())
    }

    /// The slot of a key, or the empty one where it belongs. There always is one, as the table is never filled.
    fn find(&self, key: KeyHash) -> usize {
        let [half, _] = key;
        // The upper half of a wide product spreads evenly over any count.
        let mut at = ((u128::from(half) * self.slots.len() as u128) >> 64) as usize;
        while let Some([first, second, stored]) = self.slots.get(at) {
            if *stored == 0 || [*first, *second] == key {
                return at;
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn hash(map: &KeyMap, pieces: &[&[u8]]) -> KeyHash {
        let mut hasher = map.hasher();
        pieces.iter().for_each(|piece| hasher.write(piece));
        hasher.finish()
    }

    #[test]
    fn pieces_of_a_key_do_not_count() {
        let map = KeyMap::new(1 << 10, 10);
        let key = b"a key of some length, longer than a word or two";
        let whole = hash(&map, &[key]);
        for at in 0..key.len() {
            let (front, back) = key.split_at(at);
            assert_eq!(hash(&map, &[front, back]), whole, "{at}");
        }
        assert_ne!(hash(&map, &[&key[1..]]), whole);
    }

    proptest! {
        #[test]
        fn it_knows_what_a_map_knows_until_it_is_full(keys in proptest::collection::vec(0..300_u32, 0..400), slots in 16..300_usize) {
            let mut map = KeyMap::new(slots * SLOT_BYTES, u64::MAX);
            let mut model = HashMap::new();
            for (offset, key) in keys.iter().enumerate() {
                let offset = offset as i64;
                let key_hash = hash(&map, &[&key.to_be_bytes()]);
                if map.put(key_hash, offset) {
                    model.insert(*key, offset);
                } else {
                    prop_assert!(map.is_full() && !model.contains_key(key));
                    prop_assert!(model.len() >= slots * 3 / 5);
                }
            }
            prop_assert_eq!(map.len(), model.len());
            for key in 0..300_u32 {
                prop_assert_eq!(map.get(hash(&map, &[&key.to_be_bytes()])), model.get(&key).copied());
            }
        }
    }
}
