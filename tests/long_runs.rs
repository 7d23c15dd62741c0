//! A process that draws for a long time: stacks change from picture to picture, requests are cancelled, observers
//! panic, LoRAs are replaced under the pipeline's feet, and memory is refused. Whatever happened before, every picture
//! is the one that a fresh pipeline draws, and memory does not grow.
//!
//! `COLORA_LONG_RUNS` is the number of requests, 1000 when it is not set.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

#[path = "long_runs/faults.rs"]
mod faults;
mod support;
#[path = "long_runs/world.rs"]
mod world;

use colora::pipeline::{Memory, Options};
use colora::prompt::PromptSyntax;
use colora::{Cancel, DeviceChoice, Error, Event, Generated, Pipeline, Request};
use faults::{Fault, Outcome, Random, run};
use std::sync::Mutex;
use world::World;

/// Files and refusals of memory are of the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn options() -> Options {
    Pipeline::options().device(DeviceChoice::Cpu)
}

/// Bytes in memory, of the process itself.
fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = pages.split_whitespace().skip(1).map(|n| n.parse::<u64>().unwrap());
    Some((pages.next()? - pages.next()?) * 4096)
}

fn count() -> usize {
    std::env::var("COLORA_LONG_RUNS").map_or(1000, |count| count.parse().unwrap())
}

#[test]
fn a_thousand_changes_of_stack_with_faults_between() {
    let _alone = ALONE.lock();
    faults::expect_panics();
    let mut random = Random(0x5eed);
    let mut worlds = [World::tiny(), World::starter()];
    let pipelines: Vec<Pipeline> =
        worlds.iter().map(|world| world.open(options().memory(Memory::Resident))).collect();
    let (total, mut after) = (count(), None);
    let mut seen = std::collections::BTreeMap::new();
    for i in 0..total {
        // The starter takes longer.
        let place = usize::from(random.below(8) == 0);
        let (world, pipeline) = (&mut worlds[place], &pipelines[place]);
        let fault = Fault::any(&mut random);
        if let Fault::Replaced { by_rename } = fault {
            world.replace(by_rename);
        }
        let wanted = random.below(world.requests.len());
        let outcome = run(pipeline, &world.requests[wanted], fault);
        let right = world.picture(wanted, options());
        outcome.check(fault, &right);
        *seen.entry(outcome.name(fault)).or_insert(0) += 1;
        // What comes after a fault is what would have come without it.
        if matches!(outcome, Outcome::Failed(_) | Outcome::Panicked) {
            run(pipeline, &world.requests[wanted], Fault::None).check(Fault::None, &right);
        }
        if i == total / 5 {
            after = resident();
        }
    }
    println!("{seen:?}");
    if total >= 300 {
        for kind in ["cancelled", "panicked", "refused", "drawn after None"] {
            assert!(seen.keys().any(|name| name.starts_with(kind)), "{kind} never came: {seen:?}");
        }
    }
    if let (Some(after), Some(now)) = (after, resident()) {
        println!("{} MB after a fifth, {} MB at the end", after >> 20, now >> 20);
        assert!(now < after + after / 20 + (16 << 20), "{after} bytes grew to {now}");
    }
    // One pipeline goes, and takes nothing with it that the other needs.
    let [first, second] = <[Pipeline; 2]>::try_from(pipelines).unwrap();
    drop(first);
    let right = worlds[1].picture(0, options());
    run(&second, &worlds[1].requests[0], Fault::None).check(Fault::None, &right);
}

#[test]
fn threads_that_share_a_pipeline_draw_what_each_draws_alone() {
    let _alone = ALONE.lock();
    faults::expect_panics();
    let mut world = World::tiny();
    let right: Vec<_> = (0..world.requests.len()).map(|i| world.picture(i, options())).collect();
    for memory in [Memory::Resident, Memory::OneShot, Memory::Low] {
        // A budget that never lets anything wait, and room for one stack: everything is made anew all the time.
        let tight = options().memory(memory).stacks(1).spare_memory(1 << 20);
        let pipeline = &world.open(tight);
        let (world, right) = (&world, &right);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let mut random = Random(0x7ead + thread);
                    for _ in 0..count() / 50 {
                        let wanted = random.below(world.requests.len());
                        let fault = Fault::of_one_thread(&mut random);
                        run(pipeline, &world.requests[wanted], fault).check(fault, &right[wanted]);
                    }
                });
            }
        });
    }
}

/// A LoRA that was replaced while a plan ran changed the images that were left, under an unchanged record.
#[test]
fn a_plan_keeps_the_files_that_it_began_with() {
    let _alone = ALONE.lock();
    let mut world = World::tiny();
    let pipeline = world.open(options());
    let wanted = world.replaced();
    let request = Request { count: 3, ..world.requests[wanted].clone() };
    let draw = |world: &mut World, replace: bool| {
        let plan = pipeline.plan(&request, 0).unwrap();
        let mut pictures = Vec::new();
        let mut sink = |image: Generated| {
            pictures.push(image.picture.bytes().to_vec());
            if replace && image.index == 0 {
                world.replace(true);
            }
            Ok(())
        };
        pipeline.generate(&plan, &|_: &Event| {}, &Cancel::new(), &mut sink).unwrap();
        pictures
    };
    let before = draw(&mut world, false);
    assert!(before == draw(&mut world, true));
    assert!(before != draw(&mut world, false));
}

/// A request that ended let go what another one on the same pipeline took in turn.
#[test]
fn one_request_leaves_the_networks_of_another_alone() {
    let _alone = ALONE.lock();
    let world = World::tiny();
    for memory in [Memory::Resident, Memory::OneShot] {
        let pipeline = world.open(options().memory(memory).stacks(1));
        let [first, second] = [3, 4].map(|i| Request { count: 3, ..world.requests[i].clone() });
        let built = std::cell::Cell::new(0);
        let observer = |event: &Event| {
            if matches!(event, Event::Loading { component: "UNet" }) {
                built.set(built.get() + 1);
            }
        };
        let draw = |request: &Request, sink: &mut dyn FnMut(Generated) -> colora::Result<()>| {
            let plan = pipeline.plan(request, 0).unwrap();
            pipeline.generate(&plan, &observer, &Cancel::new(), sink).unwrap();
        };
        draw(&first, &mut |_| Ok(()));
        let alone = built.replace(0);
        draw(&second, &mut |_| Ok(()));
        let alone = (alone, built.replace(0));
        assert!(alone.0 > 0 && alone.1 > 0, "{alone:?}");
        draw(&first, &mut |image| {
            if image.index == 0 {
                draw(&second, &mut |_| Ok(()));
            }
            Ok(())
        });
        assert!(built.get() <= alone.0 + alone.1, "{memory:?}: {} for {alone:?}", built.get());
    }
}

/// Warnings went to the log of whoever runs the process.
#[test]
fn warnings_come_to_whoever_asked_for_the_picture() {
    let _alone = ALONE.lock();
    let world = World::tiny();
    let pipeline = world.open(options());
    let prompt = "cat ".repeat(200);
    // Without syntax the text encoder sees one window of tokens.
    let prompt_syntax = Some(PromptSyntax::Plain);
    let request = Request { prompt, prompt_syntax, count: 2, ..world.requests[0].clone() };
    // The second one finds everything made, and is told all the same.
    for _ in 0..2 {
        let warnings = Mutex::new(Vec::new());
        let observer = |event: &Event| {
            if let Event::Warning { warning } = event {
                warnings.lock().unwrap().push(warning.to_string());
            }
        };
        let plan = pipeline.plan(&request, 0).unwrap();
        pipeline.generate(&plan, &observer, &Cancel::new(), &mut |_| Ok(())).unwrap();
        let warnings = warnings.into_inner().unwrap();
        let long = |text: &&String| text.contains("tokens too long; its end is not seen");
        assert_eq!(warnings.iter().filter(long).count(), 1, "{warnings:?}");
    }
}

#[test]
fn work_stops_between_two_layers_of_every_part() {
    let _alone = ALONE.lock();
    let world = World::tiny();
    let pipeline = world.open(options());
    for part in ["Loading", "Encoding", "Sampling", "Decoding"] {
        let cancel = Cancel::new();
        let later = std::cell::Cell::new(0);
        let observer = |event: &Event| {
            if cancel.is_cancelled() {
                later.set(later.get() + 1);
            }
            if format!("{event:?}").starts_with(part) {
                cancel.cancel();
            }
        };
        let request = Request { tile: Some(false), ..world.requests[3].clone() };
        let plan = pipeline.plan(&request, 0).unwrap();
        let done = pipeline.generate(&plan, &observer, &cancel, &mut |_| Ok(()));
        assert!(matches!(done, Err(Error::Cancelled)), "{part}: {done:?}");
        assert_eq!(later.get(), 0, "{part} was done to its end");
    }
}
