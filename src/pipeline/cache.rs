//! Things that were expensive to make, kept while they are likely to be needed again.

use super::warning::Warning;
use crate::cancel::Cancel;
use crate::error::Result;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often whoever waits for another's work looks whether he was told to stop.
const LOOK: Duration = Duration::from_millis(20);

/// A few values by key, the least recently used of which goes first.
///
/// Of several threads that miss one key the first makes the value and the others wait for it: networks are large,
/// and two of the same would be there at the worst time. Nobody waits for another key's value.
#[derive(Debug)]
pub(super) struct Recent<T> {
    state: Mutex<State<T>>,
    /// Told when a value was made, or could not be.
    done: Condvar,
    /// As many as were asked for.
    usual: usize,
    /// Bytes of a value, and how many all of them may have together; one value always stays.
    bytes: Option<(Bytes<T>, u64)>,
}

/// How many bytes a value has.
type Bytes<T> = fn(&T) -> u64;

#[derive(Debug)]
struct State<T> {
    /// The most recent first.
    values: Vec<(String, Arc<T>)>,
    /// Keys whose values are being made.
    making: Vec<String>,
    /// Keys of all [`Room`]s.
    held: Vec<String>,
}

/// While it lives, the values of its keys stay.
#[derive(Debug)]
pub(super) struct Room<T> {
    recent: Arc<Recent<T>>,
    keys: Vec<String>,
}

/// A key whose value this thread makes.
struct Making<'a, T> {
    recent: &'a Recent<T>,
    key: &'a str,
}

impl<T> Recent<T> {
    pub(super) fn new(limit: usize) -> Self {
        let state = State { values: Vec::new(), making: Vec::new(), held: Vec::new() };
        Self { state: Mutex::new(state), done: Condvar::new(), usual: limit.max(1), bytes: None }
    }

    /// The same for values that may be large: `bytes` says how large one is, and all have `most` at most.
    pub(super) fn weighed(self, bytes: Bytes<T>, most: u64) -> Self {
        Self { bytes: Some((bytes, most)), ..self }
    }

    /// Makes room for the values of `keys`, which a request takes in turn, as long as the guard lives: else each
    /// would push the next one out, or those of another request.
    pub(super) fn room(self: &Arc<Self>, keys: Vec<String>) -> Room<T> {
        self.lock().held.extend_from_slice(&keys);
        Room { recent: self.clone(), keys }
    }

    /// The value of `key`, made by `make` when it is not there.
    ///
    /// # Errors
    /// What `make` gives: the next thread that waits for the value tries then. [`Error::Cancelled`] when `cancel` was
    /// set while another thread made the value.
    ///
    /// [`Error::Cancelled`]: crate::Error::Cancelled
    pub(super) fn get(
        &self,
        key: &str,
        cancel: &Cancel,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let making = match self.found_or_mine(key, cancel)? {
            Ok(value) => return Ok(value),
            Err(making) => making,
        };
        // First, so that the new one can be made in its memory.
        self.shorten(1);
        let value = Arc::new(make()?);
        let mut state = self.lock();
        // A thread that could not wait has made one too; networks that share it share its weights.
        let value = state.touch(key).unwrap_or_else(|| {
            state.values.insert(0, (key.to_owned(), value.clone()));
            value
        });
        drop(state);
        drop(making);
        self.shorten(0);
        Ok(value)
    }

    /// Lets every value go.
    pub(super) fn clear(&self) {
        let gone = std::mem::take(&mut self.lock().values);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of `key`, or the right to make it; waits while another thread has that.
    fn found_or_mine<'a>(
        &'a self,
        key: &'a str,
        cancel: &Cancel,
    ) -> Result<std::result::Result<Arc<T>, Making<'a, T>>> {
        // The maker's products are done by all threads of a pool, which take other requests' work meanwhile: what
        // one of them waits for could lie below it on its own stack. So they never wait.
        let waits = rayon::current_thread_index().is_none();
        let mut state = self.lock();
        loop {
            if let Some(value) = state.touch(key) {
                return Ok(Ok(value));
            }
            if !waits || !state.making.iter().any(|other| other == key) {
                state.making.push(key.to_owned());
                return Ok(Err(Making { recent: self, key }));
            }
            cancel.check()?;
            let woken = self.done.wait_timeout(state, LOOK);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets go what is more than there may be, and `less` more.
    fn shorten(&self, less: usize) {
        let mut state = self.lock();
        let State { values, held, .. } = &mut *state;
        let is_held = |(key, _): &(String, Arc<T>)| held.contains(key);
        let count = values.iter().filter(|value| is_held(value)).count();
        let mut free = (self.usual - less).saturating_sub(count);
        let (mut sum, mut first) = (0u64, true);
        let stays = |value: &(String, Arc<T>)| {
            sum += self.bytes.map_or(0, |(bytes, _)| bytes(&value.1));
            let light = self.bytes.is_none_or(|(_, most)| sum <= most) || first;
            first = false;
            if is_held(value) {
                return true;
            }
            let stays = light && free > 0;
            free -= usize::from(stays);
            stays
        };
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(values).into_iter().partition(stays);
        *values = kept;
        drop(state);
        drop(gone);
    }
}

impl<T> State<T> {
    /// The value of `key`, which becomes the most recent.
    fn touch(&mut self, key: &str) -> Option<Arc<T>> {
        let at = self.values.iter().position(|(known, _)| known == key)?;
        let entry = self.values.remove(at);
        let value = entry.1.clone();
        self.values.insert(0, entry);
        Some(value)
    }
}

impl<T> Drop for Making<'_, T> {
    fn drop(&mut self) {
        let mut state = self.recent.lock();
        if let Some(at) = state.making.iter().position(|key| key == self.key) {
            state.making.swap_remove(at);
        }
        drop(state);
        self.recent.done.notify_all();
    }
}

impl<T> Drop for Room<T> {
    fn drop(&mut self) {
        let mut state = self.recent.lock();
        for key in &self.keys {
            if let Some(at) = state.held.iter().position(|held| held == key) {
                state.held.swap_remove(at);
            }
        }
        drop(state);
        self.recent.shorten(0);
    }
}

/// A component that is built when first needed and then shared.
#[derive(Debug)]
pub(super) struct Lazy<T>(Recent<T>);

impl<T> Lazy<T> {
    pub(super) fn new() -> Self {
        Self(Recent::new(1))
    }

    /// The component, built by `build` when it is not there.
    ///
    /// # Errors
    /// As [`Recent::get`].
    pub(super) fn get(&self, cancel: &Cancel, build: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        self.0.get("", cancel, build)
    }

    /// Lets the value go; it is built again when it is needed again.
    pub(super) fn clear(&self) {
        self.0.clear();
    }
}

/// A value, and what a user should know of it: told to every request that uses it, whoever had it made.
#[derive(Debug)]
pub(super) struct Noted<T> {
    pub(super) value: Arc<T>,
    pub(super) warnings: Vec<Warning>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    #[test]
    fn the_least_recent_goes_first() {
        let recent = Recent::new(2);
        let made = std::cell::Cell::new(0);
        let get = |key: &str| {
            let make = || {
                made.set(made.get() + 1);
                Ok(key.to_owned())
            };
            recent.get(key, &Cancel::new(), make).unwrap()
        };
        for key in ["a", "b", "a", "c", "a", "b"] {
            assert_eq!(*get(key), key);
        }
        assert_eq!(made.get(), 4);
        assert!(recent.get("d", &Cancel::new(), || Err(Error::Cancelled)).is_err());
    }

    /// Files that are copied to memory are not small any more.
    #[test]
    fn what_is_large_goes_before_there_are_many() {
        let recent = Recent::new(8).weighed(|value: &u64| *value, 100);
        let get =
            |value: u64| *recent.get(&value.to_string(), &Cancel::new(), || Ok(value)).unwrap();
        let kept = || recent.lock().values.iter().map(|(_, value)| **value).collect::<Vec<_>>();
        for value in [10, 20, 30, 40] {
            get(value);
        }
        assert_eq!(kept(), [40, 30, 20, 10]);
        get(10);
        get(35);
        assert_eq!(kept(), [35, 10, 40]);
        get(1000);
        assert_eq!(kept(), [1000]);
        get(99);
        get(1);
        assert_eq!(kept(), [1, 99]);
    }

    /// One request with many networks raised the limit for all that came after it.
    #[test]
    fn room_is_there_as_long_as_its_request() {
        let recent = Arc::new(Recent::new(2));
        let kept = || recent.lock().values.iter().map(|(key, _)| key.clone()).collect::<String>();
        let get = |key: &str| recent.get(key, &Cancel::new(), || Ok(key.to_owned())).unwrap();
        let room = |keys: &str| recent.room(keys.chars().map(String::from).collect());
        let three = room("abc");
        for key in ["a", "b", "c", "d"] {
            get(key);
        }
        // Beyond the usual number what belongs to nobody goes first.
        assert_eq!(kept(), "cba");
        let two = room("cf");
        get("f");
        assert_eq!(kept(), "fcba");
        drop(three);
        assert_eq!(kept(), "fc");
        get("g");
        assert_eq!(kept(), "fc");
        drop(two);
        get("h");
        assert_eq!(kept(), "hf");
    }

    /// Two threads that missed at once both built the network.
    #[test]
    fn threads_that_miss_at_once_make_one_value() {
        let recent = Recent::new(2);
        let (made, begin) = (AtomicUsize::new(0), Barrier::new(8));
        let make = || {
            made.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
            Ok(1)
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    begin.wait();
                    assert_eq!(*recent.get("a", &Cancel::new(), make).unwrap(), 1);
                });
            }
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    /// Holds the making of "a" until `until` is reached, and lets it end as `end` does.
    fn held(recent: &Recent<u32>, until: &Barrier, end: fn() -> Result<u32>) {
        let make = || {
            until.wait();
            until.wait();
            end()
        };
        let make = std::panic::AssertUnwindSafe(|| recent.get("a", &Cancel::new(), make));
        let _ = std::panic::catch_unwind(make);
    }

    #[test]
    fn who_fails_or_panics_lets_the_next_one_try() {
        for end in [|| Err(Error::Cancelled), || panic!("a builder that panics")] {
            let (recent, until) = (Recent::new(2), Barrier::new(2));
            std::thread::scope(|scope| {
                scope.spawn(|| held(&recent, &until, end));
                until.wait();
                let waiting = scope.spawn(|| recent.get("a", &Cancel::new(), || Ok(2)));
                std::thread::sleep(Duration::from_millis(20));
                until.wait();
                assert_eq!(*waiting.join().unwrap().unwrap(), 2);
            });
        }
    }

    #[test]
    fn who_waits_can_be_cancelled_and_other_keys_do_not_wait() {
        let (recent, until, cancel) = (Recent::new(2), Barrier::new(2), Cancel::new());
        std::thread::scope(|scope| {
            scope.spawn(|| held(&recent, &until, || Ok(1)));
            until.wait();
            let waiting = scope.spawn(|| recent.get("a", &cancel, || Ok(2)));
            assert_eq!(*recent.get("b", &Cancel::new(), || Ok(3)).unwrap(), 3);
            std::thread::sleep(Duration::from_millis(30));
            assert!(!waiting.is_finished());
            let begin = Instant::now();
            cancel.cancel();
            assert!(matches!(waiting.join().unwrap(), Err(Error::Cancelled)));
            assert!(begin.elapsed() < Duration::from_secs(5));
            until.wait();
        });
        assert_eq!(*recent.get("a", &Cancel::new(), || Ok(4)).unwrap(), 1);
    }

    /// A thread of a pool that waited for work below it on its own stack would wait for ever.
    #[test]
    fn threads_of_a_pool_never_wait() {
        let recent = Recent::new(2);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let inner = || recent.get("a", &Cancel::new(), || Ok(1)).map(|value| *value);
        let outer = || recent.get("a", &Cancel::new(), inner);
        assert_eq!(*pool.install(outer).unwrap(), 1);
    }
}
