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

#[cfg(test)]
mod tests {
    #[test]
    fn buffers_are_zero() {
        for count in [0, 1, 5_000_000] {
            let buffer = super::zeros(count);
            assert!(buffer.len() == count && buffer.iter().all(|v| *v == 0.0));
        }
    }
}
