//! Documents that list samplers, against the SPECs; and the places that `docs/how-to/add-a-sampler.md` names.
//! `UPDATE_DOCS=1` writes the lists anew.
#![allow(clippy::unwrap_used)]

use colora::sampling::{NoiseUse, Sampler, Schedule};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a file with what it should be, or writes it.
fn check(path: &Path, expected: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, expected).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(found == expected, "{}: run again with UPDATE_DOCS=1", path.display());
}

fn name(name: Option<&str>) -> String {
    name.map_or("–".into(), |name| format!("`{name}`"))
}

#[test]
fn the_table_of_samplers_is_that_of_the_specs() {
    let mut text = "# Samplers\n\n\
        | `--sampler` | A1111 | diffusers | k-diffusion | ComfyUI | order | evaluations a step | noise | options | source |\n\
        |---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for spec in Sampler::ALL.map(Sampler::spec) {
        let noise = match spec.noise {
            NoiseUse::Never => "none",
            NoiseUse::EveryStep => "every step but the last",
            NoiseUse::EveryEvaluation => "every evaluation but the last",
            NoiseUse::Churn => "with churn",
            NoiseUse::Restarts => "each restart",
            NoiseUse::Eta => "with `eta` above 0",
            other => panic!("no words for {other:?}"),
        };
        let options = spec.options.iter();
        let options: Vec<_> = options.map(|o| format!("`{}` ({})", o.name, o.default)).collect();
        text += &format!(
            "| `{}` | {} | {} | {} | {} | {} | {} | {noise} | {} | {} |\n",
            spec.name,
            spec.label,
            name(spec.names.diffusers),
            name(spec.names.k_diffusion),
            name(spec.names.comfyui),
            spec.order,
            spec.evaluations,
            if options.is_empty() { "–".into() } else { options.join(", ") },
            spec.source,
        );
    }
    text += "\nEvery name above is accepted, in any spelling. Noise levels are those of the scheduler of diffusers, \
        and of its port of Euler's method for samplers that it has not. The SDE samplers follow a Brownian path for \
        each picture, as in k-diffusion, A1111 and ComfyUI (`--rng` says whose noise). [How far each is from its reference](samplers-measured.md).\n\n\
        # Schedules\n\n| `--schedule` | A1111 | levels |\n|---|---|---|\n";
    for schedule in Schedule::ALL {
        let spec = schedule.spec();
        let labels = schedule.labels().collect::<Vec<_>>().join(", ");
        text += &format!("| `{}` | {labels} | {} |\n", spec.name, spec.source);
    }
    check(&root().join("docs/samplers.md"), &text);
}

#[test]
fn the_readme_counts_the_samplers() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let counts =
        format!("one of {} samplers and {} schedules", Sampler::ALL.len(), Schedule::ALL.len());
    assert!(text.contains(&counts), "README.md: {counts}");
}

#[test]
fn the_how_to_names_places_that_exist() {
    let text = fs::read_to_string(root().join("docs/how-to/add-a-sampler.md")).unwrap();
    let quoted = || text.split('`').skip(1).step_by(2);
    let paths = quoted().filter(|word| word.contains('/') && !word.contains([' ', '=']));
    let paths: Vec<&str> = paths.filter(|path| !path.contains("NAME")).collect();
    assert!(paths.len() >= 14, "{paths:?}");
    for path in paths {
        assert!(root().join(path).exists(), "{path} is not there");
    }
    for folder in ["src/sampling/samplers", "tests/goldens/samplers"] {
        assert!(
            text.contains(&format!("{folder}/NAME")) && root().join(folder).is_dir(),
            "{folder}"
        );
    }
    for (file, words) in [
        ("src/sampling/samplers/euler.rs", &["const SPEC", "impl Integrator", "fn step"][..]),
        ("src/sampling/samplers/mod.rs", &["samplers!"]),
        ("src/sampling/spec.rs", &["SamplerSpec", "NoiseUse", "begin", "grids"]),
        ("src/sampling/grid.rs", &["GridRules", "Own(", "target", "timestep"]),
        ("src/sampling/process.rs", &["fn ancestral", "fn add_noise", "fn scale_input"]),
        ("src/sampling/formulas.rs", &["fn pull"]),
        ("src/sampling/noise.rs", &["fn between"]),
        ("src/sampling/options.rs", &["struct OptionSpec", "fn value"]),
        ("src/sampling/plan.rs", &["samplers_converge_with_their_order"]),
        ("src/pipeline/run.rs", &["fn steps_with"]),
        ("tests/goldens/make_newer_samplers.py", &["SAMPLERS"]),
        ("tests/cli/verbs.rs", &["UPDATE_SNAPSHOTS"]),
    ] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        for word in words {
            assert!(text.contains(word), "{file} has no {word}");
        }
    }
}
