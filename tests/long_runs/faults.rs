//! What goes wrong, and what comes of it.

use colora::cli::LastResort;
use colora::{Cancel, Error, Event, Picture, Pipeline, Request};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Numbers that are the same in every run: xorshift, Marsaglia (2003).
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }
}

/// How many requests whose refusal is an error are still granted.
static GRANTED: AtomicI64 = AtomicI64::new(ALL);
/// None is refused.
const ALL: i64 = i64::MAX;

struct Refusing;

#[global_allocator]
static MEMORY: Refusing = Refusing;

impl Refusing {
    fn refuses() -> bool {
        GRANTED.load(Ordering::Relaxed) != ALL
            && LastResort::is_survivable()
            && GRANTED.fetch_sub(1, Ordering::Relaxed) <= 0
    }
}

#[allow(unsafe_code)]
// SAFETY: every call is handed on as it came, or refused.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        if Self::refuses() { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        if Self::refuses() { std::ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    None,
    /// At this event of the request.
    Cancelled(usize),
    /// By another thread, after so many microseconds.
    CancelledAfter(u64),
    Panicked(usize),
    /// A LoRA has other contents than at the last request.
    Replaced {
        by_rename: bool,
    },
    /// Memory, after so many requests.
    Refused(usize),
}

/// What came of a request.
pub enum Outcome {
    Drawn(Picture),
    Failed(Error),
    Panicked,
}

impl Fault {
    pub fn any(random: &mut Random) -> Self {
        match random.below(10) {
            0 => Self::Cancelled(random.below(9)),
            1 => Self::CancelledAfter(random.below(30_000) as u64),
            2 => Self::Panicked(random.below(9)),
            3 => Self::Replaced { by_rename: random.below(2) == 0 },
            4 | 5 => Self::Refused(random.below(200)),
            _ => Self::None,
        }
    }

    /// What does not touch other threads.
    pub fn of_one_thread(random: &mut Random) -> Self {
        match random.below(6) {
            0 => Self::Cancelled(random.below(9)),
            1 => Self::CancelledAfter(random.below(30_000) as u64),
            2 => Self::Panicked(random.below(9)),
            _ => Self::None,
        }
    }
}

impl Outcome {
    /// The picture is the right one; a failure is of the fault's kind.
    pub fn check(&self, fault: Fault, right: &Picture) {
        match (self, fault) {
            (Self::Drawn(picture), _) => {
                assert!(picture.bytes() == right.bytes(), "another picture after {fault:?}");
            }
            (Self::Failed(Error::Cancelled), Fault::Cancelled(_) | Fault::CancelledAfter(_))
            | (Self::Panicked, Fault::Panicked(_)) => {}
            (Self::Failed(error), Fault::Refused(_)) => {
                assert_eq!(error.fault().exit_code(), 6, "{error}");
                assert!(error.to_string().contains("out of memory"), "{error}");
            }
            (Self::Failed(error), _) => panic!("{fault:?}: {error}"),
            (Self::Panicked, _) => panic!("a panic after {fault:?}"),
        }
    }

    pub fn name(&self, fault: Fault) -> String {
        let fault = format!("{fault:?}");
        let fault = fault.split(['(', ' ']).next().unwrap();
        match self {
            Self::Drawn(_) => format!("drawn after {fault}"),
            Self::Failed(Error::Cancelled) => "cancelled".to_owned(),
            Self::Failed(_) => "refused".to_owned(),
            Self::Panicked => "panicked".to_owned(),
        }
    }
}

/// The word of panics that are meant.
const MEANT: &str = "an observer that panics";

/// Panics that are meant are not printed.
pub fn expect_panics() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&MEANT) {
                usual(info);
            }
        }));
    });
}

/// Draws the one picture of `request` while `fault` happens.
pub fn run(pipeline: &Pipeline, request: &Request, fault: Fault) -> Outcome {
    let (cancel, events) = (Cancel::new(), Cell::new(0));
    let observer = |_: &Event| {
        let event = events.replace(events.get() + 1);
        match fault {
            Fault::Cancelled(at) if at == event => cancel.cancel(),
            Fault::Panicked(at) if at == event => std::panic::panic_any(MEANT),
            _ => {}
        }
    };
    if let Fault::Refused(after) = fault {
        GRANTED.store(after as i64, Ordering::Relaxed);
    }
    if let Fault::CancelledAfter(microseconds) = fault {
        let cancel = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(microseconds));
            cancel.cancel();
        });
    }
    let mut picture = None;
    let mut sink = |image: colora::Generated| {
        picture = Some(image.picture);
        Ok(())
    };
    let done = catch_unwind(AssertUnwindSafe(|| {
        let plan = pipeline.plan(request, 0)?;
        pipeline.generate(&plan, &observer, &cancel, &mut sink)
    }));
    GRANTED.store(ALL, Ordering::Relaxed);
    match done {
        Ok(Ok(())) => Outcome::Drawn(picture.unwrap()),
        Ok(Err(error)) => Outcome::Failed(error),
        Err(_) => Outcome::Panicked,
    }
}
