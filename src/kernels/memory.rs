//! Floor 1. Large buffers: zeroed by the system, in large pages where it has them.

use crate::error::Result;
use crate::room;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// `count` zeros; pages are only made when they are first written.
///
/// Linux is asked for large pages: filling a buffer of hundreds of megabytes in pages of 4 KiB costs
/// as much as the work that fills it.
///
/// # Errors
/// [`Error::Memory`](crate::Error::Memory), for `what`.
pub(crate) fn zeros(count: usize, what: &'static str) -> Result<Vec<f32>> {
    let mut buffer = room::zeros(count, what)?;
    advise(&mut buffer);
    Ok(buffer)
}

/// Smallest buffer for which large pages pay: several of them must fit.
#[cfg(target_os = "linux")]
const LARGE: usize = 8 << 20;

#[cfg(target_os = "linux")]
fn advise(buffer: &mut [f32]) {
    const PAGE: usize = 2 << 20;
    let bytes = size_of_val(buffer);
    if bytes < LARGE {
        return;
    }
    let start = (buffer.as_mut_ptr() as usize).next_multiple_of(PAGE);
    let end = (buffer.as_mut_ptr() as usize + bytes) / PAGE * PAGE;
    if end > start {
        // SAFETY: the range lies inside the buffer, and the advice changes no contents. A kernel that
        // does not know it refuses, which is ignored.
        #[allow(unsafe_code)]
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_: &mut [f32]) {}

/// Numbers in memory of their own, zero at first; or room in a slab, with whatever was there before. Memory
/// goes back when dropped.
pub(super) struct Pages(Inner);

enum Inner {
    Small(Vec<f32>),
    Mapped(memmap2::MmapMut),
    /// `len` numbers of a slab from number `start` on, which no other part has.
    Part {
        slab: Arc<Slab>,
        start: usize,
        len: usize,
    },
}

/// Bytes from which memory is mapped. The allocator would zero what it gives a second time.
const MAPPED: usize = 1 << 20;

impl Pages {
    /// `count` zeros for `what`.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub(super) fn new(count: usize, what: &'static str) -> Result<Self> {
        let bytes = count.checked_mul(size_of::<f32>());
        let bytes = bytes.ok_or_else(|| room::refused::<f32>(count, what))?;
        if bytes >= MAPPED
            && let Ok(mut map) = memmap2::MmapMut::map_anon(bytes)
        {
            advise(bytemuck::cast_slice_mut(&mut map));
            return Ok(Self(Inner::Mapped(map)));
        }
        Ok(Self(Inner::Small(zeros(count, what)?)))
    }

    /// Room for `count` numbers of a weight, whose first contents are anything: whoever takes it writes all
    /// of them. Weights of one network lie together, so that most pages are large ones whatever their sizes.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub(super) fn of_weight(count: usize) -> Result<Self> {
        let pages = match Slab::part(count) {
            Some(pages) => pages,
            None => Self::new(count, "weights")?,
        };
        // Tests see the worst that a last use can have left.
        #[cfg(test)]
        let pages = {
            let mut pages = pages;
            pages.fill(f32::from_bits(0xffff_ffff));
            pages
        };
        Ok(pages)
    }
}

/// Numbers of a slab: 64 MiB.
const SLAB: usize = 16 << 20;
/// Slabs that wait for their next use at most: 8 GiB, what the networks of SDXL take in bf16.
const WAITING: usize = 128;

/// Memory for many weights.
struct Slab {
    /// `None` only while it is dropped.
    map: Option<memmap2::MmapRaw>,
}

/// The slab that is being filled, how many numbers of it are given away, and those that wait.
struct Slabs {
    open: Option<(Arc<Slab>, usize)>,
    waiting: Vec<memmap2::MmapRaw>,
}

static SLABS: Mutex<Slabs> = Mutex::new(Slabs { open: None, waiting: Vec::new() });

fn slabs() -> MutexGuard<'static, Slabs> {
    SLABS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slab {
    /// `None` for what does not fit, and without memory.
    fn part(count: usize) -> Option<Pages> {
        // Vectors begin at lines of the cache.
        let room = count.next_multiple_of(16);
        if count == 0 || room > SLAB {
            return None;
        }
        let mut slabs = slabs();
        let fits = slabs.open.as_ref().is_some_and(|(_, used)| used + room <= SLAB);
        let full = if fits {
            None
        } else {
            let map = match slabs.waiting.pop() {
                Some(map) => map,
                None => Self::map()?,
            };
            slabs.open.replace((Arc::new(Slab { map: Some(map) }), 0))
        };
        let (slab, used) = slabs.open.as_mut()?;
        let (slab, start) = (slab.clone(), *used);
        *used += room;
        drop(slabs);
        // Not before: dropping the last part of a slab takes the lock.
        drop(full);
        Some(Pages(Inner::Part { slab, start, len: count }))
    }

    fn map() -> Option<memmap2::MmapRaw> {
        let mut map = memmap2::MmapMut::map_anon(SLAB * size_of::<f32>()).ok()?;
        advise(bytemuck::cast_slice_mut(&mut map));
        Some(map.into())
    }

    fn pointer(&self) -> *mut f32 {
        self.map.as_ref().map_or(std::ptr::null_mut(), |map| map.as_mut_ptr().cast())
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let mut slabs = slabs();
        if slabs.waiting.len() < WAITING {
            slabs.waiting.extend(self.map.take());
        }
    }
}

/// Gives the memory that waits for weights back to the system; the next weights begin a slab of their own.
pub(crate) fn release_weights() {
    let mut slabs = slabs();
    let open = slabs.open.take();
    drop(slabs);
    drop(open);
    let waiting = std::mem::take(&mut self::slabs().waiting);
    drop(waiting);
}

impl std::ops::Deref for Pages {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Inner::Small(numbers) => numbers,
            Inner::Mapped(map) => bytemuck::cast_slice(map),
            // SAFETY: the part lies inside of its slab, which lives as long, and belongs to it alone; every
            // pattern of bits is a number.
            #[allow(unsafe_code)]
            Inner::Part { slab, start, len } => unsafe {
                std::slice::from_raw_parts(slab.pointer().add(*start), *len)
            },
        }
    }
}

impl std::ops::DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Inner::Small(numbers) => numbers,
            Inner::Mapped(map) => bytemuck::cast_slice_mut(map),
            // SAFETY: as above, and parts are not cloned.
            #[allow(unsafe_code)]
            Inner::Part { slab, start, len } => unsafe {
                std::slice::from_raw_parts_mut(slab.pointer().add(*start), *len)
            },
        }
    }
}

impl Default for Pages {
    fn default() -> Self {
        Self(Inner::Small(Vec::new()))
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} numbers", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zero_and_writable() {
        for count in [0, 1, 1000, 300_000, 3_000_001] {
            let mut pages = Pages::new(count, "tests").unwrap();
            assert!(pages.len() == count && pages.iter().all(|v| *v == 0.0));
            pages.fill(1.0);
            assert_eq!(pages.iter().sum::<f32>(), count as f32);
        }
    }

    #[test]
    fn buffers_are_zero() {
        for count in [0, 1, 5_000_000] {
            let buffer = zeros(count, "tests").unwrap();
            assert!(buffer.len() == count && buffer.iter().all(|v| *v == 0.0));
        }
    }

    #[test]
    fn parts_of_slabs_do_not_overlap_and_are_used_again() {
        let sizes = [1, 1000, 3_000_001, SLAB, SLAB - 5, 7_000_000, SLAB + 1];
        for round in 0..3 {
            let mut parts: Vec<Pages> =
                sizes.iter().map(|n| Pages::of_weight(*n).unwrap()).collect();
            for (i, part) in parts.iter_mut().enumerate() {
                part.fill((round * 10 + i) as f32);
            }
            for (i, (part, size)) in parts.iter().zip(sizes).enumerate() {
                assert_eq!(part.len(), size);
                assert!(part.iter().all(|v| *v == (round * 10 + i) as f32));
            }
            if round == 1 {
                drop(parts);
                release_weights();
            }
        }
    }
}
