//! Memory from the system: zeroed by it, in large pages where it has them.

use crate::error::Result;
use crate::room;

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

/// Numbers in memory of their own, zero at first. Memory goes back when dropped.
pub(in crate::kernels) struct Area(Inner);

enum Inner {
    Small(Vec<f32>),
    Mapped(memmap2::MmapMut),
}

/// Bytes from which memory is mapped. The allocator would zero what it gives a second time.
const MAPPED: usize = 1 << 20;

impl Area {
    /// `count` zeros for `what`.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub(in crate::kernels) fn new(count: usize, what: &'static str) -> Result<Self> {
        let bytes = count.checked_mul(size_of::<f32>());
        let bytes = bytes.ok_or_else(|| room::refused::<f32>(count, what))?;
        if bytes >= MAPPED
            && let Some(map) = map(count)
        {
            return Ok(Self(Inner::Mapped(map)));
        }
        Ok(Self(Inner::Small(zeros(count, what)?)))
    }
}

/// `count` zeros, mapped; `None` when the system has no memory.
pub(in crate::kernels) fn map(count: usize) -> Option<memmap2::MmapMut> {
    let mut map = memmap2::MmapMut::map_anon(count * size_of::<f32>()).ok()?;
    advise(bytemuck::cast_slice_mut(&mut map));
    Some(map)
}

/// Gives the whole pages of `count` numbers of a map back to the system, from number `start` on; they are zeros
/// afterwards.
///
/// # Safety
/// The numbers lie inside of the map, nobody refers to them, and whoever takes them next writes them first.
#[allow(unsafe_code)]
#[cfg(unix)]
pub(in crate::kernels) unsafe fn give_back(map: &memmap2::MmapRaw, start: usize, count: usize) {
    // SAFETY: `sysconf` only answers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Some(page) = usize::try_from(page).ok().filter(|page| *page > 0) else { return };
    let first = map.as_ptr() as usize + start * size_of::<f32>();
    let (from, to) =
        (first.next_multiple_of(page), (first + count * size_of::<f32>()) / page * page);
    if to > from {
        // SAFETY: the caller's promise: whole pages inside of a private map that nobody refers to. A system that
        // refuses keeps the pages.
        unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) };
    }
}

/// Elsewhere pages stay until the whole map goes.
///
/// # Safety
/// None is needed.
#[allow(unsafe_code)]
#[cfg(not(unix))]
pub(in crate::kernels) unsafe fn give_back(_: &memmap2::MmapRaw, _: usize, _: usize) {}

impl std::ops::Deref for Area {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Inner::Small(numbers) => numbers,
            Inner::Mapped(map) => bytemuck::cast_slice(map),
        }
    }
}

impl std::ops::DerefMut for Area {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Inner::Small(numbers) => numbers,
            Inner::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

impl Default for Area {
    fn default() -> Self {
        Self(Inner::Small(Vec::new()))
    }
}

impl std::fmt::Debug for Area {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} numbers", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_zero_and_writable() {
        for count in [0, 1, 1000, 300_000, 3_000_001] {
            let mut area = Area::new(count, "tests").unwrap();
            assert!(area.len() == count && area.iter().all(|v| *v == 0.0));
            area.fill(1.0);
            assert_eq!(area.iter().sum::<f32>(), count as f32);
        }
    }

    #[test]
    fn buffers_are_zero() {
        for count in [0, 1, 5_000_000] {
            let buffer = zeros(count, "tests").unwrap();
            assert!(buffer.len() == count && buffer.iter().all(|v| *v == 0.0));
        }
    }
}
