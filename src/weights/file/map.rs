//! Memory maps that survive a file which is shortened while it is read.
//!
//! A page of a map that its file no longer has cannot be read: Unix sends SIGBUS, whose default is the end
//! of the process, and with it of every other request. The first map installs a handler that puts zeros in
//! the place of such pages and notes the map as broken; readers check [`Map::is_broken`] afterwards.
//! Bus errors at other addresses go to the handler that was there before. A program that replaces the
//! handler later has the default back.

use std::fs::File;
use std::io;

/// A read-only map of a whole file.
pub(super) struct Map {
    map: memmap2::Mmap,
    /// `None` where the system has no SIGBUS.
    region: Option<&'static guard::Region>,
}

impl Map {
    /// Maps `file`.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the map is only read, and all reads are bounds-checked against its length. Another
        // process may change the file meanwhile: changed bytes give other weights, never an invalid
        // value, because every bit pattern is a valid element; missing pages become zeros (`guard`).
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(file) }?;
        let region = guard::watch(map.as_ptr() as usize, map.len());
        Ok(Self { map, region })
    }

    /// Whether a part of the file could not be read since it was mapped; zeros were read instead.
    pub(super) fn is_broken(&self) -> bool {
        self.region.is_some_and(guard::Region::is_broken)
    }

    /// Takes pages off this process's account; they are read from the file again when they are needed.
    #[cfg(unix)]
    pub(super) fn forget(&self, offset: usize, length: usize) {
        // SAFETY: the map is read-only and backed by the file, so that a page that is needed again
        // comes from there with the same contents. Advice that fails changes nothing.
        #[allow(unsafe_code)]
        let _ = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.map.unchecked_advise_range(advice, offset, length)
        };
    }

    /// Does nothing: the system has no such advice.
    #[cfg(not(unix))]
    pub(super) fn forget(&self, _: usize, _: usize) {}
}

impl std::ops::Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Map {
    /// The region goes first: the system may use its addresses again at once.
    fn drop(&mut self) {
        if let Some(region) = self.region {
            region.release();
        }
    }
}

/// The handler of bus errors and the list of regions that it looks at.
#[cfg(unix)]
#[allow(unsafe_code)]
mod guard {
    use libc::{SIG_DFL, SIG_IGN, SIGBUS, c_int, c_void, siginfo_t};
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
    use std::sync::{Once, OnceLock};

    /// Addresses of one map. Regions are never freed, but used again, so that the handler may walk
    /// through their list at any moment.
    pub(super) struct Region {
        /// 0 for a region that is free, 1 for one that is being filled.
        start: AtomicUsize,
        /// The address behind the last one; 0 while nothing is watched.
        end: AtomicUsize,
        broken: AtomicBool,
        next: *const Region,
    }

    // SAFETY: `next` is written before the region is shared and never after; the rest is atomic.
    unsafe impl Sync for Region {}

    impl Region {
        pub(super) fn is_broken(&self) -> bool {
            self.broken.load(Ordering::Acquire)
        }

        pub(super) fn release(&self) {
            self.end.store(0, Ordering::Release);
            self.start.store(0, Ordering::Release);
        }

        fn claim(&self) -> bool {
            self.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        }

        fn fill(&self, start: usize, length: usize) {
            self.broken.store(false, Ordering::Release);
            self.start.store(start, Ordering::Release);
            self.end.store(start + length, Ordering::Release);
        }
    }

    /// The region that was added last.
    static LAST: AtomicPtr<Region> = AtomicPtr::new(std::ptr::null_mut());
    /// Bytes of a page; set before the handler is installed.
    static PAGE: AtomicUsize = AtomicUsize::new(4096);
    /// What handled bus errors before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    fn regions() -> impl Iterator<Item = &'static Region> {
        let mut next = LAST.load(Ordering::Acquire).cast_const();
        std::iter::from_fn(move || {
            // SAFETY: null, or a region, which is never freed.
            let region = unsafe { next.as_ref() }?;
            next = region.next;
            Some(region)
        })
    }

    /// Watches the addresses of a map until the region is released.
    #[allow(clippy::unnecessary_wraps)] // other systems have nothing to watch
    pub(super) fn watch(start: usize, length: usize) -> Option<&'static Region> {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(install);
        if let Some(free) = regions().find(|region| region.claim()) {
            free.fill(start, length);
            return Some(free);
        }
        let mut next = LAST.load(Ordering::Acquire);
        let region = Box::leak(Box::new(Region {
            start: AtomicUsize::new(start),
            end: AtomicUsize::new(start + length),
            broken: AtomicBool::new(false),
            next,
        }));
        // A region is shared once it is the last one; before that its `next` may change.
        while let Err(other) =
            LAST.compare_exchange(next, &raw mut *region, Ordering::AcqRel, Ordering::Acquire)
        {
            next = other;
            region.next = next;
        }
        Some(region)
    }

    fn install() {
        // SAFETY: plain calls with valid places for their answers. The new handler is complete before
        // it is installed, and runs on the alternative stack where a thread has one, as the standard
        // library's own handler does, which it passes overflows of the stack on to.
        unsafe {
            PAGE.store(
                usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096),
                Ordering::Relaxed,
            );
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(SIGBUS, std::ptr::null(), &raw mut before) != 0 {
                return;
            }
            let _ = BEFORE.set(before);
            let mut ours: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = handle;
            ours.sa_sigaction = handler as libc::sighandler_t;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut ours.sa_mask);
            libc::sigaction(SIGBUS, &raw const ours, std::ptr::null_mut());
        }
    }

    /// Puts zeros where a watched map cannot be read; everything else goes to the handler before.
    ///
    /// It uses atomic loads and `mmap`, which the kernel does without any state of the process.
    extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel gives a valid `info` to a handler with SA_SIGINFO.
        let address = unsafe { (*info).si_addr() } as usize;
        for region in regions() {
            let end = region.end.load(Ordering::Acquire);
            if region.start.load(Ordering::Acquire) <= address && address < end {
                region.broken.store(true, Ordering::Release);
                if zeros(address, end) {
                    return;
                }
            }
        }
        pass_on(signal, info, context);
    }

    /// Replaces the pages from `address` to `end` of a watched map by pages of zeros.
    fn zeros(address: usize, end: usize) -> bool {
        let start = address & !(PAGE.load(Ordering::Relaxed) - 1);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED;
        // SAFETY: these pages belong to a map that is alive, since a thread is reading it, and that is
        // only read: others see zeros where the file has nothing.
        let mapped =
            unsafe { libc::mmap(start as *mut c_void, end - start, libc::PROT_READ, flags, -1, 0) };
        mapped != libc::MAP_FAILED
    }

    fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        let handler = BEFORE.get().map_or(SIG_DFL, |before| before.sa_sigaction);
        let with_info = BEFORE.get().is_some_and(|b| b.sa_flags & libc::SA_SIGINFO != 0);
        // SAFETY: the handler was installed with these flags, which determine how it is called. With
        // the default restored the instruction is tried again and ends the process as it always did.
        unsafe {
            match handler {
                SIG_DFL | SIG_IGN => {
                    libc::signal(signal, SIG_DFL);
                }
                handler if with_info => {
                    let call: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                        std::mem::transmute(handler);
                    call(signal, info, context);
                }
                handler => {
                    let call: extern "C" fn(c_int) = std::mem::transmute(handler);
                    call(signal);
                }
            }
        }
    }
}

/// Other systems do not let a mapped file be shortened.
#[cfg(not(unix))]
mod guard {
    pub(super) enum Region {}

    impl Region {
        pub(super) fn is_broken(&self) -> bool {
            match *self {}
        }

        pub(super) fn release(&self) {
            match *self {}
        }
    }

    pub(super) fn watch(_: usize, _: usize) -> Option<&'static Region> {
        None
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_file_reads_as_zeros_and_is_known_as_broken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let map_of = |length: usize| {
            std::fs::write(&path, vec![7; length]).unwrap();
            Map::new(&File::open(&path).unwrap()).unwrap()
        };
        let (first, whole) = (map_of(1 << 16), Map::new(&File::open(&path).unwrap()).unwrap());
        assert!(whole.iter().all(|byte| *byte == 7) && !whole.is_broken());
        File::options().write(true).open(&path).unwrap().set_len(1 << 14).unwrap();
        assert_eq!(first[(1 << 14) - 1], 7);
        assert!(!first.is_broken());
        assert_eq!(first[1 << 15], 0);
        assert_eq!(first[(1 << 16) - 1], 0);
        assert_eq!(first[0], 7);
        assert!(first.is_broken() && !whole.is_broken());
        drop((first, whole));
        let again = map_of(1 << 16);
        assert!(!again.is_broken(), "a region that is used again begins anew");
    }

    #[test]
    fn many_threads_map_and_meet_the_end() {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let folder = tempfile::tempdir().unwrap();
                    let path = folder.path().join("x");
                    for round in 0..50 {
                        std::fs::write(&path, vec![1; 1 << 14]).unwrap();
                        let map = Map::new(&File::open(&path).unwrap()).unwrap();
                        let cut = round % 2 == 0;
                        if cut {
                            File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
                        }
                        let sum: usize = map.iter().map(|byte| usize::from(*byte)).sum();
                        assert_eq!((sum, map.is_broken()), (if cut { 0 } else { 1 << 14 }, cut));
                    }
                });
            }
        });
    }
}
