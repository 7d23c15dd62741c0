//! Steps and runs that outlive their pipeline and move between threads.

use crate::batch::{lora, options, request};
use colora::pipeline::{Memory, Run, Steps};
use colora::{Pipeline, Request};

fn assert_send<T: Send + 'static>() {}
fn assert_shared<T: Send + Sync + Clone + 'static>() {}

#[test]
fn what_may_move() {
    assert_send::<Steps>();
    assert_send::<Run>();
    assert_shared::<Pipeline>();
}

#[test]
fn steps_go_on_in_another_thread() {
    for memory in [Memory::Resident, Memory::OneShot, Memory::Low] {
        let pipeline = options().memory(memory).open_starter().unwrap();
        let request = Request { loras: vec![lora("flat", "1")], count: 1, ..request() };
        let plan = pipeline.plan(&request, 0).unwrap();
        let here = pipeline.steps(&plan, 0).unwrap().finish().unwrap().picture;
        let mut steps = pipeline.steps(&plan, 0).unwrap();
        steps.next().unwrap().unwrap();
        // Nothing but the steps keeps the model open.
        drop(pipeline);
        let there = std::thread::spawn(move || {
            let view = steps.next().unwrap().unwrap();
            assert_eq!(view.step, 2);
            steps.preview(&view).unwrap();
            steps.finish().unwrap().picture
        });
        assert_eq!(there.join().unwrap().bytes(), here.bytes(), "{memory:?}");
    }
}

#[test]
fn images_of_a_run_are_made_side_by_side() {
    let pipeline = options().open_starter().unwrap();
    let run = pipeline.prepare(&pipeline.plan(&request(), 0).unwrap()).unwrap();
    let picture = |steps: Steps| steps.finish().unwrap().picture;
    let first = picture(run.steps([0]).unwrap());
    let all = std::thread::scope(|scope| {
        let steps = [run.steps([0]).unwrap(), run.steps([1]).unwrap()];
        let threads = steps.map(|steps| scope.spawn(move || picture(steps)));
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(all[0].bytes(), first.bytes());
    assert_eq!(all[1].bytes(), picture(run.steps([1]).unwrap()).bytes());
}
