//! Memory for many weights: slabs of large pages, whose parts are given away and come back.
//!
//! A part that comes back is room for the next weight of its size at once, also when its slab lives on: networks
//! go and come one by one, and what is left of them would else hold whole slabs.

use crate::kernels::memory::area;
use memmap2::MmapRaw;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Numbers of a slab: 64 MiB.
pub(in crate::kernels) const SLAB: usize = 16 << 20;
/// Parts begin at lines of the cache.
const LINE: usize = 16;

/// All slabs, and the holes in them.
pub(in crate::kernels) struct Slabs {
    by_name: BTreeMap<u64, Slab>,
    /// Length, slab and beginning of every hole, the shortest first.
    by_length: BTreeSet<(usize, u64, usize)>,
    /// Numbers in holes that hold memory.
    idle: usize,
    /// Name of the next slab.
    next: u64,
}

struct Slab {
    map: Arc<MmapRaw>,
    /// By their beginning.
    holes: BTreeMap<usize, Hole>,
    /// When a part of it came back last.
    used: u64,
}

/// Numbers that nobody has.
#[derive(Clone, Copy)]
struct Hole {
    len: usize,
    /// How many of them, from the first on, hold memory; the others were never written, or given back. Of holes
    /// that grew together it may be less.
    resident: usize,
}

/// Room that was given away.
pub(in crate::kernels) struct Given {
    pub(in crate::kernels) map: Arc<MmapRaw>,
    pub(in crate::kernels) slab: u64,
    /// Number of the slab where it begins.
    pub(in crate::kernels) start: usize,
}

impl Slabs {
    pub(in crate::kernels) const fn new() -> Self {
        Self { by_name: BTreeMap::new(), by_length: BTreeSet::new(), idle: 0, next: 0 }
    }

    /// Bytes that are kept and that nobody uses.
    pub(in crate::kernels) fn idle_bytes(&self) -> usize {
        self.idle * size_of::<f32>()
    }

    /// Room for `count` numbers in the shortest hole that has it; `None` for none or more than a slab holds, and
    /// without memory.
    pub(in crate::kernels) fn take(&mut self, count: usize) -> Option<Given> {
        if count == 0 || count > SLAB {
            return None;
        }
        let room = count.next_multiple_of(LINE);
        if self.by_length.range((room, 0, 0)..).next().is_none() {
            self.grow()?;
        }
        let (_, name, start) = self.by_length.range((room, 0, 0)..).next().copied()?;
        let hole = self.remove(name, start)?;
        let rest = Hole { len: hole.len - room, resident: hole.resident.saturating_sub(room) };
        self.insert(name, start + room, rest);
        let map = self.by_name.get(&name)?.map.clone();
        Some(Given { map, slab: name, start })
    }

    /// Takes the room for `count` numbers back that begins at `start`, at the time `now`.
    pub(in crate::kernels) fn put(&mut self, slab: u64, start: usize, count: usize, now: u64) {
        let room = count.next_multiple_of(LINE);
        let mut hole = Hole { len: room, resident: room };
        let Some(home) = self.by_name.get_mut(&slab) else { return };
        home.used = now;
        let before = home.holes.range(..start).next_back().map(|(at, hole)| (*at, *hole));
        let before = before.filter(|(at, hole)| at + hole.len == start).map(|(at, _)| at);
        if let Some(behind) = self.remove(slab, start + room) {
            hole = hole.and(behind);
        }
        let mut first = start;
        if let Some(at) = before
            && let Some(before) = self.remove(slab, at)
        {
            hole = before.and(hole);
            first = at;
        }
        self.insert(slab, first, hole);
    }

    /// When the slab that holds idle memory the longest got a part back.
    pub(in crate::kernels) fn oldest(&self) -> Option<u64> {
        self.by_name.values().filter(|slab| slab.is_idle()).map(|slab| slab.used).min()
    }

    /// Gives the idle memory of the slab that has been idle since `time` back. The map, if nobody uses any part of
    /// it, is dropped by the caller.
    pub(in crate::kernels) fn give_back(&mut self, time: u64) -> Option<Arc<MmapRaw>> {
        let idle = |(_, slab): &(&u64, &Slab)| slab.is_idle() && slab.used == time;
        let name = *self.by_name.iter().find(idle)?.0;
        self.shrink(name)
    }

    /// Gives all idle memory back, as [`give_back`](Self::give_back).
    pub(in crate::kernels) fn give_all_back(&mut self) -> Vec<Arc<MmapRaw>> {
        let names: Vec<u64> = self.by_name.keys().copied().collect();
        names.into_iter().filter_map(|name| self.shrink(name)).collect()
    }

    fn shrink(&mut self, name: u64) -> Option<Arc<MmapRaw>> {
        let slab = self.by_name.get(&name)?;
        let holes: Vec<(usize, Hole)> = slab.holes.iter().map(|(at, hole)| (*at, *hole)).collect();
        if let [(_, hole)] = holes[..]
            && hole.len == SLAB
        {
            self.remove(name, 0);
            return self.by_name.remove(&name).map(|slab| slab.map);
        }
        let map = slab.map.clone();
        for (start, hole) in holes.into_iter().filter(|(_, hole)| hole.resident > 0) {
            self.remove(name, start);
            // SAFETY: the hole lies inside of the slab, nobody has it, and every taker writes it first.
            #[allow(unsafe_code)]
            unsafe {
                area::give_back(&map, start, hole.len);
            }
            self.insert(name, start, Hole { resident: 0, ..hole });
        }
        None
    }

    fn grow(&mut self) -> Option<()> {
        let map: MmapRaw = area::map(SLAB)?.into();
        let name = self.next;
        self.next += 1;
        let slab = Slab { map: Arc::new(map), holes: BTreeMap::new(), used: 0 };
        self.by_name.insert(name, slab);
        self.insert(name, 0, Hole { len: SLAB, resident: 0 });
        Some(())
    }

    fn insert(&mut self, name: u64, start: usize, hole: Hole) {
        if let Some(slab) = self.by_name.get_mut(&name).filter(|_| hole.len > 0) {
            slab.holes.insert(start, hole);
            self.by_length.insert((hole.len, name, start));
            self.idle += hole.resident;
        }
    }

    fn remove(&mut self, name: u64, start: usize) -> Option<Hole> {
        let hole = self.by_name.get_mut(&name)?.holes.remove(&start)?;
        self.by_length.remove(&(hole.len, name, start));
        self.idle -= hole.resident;
        Some(hole)
    }
}

impl Slab {
    /// Whether it keeps memory that nobody uses.
    fn is_idle(&self) -> bool {
        self.holes.values().any(|hole| hole.resident > 0)
    }
}

impl Hole {
    /// This hole and the one right behind it.
    fn and(self, behind: Self) -> Self {
        let resident = match behind.resident {
            0 => self.resident,
            count => self.len + count,
        };
        Self { len: self.len + behind.len, resident }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A weight that lived on held the slab of all that had gone.
    #[test]
    fn parts_that_come_back_are_used_again_beside_those_that_live_on() {
        let mut slabs = Slabs::new();
        let sizes = [1000, 7, 500_000, 16, 1_000_000];
        let parts: Vec<Given> = sizes.iter().map(|n| slabs.take(*n).unwrap()).collect();
        assert_eq!((slabs.by_name.len(), slabs.idle_bytes()), (1, 0));
        let starts: Vec<usize> = parts.iter().map(|part| part.start).collect();
        for (i, size) in sizes.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
            slabs.put(parts[i].slab, starts[i], *size, 1);
        }
        assert_eq!(slabs.idle_bytes(), 4 * (1008 + 500_000 + 1_000_000));
        let again: Vec<usize> =
            [500_000, 1000].iter().map(|n| slabs.take(*n).unwrap().start).collect();
        assert_eq!(again, [starts[2], starts[0]]);
        assert_eq!(slabs.idle_bytes(), 4 * 1_000_000);
        // The last hole goes on to the end of the slab, which was never written.
        assert_eq!(slabs.take(1_500_000).unwrap().start, starts[4]);
        assert_eq!(slabs.idle_bytes(), 0);
    }

    #[test]
    fn idle_memory_goes_back_the_longest_unused_first() {
        let mut slabs = Slabs::new();
        let parts: Vec<Given> = (0..3).map(|_| slabs.take(SLAB - 32).unwrap()).collect();
        let small = slabs.take(16).unwrap();
        assert_eq!((small.slab, slabs.by_name.len()), (0, 3));
        for (part, time) in parts.iter().zip([5, 3, 4]) {
            slabs.put(part.slab, part.start, SLAB - 32, time);
        }
        assert_eq!(slabs.oldest(), Some(3));
        assert!(slabs.give_back(3).is_some());
        assert_eq!((slabs.oldest(), slabs.by_name.len()), (Some(4), 2));
        assert_eq!(slabs.idle_bytes(), 2 * 4 * (SLAB - 32));
        // A slab that is in use keeps its map, not its memory.
        assert_eq!(slabs.give_all_back().len(), 1);
        assert_eq!((slabs.idle_bytes(), slabs.by_name.len(), slabs.oldest()), (0, 1, None));
        slabs.put(small.slab, small.start, 16, 6);
        assert_eq!(slabs.give_all_back().len(), 1);
        assert!(slabs.by_name.is_empty() && slabs.by_length.is_empty());
    }
}
