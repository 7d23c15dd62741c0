//! What happens at each step of a plan: the one answer to "which networks act at step i, on what, and how much of
//! them is evaluated". A [`Timeline`] is data; it is made from a plan without reading or running a network.
//!
//! It answers for step windows of LoRAs, LoRA Switch, LoRA Composite, the interval of guidance, and the reuse of
//! deep features. What is to come has its place: a prompt schedule adds the prompt's number to [`Estimate`]; the
//! hand-over to a refiner and another stack for a second pass add a model's number to it; a window of a ControlNet,
//! and guidance that changes from step to step, add a field to [`Phase`].

use super::Plan;
use crate::lora::{Method, StepWindow};
use std::collections::HashMap;

/// What a LoRA does, as far as the timeline needs it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Role {
    /// An identity of its change of the text encoders; `None` when it does not change them.
    pub text: Option<String>,
    /// An identity of its change of the UNet; `None` when it does not change it.
    pub unet: Option<String>,
    /// The steps at which it acts on the UNet; `None` = all.
    pub steps: Option<StepWindow>,
}

/// LoRAs that act together: their places in the plan's stack.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Acting {
    /// Places in the plan's stack, rising.
    pub members: Vec<usize>,
    /// How their changes are put together.
    pub method: Method,
}

/// What one estimate of the clean latents is made from. It names places in [`Timeline::texts`] and
/// [`Timeline::unets`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Estimate {
    /// The LoRAs of the text encoders that make its text features.
    pub text: usize,
    /// The LoRAs of its UNet.
    pub unet: usize,
}

/// How much of a UNet is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Depth {
    /// All of it, and nothing is kept.
    Whole,
    /// All of it; what its deep layers give is kept for evaluations to come.
    Keeping,
    /// The finest layers alone, over what the evaluation of the same number within the last [`Keeping`](Self::Keeping)
    /// step left. An evaluation that was not made then is made as a whole.
    Finest,
}

/// One of the estimates whose mean a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Phase {
    /// Its place in [`Timeline::estimates`].
    pub estimate: usize,
    /// Whether the negative prompt is evaluated too.
    pub guided: bool,
    /// How much of the network is evaluated.
    pub depth: Depth,
}

/// What happens at each step of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    texts: Vec<Acting>,
    unets: Vec<Acting>,
    estimates: Vec<Estimate>,
    steps: Vec<Vec<Phase>>,
}

impl Timeline {
    /// The timeline of `plan`, whose LoRAs have these roles.
    ///
    /// `two_evaluations`: whether the network is guided by evaluating the negative prompt too. Networks distilled for
    /// few steps may take the strength of guidance as a number instead.
    pub fn new(plan: &Plan, roles: &[Role], two_evaluations: bool) -> Self {
        let mut builder = Builder::default();
        let steps = (0..plan.steps).map(|step| {
            let inside = plan.guidance_interval.is_none_or(|w| w.active(step, plan.steps));
            let guided = plan.guided() && two_evaluations && inside;
            let acting = acting(plan, roles, step);
            let phase = |(text, unet)| builder.phase(plan, step, (text, unet, guided), roles);
            acting.into_iter().map(phase).collect()
        });
        let steps = steps.collect();
        Self {
            texts: builder.texts.acting,
            unets: builder.unets.acting,
            estimates: builder.estimates,
            steps,
        }
    }

    /// Every group of LoRAs that acts on the text encoders.
    pub fn texts(&self) -> &[Acting] {
        &self.texts
    }

    /// Every group of LoRAs that acts on the UNet.
    pub fn unets(&self) -> &[Acting] {
        &self.unets
    }

    /// Every distinct estimate that some step takes.
    pub fn estimates(&self) -> &[Estimate] {
        &self.estimates
    }

    /// Steps in all.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// The estimates whose mean step `step` (from 0) takes; none behind the last step.
    pub fn at(&self, step: usize) -> &[Phase] {
        self.steps.get(step).map_or(&[], Vec::as_slice)
    }
}

/// Groups of LoRAs, each once.
#[derive(Debug, Default)]
struct Groups {
    acting: Vec<Acting>,
    known: HashMap<(String, Vec<String>), usize>,
}

impl Groups {
    /// The place of the group that does the same as `acting`; `names`: what each member does.
    fn place(&mut self, acting: Acting, mut names: Vec<String>) -> usize {
        // Where the order of changes does not matter, the order of members does not.
        if !acting.method.is_ordered() {
            names.sort();
        }
        let next = self.acting.len();
        let place = *self.known.entry((acting.method.to_string(), names)).or_insert(next);
        if place == next {
            self.acting.push(acting);
        }
        place
    }
}

#[derive(Debug, Default)]
struct Builder {
    texts: Groups,
    unets: Groups,
    estimates: Vec<Estimate>,
    /// The last step that kept deep features, of each estimate with and without guidance.
    kept: HashMap<(usize, bool), usize>,
}

impl Builder {
    fn phase(
        &mut self,
        plan: &Plan,
        step: usize,
        (text, unet, guided): (Acting, Acting, bool),
        roles: &[Role],
    ) -> Phase {
        let named = |acting: Acting, name: fn(&Role) -> Option<&String>| {
            let acts = |member: &usize| name(&roles[*member]).cloned();
            let (members, names) =
                acting.members.into_iter().filter_map(|m| Some((m, acts(&m)?))).unzip();
            (Acting { members, ..acting }, names)
        };
        let (text, names) = named(text, |role| role.text.as_ref());
        let text = self.texts.place(text, names);
        let (unet, names) = named(unet, |role| role.unet.as_ref());
        let unet = self.unets.place(unet, names);
        let wanted = Estimate { text, unet };
        let known = self.estimates.iter().position(|known| *known == wanted);
        let estimate = known.unwrap_or_else(|| {
            self.estimates.push(wanted);
            self.estimates.len() - 1
        });
        let depth = self.depth(step, plan.reuse, (estimate, guided));
        Phase { estimate, guided, depth }
    }

    fn depth(&mut self, step: usize, every: usize, of: (usize, bool)) -> Depth {
        if every <= 1 {
            return Depth::Whole;
        }
        match self.kept.get(&of) {
            Some(kept) if *kept < step && step - kept < every => Depth::Finest,
            _ => {
                self.kept.insert(of, step);
                Depth::Keeping
            }
        }
    }
}

/// The groups of LoRAs (on the text encoders, on the UNet) whose estimates make step `step`.
fn acting(plan: &Plan, roles: &[Role], step: usize) -> Vec<(Acting, Acting)> {
    let active = |member: &usize| roles[*member].steps.is_none_or(|w| w.active(step, plan.steps));
    let now = |members: Vec<usize>, method| {
        let members = members.into_iter().filter(active).collect();
        Acting { members, method }
    };
    match plan.lora_method {
        Method::Switch { period } => {
            let turn = (step / period.max(1)) % roles.len().max(1);
            let members = if roles.is_empty() { Vec::new() } else { vec![turn] };
            let now = now(members, Method::Sum);
            vec![(now.clone(), now)]
        }
        Method::Composite if !roles.is_empty() => {
            let alone = |member| {
                let now = now(vec![member], Method::Sum);
                (now.clone(), now)
            };
            (0..roles.len()).map(alone).collect()
        }
        // Text features are computed once, so a step window acts on the UNet alone.
        method => {
            let all: Vec<usize> = (0..roles.len()).collect();
            vec![(Acting { members: all.clone(), method }, now(all, method))]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::Defaults;
    use crate::pipeline::Request;

    fn plan(request: Request) -> Plan {
        Request { steps: Some(request.steps.unwrap_or(6)), ..request }
            .plan(&Defaults::default(), 0)
            .unwrap()
    }

    fn role(name: &str, steps: Option<&str>) -> Role {
        let (text, unet) = (Some(format!("text {name}")), Some(format!("unet {name}")));
        Role { text, unet, steps: steps.map(|steps| steps.parse().unwrap()) }
    }

    /// The members of the UNet's group of each estimate, step by step.
    fn unets(timeline: &Timeline) -> Vec<Vec<Vec<usize>>> {
        let group = |phase: &Phase| {
            timeline.unets()[timeline.estimates()[phase.estimate].unet].members.clone()
        };
        (0..timeline.steps()).map(|i| timeline.at(i).iter().map(group).collect()).collect()
    }

    #[test]
    fn without_loras_every_step_is_alike() {
        let plan = plan(Request::default());
        let timeline = Timeline::new(&plan, &[], true);
        assert_eq!((timeline.steps(), timeline.estimates().len()), (6, 1));
        let phase = Phase { estimate: 0, guided: true, depth: Depth::Whole };
        assert!((0..6).all(|step| timeline.at(step) == [phase]));
        assert!(timeline.at(6).is_empty());
        // Guidance that the network takes as a number is no second evaluation.
        assert!(!Timeline::new(&plan, &[], false).at(0)[0].guided);
    }

    #[test]
    fn a_window_acts_on_the_unet_alone() {
        let roles = [role("a", None), role("b", Some("2..4"))];
        let timeline = Timeline::new(&plan(Request::default()), &roles, true);
        let (one, both) = (vec![vec![0]], vec![vec![0, 1]]);
        assert_eq!(unets(&timeline), [&one, &one, &both, &both, &one, &one].map(Clone::clone));
        assert_eq!(timeline.texts().len(), 1);
        assert_eq!(timeline.texts()[0].members, [0, 1]);
        assert_eq!(timeline.estimates().len(), 2);
        // A window around all steps, or of something that leaves the UNet alone, changes nothing.
        for other in [role("b", Some("0..6")), Role { unet: None, ..role("b", Some("2..4")) }] {
            let roles = [role("a", None), other];
            let timeline = Timeline::new(&plan(Request::default()), &roles, true);
            assert_eq!(timeline.estimates().len(), 1);
        }
    }

    #[test]
    fn switch_takes_turns_and_composite_takes_all() {
        let roles = [role("a", None), role("b", None)];
        let with = |method: &str| {
            let request = Request { lora_method: method.parse().unwrap(), ..Request::default() };
            Timeline::new(&plan(request), &roles, true)
        };
        let (a, b) = (vec![vec![0]], vec![vec![1]]);
        let switch = with("switch:period=2");
        assert_eq!(unets(&switch), [&a, &a, &b, &b, &a, &a].map(Clone::clone));
        assert_eq!((switch.texts().len(), switch.estimates().len()), (2, 2));
        let composite = with("composite");
        assert_eq!(unets(&composite), vec![vec![vec![0], vec![1]]; 6]);
        assert_eq!(composite.unets()[0].method, Method::Sum);
        // The same LoRA twice is one network.
        let twice = [role("a", None), role("a", None)];
        let request = Request { lora_method: Method::Composite, ..Request::default() };
        assert_eq!(Timeline::new(&plan(request), &twice, true).estimates().len(), 1);
        let none = Request { lora_method: Method::Composite, ..Request::default() };
        assert_eq!(Timeline::new(&plan(none), &[], true).at(0).len(), 1);
    }

    #[test]
    fn guidance_acts_in_its_interval() {
        let interval = "1..3".parse().ok();
        let guided = |request: Request| -> Vec<bool> {
            let timeline = Timeline::new(&plan(request), &[], true);
            (0..6).map(|step| timeline.at(step)[0].guided).collect()
        };
        let request = Request { guidance_interval: interval, ..Request::default() };
        assert_eq!(guided(request.clone()), [false, true, true, false, false, false]);
        assert_eq!(guided(Request { guidance_scale: Some(1.0), ..request }), [false; 6]);
    }

    fn depths(timeline: &Timeline) -> Vec<Vec<Depth>> {
        let depth = |phase: &Phase| phase.depth;
        (0..timeline.steps()).map(|i| timeline.at(i).iter().map(depth).collect()).collect()
    }

    #[test]
    fn features_are_reused_by_what_kept_them() {
        let (keep, fine) = (vec![Depth::Keeping], vec![Depth::Finest]);
        let request = Request { reuse: 3, ..Request::default() };
        let simple = Timeline::new(&plan(request.clone()), &[], true);
        assert_eq!(depths(&simple), [&keep, &fine, &fine, &keep, &fine, &fine].map(Clone::clone));
        // With and without guidance there are features of their own.
        let interval = "2..4".parse().ok();
        let guided = Request { guidance_interval: interval, ..request.clone() };
        let guided = Timeline::new(&plan(guided), &[], true);
        assert_eq!(depths(&guided), [&keep, &fine, &keep, &fine, &keep, &fine].map(Clone::clone));
        // So are there of every network: each is whole at its own first step.
        let switch = Request { lora_method: Method::Switch { period: 1 }, ..request };
        let roles = [role("a", None), role("b", None)];
        let switch = Timeline::new(&plan(switch), &roles, true);
        assert_eq!(depths(&switch), [&keep, &keep, &fine, &fine, &keep, &keep].map(Clone::clone));
    }

    /// An estimate that counts twice in a mean is no step of its own.
    #[test]
    fn the_same_step_reuses_nothing() {
        let request = Request { reuse: 2, lora_method: Method::Composite, ..Request::default() };
        let roles = [role("a", Some("..1")), role("b", Some("..1"))];
        let timeline = Timeline::new(&plan(request), &roles, true);
        assert_eq!(timeline.at(1).len(), 2);
        assert!(timeline.at(1).iter().all(|phase| phase.depth == Depth::Keeping));
        assert!(timeline.at(2).iter().all(|phase| phase.depth == Depth::Finest));
    }
}
