//! Memory: asked for so that a refusal is an error like any other, and how much of it is free.
//!
//! Floor 0.

use crate::error::{Error, Result};
use std::alloc::{Layout, alloc_zeroed};
use std::cell::Cell;

thread_local! {
    /// How many requests of this thread are under way whose refusal is an error.
    static ASKING: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread asks for memory whose refusal is an error: an allocator of last resort lets that one pass.
#[cfg(feature = "cli")]
pub(crate) fn is_asking() -> bool {
    ASKING.try_with(|depth| depth.get() > 0).unwrap_or(false)
}

/// Marks the thread as asking until it is dropped.
struct Asking;

impl Asking {
    fn begin() -> Self {
        // A thread that ends has no such mark, and nothing of ours runs there.
        let _ = ASKING.try_with(|depth| depth.set(depth.get() + 1));
        Self
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = ASKING.try_with(|depth| depth.set(depth.get().saturating_sub(1)));
    }
}

/// What `ask` gives; memory that is refused meanwhile must come back as an error and not end the program.
pub(crate) fn asking<T>(ask: impl FnOnce() -> T) -> T {
    let _asking = Asking::begin();
    ask()
}

/// An empty vector with room for `count` elements of `what`.
///
/// # Errors
/// [`Error::Memory`].
pub(crate) fn reserve<T>(count: usize, what: &'static str) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    let reserved = asking(|| vector.try_reserve_exact(count));
    reserved.map(|()| vector).map_err(|_| refused::<T>(count, what))
}

/// `count` zeros for `what`, of pages that are only made when they are first written.
///
/// # Errors
/// [`Error::Memory`].
pub(crate) fn zeros<T: bytemuck::Zeroable>(count: usize, what: &'static str) -> Result<Vec<T>> {
    let layout = Layout::array::<T>(count).map_err(|_| refused::<T>(count, what))?;
    if layout.size() == 0 {
        return reserve(count, what).map(|mut empty| {
            empty.resize_with(count, T::zeroed);
            empty
        });
    }
    // SAFETY: the layout has a size, is that of `count` elements, and comes from the allocator that vectors
    // use; all bits zero are a `T`.
    #[allow(unsafe_code, clippy::same_length_and_capacity)]
    unsafe {
        let first = asking(|| alloc_zeroed(layout)).cast::<T>();
        if first.is_null() {
            Err(refused::<T>(count, what))
        } else {
            Ok(Vec::from_raw_parts(first, count, count))
        }
    }
}

/// That the system gave no `count` elements for `what`.
pub(crate) fn refused<T>(count: usize, what: &'static str) -> Error {
    Error::Memory { what, bytes: (count as u64).saturating_mul(size_of::<T>() as u64) }
}

/// The memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    /// What programs can still have, without anything being swapped out.
    pub(crate) free: u64,
    pub(crate) total: u64,
    /// What the control group of this process may have, if that is limited.
    pub(crate) limit: Option<u64>,
    /// What can be swapped out.
    swap: u64,
    /// What the control group leaves to this process.
    group: Option<u64>,
}

/// What this process can still have before the system refuses or ends it; `None` where that is not known.
pub(crate) fn free() -> Option<u64> {
    let machine = machine().map(|m| m.free.saturating_add(m.swap).min(m.group.unwrap_or(u64::MAX)));
    machine.into_iter().chain(limits::left()).min()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn machine() -> Option<Machine> {
    None
}

/// The memory of the machine; Linux only.
#[cfg(target_os = "linux")]
pub(crate) fn machine() -> Option<Machine> {
    let info = system_text("/proc/meminfo")?;
    let group = groups::of(&system_text("/proc/self/cgroup").unwrap_or_default(), &system_text);
    Some(Machine {
        free: kilobytes(&info, "MemAvailable:")?,
        total: kilobytes(&info, "MemTotal:")?,
        limit: group.map(|group| group.limit),
        swap: kilobytes(&info, "SwapFree:").unwrap_or(0),
        group: group.map(|group| group.left),
    })
}

/// The line `name` of a table of the system, in bytes.
#[cfg(target_os = "linux")]
fn kilobytes(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// A file that the system makes up when it is read.
#[cfg(target_os = "linux")]
fn system_text(path: &str) -> Option<String> {
    crate::input::text(std::path::Path::new(path), 1 << 20, "a file of the system").ok()
}

/// Limits of memory of control groups.
#[cfg(target_os = "linux")]
mod groups {
    /// The tightest limit, and what is left below it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Group {
        pub(super) limit: u64,
        pub(super) left: u64,
    }

    /// The files of a version of control groups: limit, what is used, what is used by kind, and the names of the
    /// kinds that the system takes back when it needs them: pages of files.
    struct Version {
        root: &'static str,
        limit: &'static str,
        used: &'static str,
        given_back: [&'static str; 2],
    }

    const SECOND: Version = Version {
        root: "/sys/fs/cgroup",
        limit: "memory.max",
        used: "memory.current",
        given_back: ["inactive_file", "active_file"],
    };
    const FIRST: Version = Version {
        root: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        given_back: ["total_inactive_file", "total_active_file"],
    };

    /// The limit that holds for the process whose `/proc/self/cgroup` is `own`; `read` reads a file.
    pub(super) fn of(own: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<Group> {
        let place = |line: &str| {
            let mut fields = line.splitn(3, ':');
            let (number, kinds, path) = (fields.next()?, fields.next()?, fields.next()?);
            match (number, kinds) {
                ("0", "") => Some((&SECOND, path.to_owned())),
                (_, kinds) if kinds.split(',').any(|kind| kind == "memory") => {
                    Some((&FIRST, path.to_owned()))
                }
                _ => None,
            }
        };
        let groups = own.lines().filter_map(place).flat_map(|(files, path)| up(files, &path, read));
        groups.min_by_key(|group| group.left)
    }

    /// The limits of a group and of those that it lies in.
    fn up(files: &Version, path: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<Group> {
        let mut found = Vec::new();
        let mut path = path.trim_end_matches('/');
        loop {
            found.extend(limit(files, path, read));
            match path.rfind('/') {
                Some(end) => path = &path[..end],
                None => return found,
            }
        }
    }

    fn limit(files: &Version, path: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<Group> {
        let text = |name: &str| read(&format!("{}{path}/{name}", files.root));
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
        // "max", or a number above all memory: no limit.
        let limit = number(files.limit).filter(|limit| *limit < 1 << 60)?;
        let kinds = text("memory.stat").unwrap_or_default();
        let kind = |name: &str| {
            let line = kinds.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let kept = files.given_back.map(kind).iter().sum();
        let used = number(files.used).unwrap_or(0).saturating_sub(kept);
        Some(Group { limit, left: limit.saturating_sub(used) })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn found(own: &str, files: &[(&str, &str)]) -> Option<Group> {
            let read = |path: &str| {
                files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
            };
            of(own, &read)
        }

        #[test]
        fn the_tightest_limit_counts() {
            let second = [
                ("/sys/fs/cgroup/a/memory.max", "1000\n"),
                ("/sys/fs/cgroup/a/memory.current", "900\n"),
                ("/sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 300\nactive_file 100\n"),
                ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ];
            let group = found("0::/a/b\n", &second);
            assert_eq!(group, Some(Group { limit: 1000, left: 500 }));
            assert_eq!(found("0::/b\n", &second), None);
            let first = [
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("/sys/fs/cgroup/memory/c/memory.limit_in_bytes", "64\n"),
                ("/sys/fs/cgroup/memory/c/memory.usage_in_bytes", "70\n"),
            ];
            let group = found("4:cpu,memory:/c\n3:pids:/c\n", &first);
            assert_eq!(group, Some(Group { limit: 64, left: 0 }));
            assert_eq!(found("", &first), None);
        }
    }
}

/// Limits of the process.
#[cfg(target_os = "linux")]
mod limits {
    /// What is left of address space and of data.
    pub(super) fn left() -> Vec<u64> {
        let status = super::system_text("/proc/self/status").unwrap_or_default();
        let pairs = [(libc::RLIMIT_AS, "VmSize:"), (libc::RLIMIT_DATA, "VmData:")];
        let left = |(limit, used)| {
            let mut found = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: the place for the answer is ours and valid.
            #[allow(unsafe_code)]
            let known = unsafe { libc::getrlimit(limit, &raw mut found) } == 0;
            let limited = known && found.rlim_cur != libc::RLIM_INFINITY;
            let used = super::kilobytes(&status, used)?;
            limited.then(|| found.rlim_cur.saturating_sub(used))
        };
        pairs.into_iter().filter_map(left).collect()
    }
}

#[cfg(not(target_os = "linux"))]
mod limits {
    pub(super) fn left() -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error() {
        for count in [usize::MAX, usize::MAX / 4, isize::MAX as usize / 8] {
            let error = reserve::<f32>(count, "tests").unwrap_err();
            assert_eq!(error.fault().exit_code(), 6);
            let error = zeros::<f32>(count, "tests").unwrap_err();
            assert!(error.to_string().contains("for tests"), "{error}");
        }
        assert_eq!(zeros::<u8>(3, "tests").unwrap(), [0; 3]);
        assert_eq!(zeros::<f32>(0, "tests").unwrap().len(), 0);
        assert!(reserve::<u64>(5, "tests").unwrap().capacity() >= 5);
    }

    #[test]
    #[cfg(feature = "cli")]
    fn a_thread_asks_as_long_as_it_says() {
        assert!(!is_asking());
        asking(|| {
            asking(|| assert!(is_asking()));
            assert!(is_asking());
            std::thread::scope(|scope| scope.spawn(|| assert!(!is_asking())).join().unwrap());
        });
        assert!(!is_asking());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn some_memory_is_free() {
        let machine = machine().unwrap();
        assert!(machine.free <= machine.total && machine.free > 1 << 20, "{machine:?}");
        assert!(free().unwrap() > 1 << 20);
    }
}
