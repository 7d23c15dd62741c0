//! What the process keeps of memory that nobody uses at the moment: fresh pages cost as much as the work
//! that fills them.
//!
//! There is one budget for buffers and slabs together; what has been unused the longest goes first. It belongs to
//! all pipelines of the process, so that none gives back what another one needs.

use crate::error::Result;
use crate::kernels::memory::area::Area;
use crate::kernels::memory::slabs::{Given, Slabs};
use crate::room;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Words from which a buffer is large: 16 MiB.
const LARGE: usize = 4 << 20;
/// Buffers that wait at most, however small they are.
const MOST: usize = 4096;
/// Largest budget when nobody asked for one: what the networks of SDXL take in bf16.
const BUDGET: usize = 8 << 30;

static SPARE: Mutex<Spare> = Mutex::new(Spare::new());

struct Spare {
    /// Buffers and when they came back, the smallest first.
    buffers: Vec<(u64, Area)>,
    /// Bytes of these.
    waiting: usize,
    slabs: Slabs,
    /// Counts what comes back.
    now: u64,
    users: Vec<User>,
    /// Name of the next user.
    next: u64,
    /// Pictures that are being made.
    at_work: usize,
}

/// What a pipeline asked for.
struct User {
    name: u64,
    budget: usize,
    keeps: bool,
}

/// What goes back to the system, when nobody waits for the lock any more.
type Gone = (Vec<Area>, Vec<std::sync::Arc<memmap2::MmapRaw>>);

/// The share of a pipeline in what the process keeps.
#[derive(Debug)]
pub(crate) struct Share(u64);

/// A picture that is being made.
#[derive(Debug)]
pub(crate) struct AtWork(());

fn spare() -> MutexGuard<'static, Spare> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The budget of those who ask for none: half of the memory that this process may have, 8 GiB at most.
pub(crate) fn usual_budget() -> usize {
    let all = room::machine().map(|machine| machine.limit.unwrap_or(u64::MAX).min(machine.total));
    let half = all.and_then(|bytes| usize::try_from(bytes / 2).ok());
    half.unwrap_or(BUDGET).min(BUDGET)
}

impl Share {
    /// A share: at most `budget` bytes are kept for it; with `keeps` memory of weights also when a stage of a picture
    /// is over. Of several pipelines the largest budget counts.
    pub(crate) fn new(budget: usize, keeps: bool) -> Self {
        let mut spare = spare();
        let name = spare.next;
        spare.next += 1;
        spare.users.push(User { name, budget, keeps });
        Self(name)
    }
}

impl AtWork {
    /// To be held while a picture is being made.
    pub(crate) fn begin() -> Self {
        spare().at_work += 1;
        Self(())
    }
}

/// A stage of a picture is over, and the next one can hardly use what it left: that goes back to the system,
/// unless another picture is being made.
pub(crate) fn stage_done() {
    let mut spare = spare();
    let gone = if spare.at_work > 1 { Gone::default() } else { spare.release() };
    drop(spare);
    drop(gone);
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut spare = spare();
        spare.users.retain(|user| user.name != self.0);
        let gone = if spare.at_work > 0 { spare.shrink() } else { spare.release() };
        drop(spare);
        drop(gone);
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        spare().at_work -= 1;
    }
}

/// A buffer of at least `len` words, with whatever was in it.
pub(in crate::kernels) fn take_buffer(len: usize) -> Option<Area> {
    let mut spare = spare();
    let fit = spare.buffers.partition_point(|(_, buffer)| buffer.len() < len);
    // A buffer far too large is better kept for a large use.
    let fits = |(_, buffer): &(u64, Area)| buffer.len() <= len + len / 2 + 1024;
    if spare.buffers.get(fit).is_some_and(fits) {
        return Some(spare.remove(fit));
    }
    // The larger the sizes become, the less the small ones are needed: in a decoder each stage is
    // four times the one before.
    let mut gone = Vec::new();
    if len >= LARGE {
        let large = spare.buffers.partition_point(|(_, buffer)| buffer.len() < LARGE);
        for at in (large..fit).rev() {
            gone.push(spare.remove(at));
        }
    }
    drop(spare);
    drop(gone);
    None
}

/// `count` zeros for `what`, fresh from the system; one that refuses is asked once more without all that waits.
///
/// # Errors
/// [`Error::Memory`](crate::Error::Memory).
pub(in crate::kernels) fn fresh(count: usize, what: &'static str) -> Result<Area> {
    Area::new(count, what).or_else(|_| {
        let gone = spare().release_all();
        drop(gone);
        Area::new(count, what)
    })
}

/// Keeps a buffer for its next use.
pub(in crate::kernels) fn keep_buffer(buffer: Area) {
    if buffer.is_empty() {
        return;
    }
    let mut spare = spare();
    spare.now += 1;
    let now = spare.now;
    spare.waiting += size_of_val(&*buffer);
    let place = spare.buffers.partition_point(|(_, other)| other.len() < buffer.len());
    spare.buffers.insert(place, (now, buffer));
    let gone = spare.shrink();
    drop(spare);
    drop(gone);
}

/// Room for the numbers of a weight, with whatever was there before.
pub(in crate::kernels) fn take_part(count: usize) -> Option<Given> {
    spare().slabs.take(count)
}

/// Keeps the room of a weight for its next use.
pub(in crate::kernels) fn keep_part(slab: u64, start: usize, count: usize) {
    let mut spare = spare();
    spare.now += 1;
    let now = spare.now;
    spare.slabs.put(slab, start, count, now);
    let gone = spare.shrink();
    drop(spare);
    drop(gone);
}

impl Spare {
    const fn new() -> Self {
        Self {
            buffers: Vec::new(),
            waiting: 0,
            slabs: Slabs::new(),
            now: 0,
            users: Vec::new(),
            next: 0,
            at_work: 0,
        }
    }

    fn remove(&mut self, at: usize) -> Area {
        let (_, buffer) = self.buffers.remove(at);
        self.waiting -= size_of_val(&*buffer);
        buffer
    }

    /// Bytes that nobody uses.
    fn bytes(&self) -> usize {
        self.waiting + self.slabs.idle_bytes()
    }

    /// The largest budget that somebody asked for; layers may be used without a pipeline.
    fn budget(&self) -> usize {
        self.users.iter().map(|user| user.budget).max().unwrap_or(BUDGET)
    }

    /// Keeps to the budget.
    fn shrink(&mut self) -> Gone {
        let mut gone = Gone::default();
        let budget = self.budget();
        while self.bytes() > budget || self.buffers.len() > MOST {
            let oldest = self.buffers.iter().enumerate().min_by_key(|(_, (used, _))| *used);
            let buffer = oldest.map(|(at, (used, _))| (at, *used));
            match (buffer, self.slabs.oldest()) {
                (Some((at, used)), slab) if slab.is_none_or(|slab| used < slab) => {
                    gone.0.push(self.remove(at));
                }
                (_, Some(slab)) => gone.1.extend(self.slabs.give_back(slab)),
                (_, None) => break,
            }
        }
        gone
    }

    /// Keeps nothing but memory of weights, and that only if somebody wants it.
    fn release(&mut self) -> Gone {
        if self.users.iter().any(|user| user.keeps) {
            let mut gone = self.shrink();
            gone.0.extend(self.release_buffers());
            return gone;
        }
        self.release_all()
    }

    /// Keeps nothing.
    fn release_all(&mut self) -> Gone {
        (self.release_buffers(), self.slabs.give_all_back())
    }

    fn release_buffers(&mut self) -> Vec<Area> {
        self.waiting = 0;
        std::mem::take(&mut self.buffers).into_iter().map(|(_, buffer)| buffer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(budget: usize, keeps: bool) -> User {
        User { name: 0, budget, keeps }
    }

    fn keep(spare: &mut Spare, bytes: usize) -> Gone {
        spare.now += 1;
        spare.waiting += bytes;
        let buffer = Area::new(bytes / 4, "tests").unwrap();
        let place = spare.buffers.partition_point(|(_, other)| other.len() < buffer.len());
        spare.buffers.insert(place, (spare.now, buffer));
        spare.shrink()
    }

    /// Buffers of all sizes that ever were waited for ever, and slabs up to 8 GiB.
    #[test]
    fn the_budget_is_kept_by_buffers_and_slabs_together() {
        let mut spare = Spare::new();
        spare.users = vec![user(10_000, true), user(2000, false)];
        let part = spare.slabs.take(1000).unwrap();
        let other = spare.slabs.take(16).unwrap();
        for bytes in [400, 4000, 800] {
            assert!(keep(&mut spare, bytes).0.is_empty());
        }
        spare.now += 1;
        spare.slabs.put(part.slab, part.start, 1000, spare.now);
        assert_eq!(spare.bytes(), 400 + 4000 + 800 + 4 * 1008);
        // The two oldest make room.
        let gone = keep(&mut spare, 2000);
        let lengths: Vec<usize> = gone.0.iter().map(|buffer| 4 * buffer.len()).collect();
        assert_eq!((lengths, gone.1.len()), (vec![400, 4000], 0));
        assert_eq!(spare.bytes(), 800 + 2000 + 4 * 1008);
        // What a pipeline without the larger budget may keep: the slab is in use, its hole goes.
        spare.users.remove(0);
        let gone = spare.shrink();
        assert_eq!((gone.0.len(), spare.bytes()), (1, 2000));
        // When no work is under way and nobody wants to keep weights, nothing stays.
        spare.slabs.put(other.slab, other.start, 16, 9);
        assert_eq!(spare.release().1.len(), 1);
        assert_eq!((spare.bytes(), spare.buffers.len()), (0, 0));
    }

    #[test]
    fn weights_stay_as_long_as_somebody_keeps_them() {
        let mut spare = Spare::new();
        spare.users = vec![user(1 << 20, true), user(1 << 20, false)];
        let part = spare.slabs.take(1000).unwrap();
        spare.slabs.put(part.slab, part.start, 1000, 1);
        keep(&mut spare, 4000);
        let gone = spare.release();
        assert_eq!((gone.0.len(), gone.1.len(), spare.bytes()), (1, 0, 4 * 1008));
        spare.users.remove(0);
        assert_eq!((spare.release().1.len(), spare.bytes()), (1, 0));
    }

    #[test]
    fn the_usual_budget_is_no_more_than_half_of_the_machine() {
        let usual = usual_budget();
        assert!(usual > 0 && usual <= BUDGET);
    }
}
