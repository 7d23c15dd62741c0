//! Every allocation fails once: the command line ends with exit code 6 and a word, the library with an error, after
//! which it draws as before. Without the harness, whose threads would not survive the forks; Linux only.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[cfg(not(all(target_os = "linux", feature = "cli")))]
fn main() {
    println!("skipped: Linux only");
}

#[cfg(all(target_os = "linux", feature = "cli"))]
#[global_allocator]
static MEMORY: colora::cli::LastResort<failing::Failing> =
    colora::cli::LastResort::over(failing::Failing);

#[cfg(all(target_os = "linux", feature = "cli"))]
fn main() -> std::process::ExitCode {
    if let Some(order) = std::env::var_os(sweep::ORDER) {
        return sweep::run(&order.to_string_lossy());
    }
    command_line::every_allocation_fails_once();
    library::draws_after_every_refusal();
    std::process::ExitCode::SUCCESS
}

/// The system's allocator, one of whose answers is no.
#[cfg(all(target_os = "linux", feature = "cli"))]
#[allow(unsafe_code)]
mod failing {
    use colora::cli::LastResort;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// The number of the request that is refused, counted from 1; 0 for none.
    pub(crate) static REFUSED: AtomicUsize = AtomicUsize::new(0);
    /// Requests that were counted.
    pub(crate) static COUNTED: AtomicUsize = AtomicUsize::new(0);
    /// The fewest bytes of a request that counts.
    pub(crate) static LEAST: AtomicUsize = AtomicUsize::new(0);
    /// Whether only requests count whose refusal is an error of the library.
    pub(crate) static SURVIVABLE: AtomicBool = AtomicBool::new(false);

    pub(crate) struct Failing;

    fn refuses(size: usize) -> bool {
        let refused = REFUSED.load(Ordering::Relaxed);
        if refused == 0 || size < LEAST.load(Ordering::Relaxed) {
            return false;
        }
        if SURVIVABLE.load(Ordering::Relaxed) && !LastResort::is_survivable() {
            return false;
        }
        let number = COUNTED.fetch_add(1, Ordering::Relaxed) + 1;
        // One refusal alone is survived: what waits for its next use goes back, and the system is asked again.
        number == refused || (number > refused && SURVIVABLE.load(Ordering::Relaxed))
    }

    // SAFETY: the system's allocator, or nothing.
    unsafe impl GlobalAlloc for Failing {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if refuses(layout.size()) {
                return std::ptr::null_mut();
            }
            // SAFETY: the caller's promise.
            unsafe { System.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            if refuses(layout.size()) {
                return std::ptr::null_mut();
            }
            // SAFETY: the caller's promise.
            unsafe { System.alloc_zeroed(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: the caller's promise.
            unsafe { System.dealloc(pointer, layout) }
        }

        unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            if refuses(size) {
                return std::ptr::null_mut();
            }
            // SAFETY: the caller's promise.
            unsafe { System.realloc(pointer, layout, size) }
        }
    }

    /// Refuses the request `number` of those of `least` bytes or more; of survivable ones all that follow, too.
    pub(crate) fn arm(number: usize, least: usize, survivable: bool) {
        LEAST.store(least, Ordering::Relaxed);
        SURVIVABLE.store(survivable, Ordering::Relaxed);
        COUNTED.store(0, Ordering::Relaxed);
        REFUSED.store(number, Ordering::Relaxed);
    }

    /// Refuses nothing more, and says how many requests were counted.
    pub(crate) fn disarm() -> usize {
        REFUSED.store(0, Ordering::Relaxed);
        COUNTED.load(Ordering::Relaxed)
    }
}

/// A process that runs its own arguments in many children, each of which fails at another allocation.
#[cfg(all(target_os = "linux", feature = "cli"))]
#[allow(unsafe_code)]
mod sweep {
    use super::failing;
    use std::io::{Read, Seek};
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::process::ExitCode;

    /// The variable that makes this program one of these: `LEAST NUMBER NUMBER …`.
    pub(crate) const ORDER: &str = "COLORA_ALLOCATIONS";
    /// Seconds that a child may take.
    const SECONDS: u32 = 60;

    /// Prints a line a child: number, requests counted, exit code or −signal, and what it said on stderr, quoted.
    pub(crate) fn run(order: &str) -> ExitCode {
        let numbers: Vec<usize> = order.split(' ').map(|n| n.parse().unwrap()).collect();
        let (least, numbers) = numbers.split_first().unwrap();
        for number in numbers {
            let said = unnamed();
            let counted = unnamed();
            // SAFETY: this process has one thread.
            match unsafe { libc::fork() } {
                0 => return child(*number, *least, &said, &counted),
                child => println!("{number} {}", outcome(child, said, counted)),
            }
        }
        ExitCode::SUCCESS
    }

    /// A file without a name.
    fn unnamed() -> std::fs::File {
        // SAFETY: the name ends with a zero, and the file is nobody else's.
        unsafe { std::fs::File::from_raw_fd(libc::memfd_create(c"said".as_ptr(), 0)) }
    }

    fn child(
        number: usize,
        least: usize,
        said: &std::fs::File,
        mut counted: &std::fs::File,
    ) -> ExitCode {
        use std::io::Write;
        // SAFETY: all descriptors are open.
        unsafe {
            libc::alarm(SECONDS);
            libc::dup2(said.as_raw_fd(), libc::STDERR_FILENO);
            let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY);
            libc::dup2(nothing, libc::STDOUT_FILENO);
        }
        failing::arm(number, least, false);
        let code = colora::cli::run();
        let count = failing::disarm();
        write!(counted, "{count}").unwrap();
        code
    }

    fn outcome(child: libc::pid_t, said: std::fs::File, counted: std::fs::File) -> String {
        let mut status = 0;
        // SAFETY: the place for the answer is valid.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        let code = if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            -libc::WTERMSIG(status)
        };
        let text = |mut file: std::fs::File| {
            let mut text = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        let count = text(counted);
        let count = if count.is_empty() { "0" } else { &count };
        format!("{count} {code} {:?}", text(said))
    }
}

#[cfg(all(target_os = "linux", feature = "cli"))]
mod command_line {
    use super::sweep;
    use std::path::Path;
    use std::process::Command;
    use std::time::Instant;

    /// A number that no request has.
    const NEVER: usize = 1 << 60;

    /// What one failing request led to.
    struct Outcome {
        number: usize,
        counted: usize,
        code: i32,
        said: String,
    }

    fn sweep(folder: &Path, arguments: &[&str], least: usize, numbers: &[usize]) -> Vec<Outcome> {
        let order: Vec<String> = [least].iter().chain(numbers).map(ToString::to_string).collect();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments).env_clear().env(sweep::ORDER, order.join(" "));
        command.current_dir(folder).env("HOME", folder).env("RAYON_NUM_THREADS", "2");
        let output = command.env("CANDLE_NUM_THREADS", "2").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let outcomes = text.lines().map(|line| {
            let mut parts = line.splitn(4, ' ');
            let mut number = || parts.next().unwrap().parse::<i64>().unwrap();
            let (number, counted, code) = (number() as usize, number() as usize, number() as i32);
            Outcome { number, counted, code, said: parts.next().unwrap().to_owned() }
        });
        outcomes.collect()
    }

    /// Numbers from 1 to `count`: all, or as many as are wanted, drawn with a fixed seed.
    fn chosen(count: usize, wanted: usize) -> Vec<usize> {
        if count <= wanted {
            return (1..=count).collect();
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let draw = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            1 + (state >> 33) as usize % count
        };
        let mut drawn: Vec<usize> = (0..wanted).map(draw).collect();
        drawn.sort_unstable();
        drawn.dedup();
        drawn
    }

    /// Two processes share the numbers.
    fn all(folder: &Path, arguments: &[&str], least: usize, wanted: usize) {
        let begin = Instant::now();
        let whole = sweep(folder, arguments, least, &[NEVER]);
        let count = whole[0].counted;
        assert!(whole[0].code == 0 && count > 0, "{arguments:?}: {}", whole[0].said);
        let numbers = chosen(count, wanted);
        let halves: Vec<Vec<usize>> =
            (0..2).map(|half| numbers.iter().copied().skip(half).step_by(2).collect()).collect();
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for half in &halves {
                threads.push(scope.spawn(move || sweep(folder, arguments, least, half)));
            }
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(outcomes.len(), numbers.len());
        let mut ended = 0;
        for Outcome { number, code, said, .. } in outcomes {
            let place = format!("{arguments:?}, request {number}: code {code}, {said}");
            match code {
                // Threads differ from run to run: the last requests may not come. Buffers that are refused are asked for
                // again once those that wait for their next use are given back.
                0 => {}
                6 => {
                    ended += 1;
                    assert!(said.contains("memory") || said.contains("thread"), "{place}");
                }
                _ => panic!("{place}"),
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        println!("{arguments:?}: {ended} of {} of {count} requests, {seconds:.1} s", numbers.len());
        assert!(2 * ended >= numbers.len(), "{arguments:?}: {ended} of {}", numbers.len());
    }

    /// All requests of short runs; of a picture those for much, and some of the others.
    pub(super) fn every_allocation_fails_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = |name: &str| root.join(name).display().to_string();
        let (lora, model) = (path("loras/gold.safetensors"), path("tests/goldens/sd15"));
        let picture = ["-m", &model, "--size=64x64", "-s1", "-S1", "-o", "x.png", "--force", "x"];
        let many: usize = match std::env::var("COLORA_ALLOCATIONS_ALL") {
            Ok(_) => usize::MAX,
            Err(_) => 4000,
        };
        let folder = folder.path();
        all(folder, &["lora", "inspect", &lora], 0, many / 8);
        all(folder, &["model", "inspect", &model], 0, many);
        all(folder, &picture, 64 << 10, many);
        all(folder, &picture, 0, many / 4);
        all(folder, &["inspect", "x.png"], 0, many);
        all(folder, &["config", "show"], 0, many);
        let left = std::fs::read_dir(folder).unwrap().map(|item| item.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name != "x.png").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[cfg(all(target_os = "linux", feature = "cli"))]
mod library {
    use super::failing;
    use colora::pipeline::Memory;
    use colora::{Cancel, Error, Event, Fault, Picture, Pipeline, Request};

    fn draw(pipeline: &Pipeline, request: &Request) -> Result<Picture, Error> {
        let plan = pipeline.plan(request, 0)?;
        let mut picture = None;
        let mut sink = |image: colora::Generated| {
            picture = Some(image.picture);
            Ok(())
        };
        pipeline.generate(&plan, &|_: &Event| {}, &Cancel::new(), &mut sink)?;
        Ok(picture.unwrap())
    }

    /// A request that fails for want of memory leaves nothing behind that changes the next.
    pub(super) fn draws_after_every_refusal() {
        let begin = std::time::Instant::now();
        let request = Request {
            prompt: "a red apple".into(),
            width: Some(64),
            height: Some(64),
            steps: Some(1),
            seed: Some(1),
            ..Request::default()
        };
        for memory in [Memory::Resident, Memory::Low] {
            let open = || {
                let options = Pipeline::options().device("cpu".parse().unwrap()).memory(memory);
                options.open_starter().unwrap()
            };
            let right = draw(&open(), &request).unwrap();
            failing::arm(usize::MAX, 0, true);
            draw(&open(), &request).unwrap();
            let count = failing::disarm();
            let step = (count / 60).max(1);
            let mut refused = 0;
            for number in (1..=count).step_by(step) {
                let pipeline = open();
                failing::arm(number, 0, true);
                let drawn = draw(&pipeline, &request);
                failing::disarm();
                match drawn {
                    Ok(picture) => assert!(picture == right, "{memory:?}, request {number}"),
                    Err(error) => {
                        assert_eq!(error.fault(), Fault::Resource, "{number}: {error}");
                        assert!(error.to_string().contains("out of memory"), "{error}");
                        refused += 1;
                    }
                }
                let again = draw(&pipeline, &request).unwrap();
                assert!(again == right, "{memory:?}, after request {number}");
            }
            let seconds = begin.elapsed().as_secs_f64();
            println!("{memory:?}: {refused} errors of {count} requests, {seconds:.1} s");
            assert!(refused > 10, "{memory:?}: {refused} of {count}");
        }
    }
}
