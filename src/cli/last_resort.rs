//! The end of the program when the system gives no more memory and no error can be made of it.

use crate::error::Fault;
use crate::{atomic_file, room};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// An allocator over another one for programs that end with the exit code of resources when memory runs out, and
/// not by an abort: the library returns an error where it asked for much, and everything else, from a string to a
/// thread's stack of tasks, is too small to be the reason and too common to be asked for with a way out.
///
/// ```
/// #[global_allocator]
/// static MEMORY: colora::cli::LastResort = colora::cli::LastResort::new();
/// # fn main() { assert_eq!(vec![1; 3].len(), 3); }
/// ```
#[derive(Debug, Default)]
pub struct LastResort<A = System>(A);

impl LastResort {
    /// Over the system's allocator.
    pub const fn new() -> Self {
        Self(System)
    }
}

impl LastResort {
    /// Whether the calling thread asks for memory in such a way that a refusal is an error of the library.
    pub fn is_survivable() -> bool {
        room::is_asking()
    }
}

impl<A> LastResort<A> {
    /// Over `inner`: tests let that one fail.
    pub const fn over(inner: A) -> Self {
        Self(inner)
    }
}

#[allow(unsafe_code)]
// SAFETY: every call is handed on as it came; what is added ends the process or changes nothing.
unsafe impl<A: GlobalAlloc> GlobalAlloc for LastResort<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        granted(unsafe { self.0.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        granted(unsafe { self.0.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(pointer, layout) };
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        granted(unsafe { self.0.realloc(pointer, layout, size) }, size)
    }
}

/// Returns `pointer`; ends the program if it is null and the caller does not check for that.
fn granted(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() && !room::is_asking() {
        end(size);
    }
    pointer
}

thread_local! {
    /// Whether this thread is at its end already: nothing may ask a second time.
    static ENDING: Cell<bool> = const { Cell::new(false) };
}

/// Ends the process with a word about `size` bytes. Asks for no memory and waits for no lock.
#[cold]
fn end(size: usize) -> ! {
    if !ENDING.try_with(|ending| ending.replace(true)).unwrap_or(true) {
        atomic_file::abandon_at_once();
        let mut line = Line::default();
        line.text("error: out of memory: ");
        line.number(size);
        line.text(" bytes asked\nhint: draw fewer pixels, pass --low-memory or --tile, or close other programs\n");
        line.write();
    }
    system::leave(i32::from(Fault::Resource.exit_code()))
}

/// A text put together on the stack.
struct Line {
    bytes: [u8; 192],
    used: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 192], used: 0 }
    }
}

impl Line {
    /// Adds `text`; what does not fit is left out.
    fn text(&mut self, text: &str) {
        for (to, from) in self.bytes[self.used..].iter_mut().zip(text.bytes()) {
            *to = from;
            self.used += 1;
        }
    }

    fn number(&mut self, number: usize) {
        let mut power = 1;
        while number / power >= 10 {
            power *= 10;
        }
        while power > 0 {
            let digit = b'0' + (number / power % 10) as u8;
            self.text(std::str::from_utf8(&[digit]).unwrap_or_default());
            power /= 10;
        }
    }

    fn write(&self) {
        system::say(&self.bytes[..self.used]);
    }
}

#[cfg(unix)]
#[allow(unsafe_code)]
mod system {
    /// Writes to stderr, past every buffer and lock.
    pub(super) fn say(text: &[u8]) {
        // SAFETY: the text lies there as long as it is written. Whether it is written or not, the end comes.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }

    /// Ends the process at once: what would run at its end may ask for memory.
    pub(super) fn leave(code: i32) -> ! {
        // SAFETY: nothing of this process is used again.
        unsafe { libc::_exit(code) }
    }
}

#[cfg(not(unix))]
mod system {
    use std::io::Write;

    /// Writes to stderr, which has no buffer.
    pub(super) fn say(text: &[u8]) {
        let _ = std::io::stderr().write_all(text);
    }

    #[allow(clippy::exit)] // there is no memory left to return with
    pub(super) fn leave(code: i32) -> ! {
        std::process::exit(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_memory() {
        for number in [0, 7, 10, 4096, 1_000_000, usize::MAX] {
            let mut line = Line::default();
            line.number(number);
            line.text("!");
            assert_eq!(&line.bytes[..line.used], format!("{number}!").as_bytes());
        }
        let mut line = Line::default();
        line.text(&"x".repeat(500));
        assert_eq!(line.used, line.bytes.len());
    }

    #[test]
    #[allow(unsafe_code)]
    fn what_is_asked_for_with_a_way_out_may_be_refused() {
        struct Never;
        // SAFETY: gives nothing, ever.
        unsafe impl GlobalAlloc for Never {
            unsafe fn alloc(&self, _: Layout) -> *mut u8 {
                std::ptr::null_mut()
            }
            unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
        }
        let memory = LastResort::over(Never);
        let layout = Layout::new::<u64>();
        // SAFETY: the layout has a size, and nothing is given that could be used.
        let given = room::asking(|| unsafe { memory.alloc(layout) });
        assert!(given.is_null());
    }
}
