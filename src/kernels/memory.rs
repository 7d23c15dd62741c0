//! Floor 1. Large buffers: zeroed by the system, in large pages where it has them.

/// `count` zeros; pages are only made when they are first written.
///
/// Linux is asked for large pages: filling a buffer of hundreds of megabytes in pages of 4 KiB costs
/// as much as the work that fills it.
pub(crate) fn zeros(count: usize) -> Vec<f32> {
    let mut buffer = vec![0f32; count];
    advise(&mut buffer);
    buffer
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

/// Numbers that are zero at first, in memory of their own: it goes back to the system when dropped.
pub(super) struct Pages(Inner);

enum Inner {
    Small(Vec<f32>),
    Mapped(memmap2::MmapMut),
}

/// Bytes from which memory is mapped. The allocator would zero what it gives a second time.
const MAPPED: usize = 1 << 20;

impl Pages {
    pub(super) fn new(count: usize) -> Self {
        let bytes = count * size_of::<f32>();
        if bytes >= MAPPED
            && let Ok(mut map) = memmap2::MmapMut::map_anon(bytes)
        {
            advise(bytemuck::cast_slice_mut(&mut map));
            return Self(Inner::Mapped(map));
        }
        Self(Inner::Small(zeros(count)))
    }
}

impl std::ops::Deref for Pages {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Inner::Small(numbers) => numbers,
            Inner::Mapped(map) => bytemuck::cast_slice(map),
        }
    }
}

impl std::ops::DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Inner::Small(numbers) => numbers,
            Inner::Mapped(map) => bytemuck::cast_slice_mut(map),
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
    #[test]
    fn pages_are_zero_and_writable() {
        for count in [0, 1, 1000, 300_000, 3_000_001] {
            let mut pages = super::Pages::new(count);
            assert!(pages.len() == count && pages.iter().all(|v| *v == 0.0));
            pages.fill(1.0);
            assert_eq!(pages.iter().sum::<f32>(), count as f32);
        }
    }

    #[test]
    fn buffers_are_zero() {
        for count in [0, 1, 5_000_000] {
            let buffer = super::zeros(count);
            assert!(buffer.len() == count && buffer.iter().all(|v| *v == 0.0));
        }
    }
}
