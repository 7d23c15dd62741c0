//! The time that the picture at work still has when somebody asks the program to stop.

use crate::pipeline::Cancel;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two looks at the flag.
const OFTEN: Duration = Duration::from_millis(50);

/// Two flags: one asks for a stop after the present picture; the other, set so much later, drops it.
#[derive(Debug)]
pub(super) struct Grace {
    asked: Cancel,
    drop_it: Cancel,
    over: Arc<AtomicBool>,
}

impl Grace {
    /// Watches `asked` until this value is dropped.
    pub(super) fn new(asked: &Cancel, grace: Duration) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut watched = Self { asked: asked.clone(), drop_it: Cancel::new(), over: over.clone() };
        let (asked, drop_it) = (asked.clone(), watched.drop_it.clone());
        let watch = move || {
            let mut since: Option<Instant> = None;
            while !over.load(Ordering::Relaxed) {
                if asked.is_set() && since.get_or_insert_with(Instant::now).elapsed() >= grace {
                    return drop_it.cancel();
                }
                std::thread::sleep(OFTEN);
            }
        };
        if std::thread::Builder::new().name("grace".into()).spawn(watch).is_err() {
            // Without a watcher nothing waits.
            watched.drop_it = watched.asked.clone();
        }
        watched
    }

    /// The flag that drops the present picture.
    pub(super) fn work(&self) -> &Cancel {
        &self.drop_it
    }

    /// Whether no other picture shall begin.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_cancelled()
    }
}

impl Drop for Grace {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_picture_has_its_time() {
        let asked = Cancel::new();
        let grace = Grace::new(&asked, Duration::from_millis(200));
        asked.cancel();
        assert!(grace.is_asked() && !grace.work().is_set());
        let begin = Instant::now();
        while !grace.work().is_set() {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(OFTEN);
        }
        assert!(begin.elapsed() >= Duration::from_millis(150));
    }
}
