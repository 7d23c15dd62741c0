//! A buffer that several tasks write at once, each parts of its own.

use std::marker::PhantomData;
#[cfg(any(test, debug_assertions))]
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// The buffer. Tests and debug builds note every part that is given out, and stop at one that was given before.
pub(in crate::kernels) struct Shared<'a> {
    first: *mut f32,
    len: usize,
    /// Ends of the parts that were given out, by their beginnings.
    #[cfg(any(test, debug_assertions))]
    given: Mutex<BTreeMap<usize, usize>>,
    buffer: PhantomData<&'a mut [f32]>,
}

impl<'a> Shared<'a> {
    /// Nobody else has `buffer` meanwhile.
    pub(in crate::kernels) fn new(buffer: &'a mut [f32]) -> Self {
        Self {
            first: buffer.as_mut_ptr(),
            len: buffer.len(),
            #[cfg(any(test, debug_assertions))]
            given: Mutex::default(),
            buffer: PhantomData,
        }
    }

    /// `count` numbers from number `start` on.
    ///
    /// # Safety
    /// None of them is in another part, given to whomever at any time.
    ///
    /// # Panics
    /// When the part reaches beyond the buffer.
    #[allow(unsafe_code)]
    pub(in crate::kernels) unsafe fn part(&self, start: usize, count: usize) -> &'a mut [f32] {
        assert!(start <= self.len && count <= self.len - start, "a part beyond its buffer");
        #[cfg(any(test, debug_assertions))]
        self.claim(start, start + count);
        // SAFETY: the part lies inside of the buffer, which is borrowed for as long; that nobody else has it is the
        // caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), count) }
    }

    #[cfg(any(test, debug_assertions))]
    fn claim(&self, start: usize, end: usize) {
        if start == end {
            return;
        }
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        // The last one that begins before the end: those before it end before it begins.
        let before = given.range(..end).next_back();
        let clash = before.filter(|(_, other)| **other > start).map(|(a, b)| (*a, *b));
        assert!(clash.is_none(), "{start}..{end} of a buffer was given out as part of {clash:?}");
        given.insert(start, end);
    }
}

#[allow(unsafe_code)]
// SAFETY: a part is given out once, so that tasks write different numbers of a buffer that outlives them.
unsafe impl Send for Shared<'_> {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    #[allow(unsafe_code)]
    fn parts_are_given_out_once_and_inside() {
        let mut buffer = vec![0f32; 100];
        let shared = Shared::new(&mut buffer);
        // SAFETY: parts that overlap are not given out, which is what is tested.
        let part = |start, count| unsafe { shared.part(start, count) };
        for (start, count) in [(10, 10), (0, 10), (50, 50), (100, 0), (20, 0)] {
            part(start, count).fill(1.0);
        }
        for (start, count) in
            [(9, 2), (19, 1), (10, 10), (0, 100), (49, 2), (99, 1), (100, 1), (101, 0)]
        {
            let overlap = catch_unwind(AssertUnwindSafe(|| part(start, count)[..].len()));
            assert!(overlap.is_err(), "{start} {count}");
        }
        assert_eq!(buffer.iter().sum::<f32>(), 70.0);
    }
}
