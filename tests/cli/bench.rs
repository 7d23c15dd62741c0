//! `colora bench`.

use super::world::{World, json};
use serde_json::Value;

/// Seconds that may be anything but nonsense.
fn seconds(value: &Value) -> f64 {
    let time = value.as_f64().unwrap();
    assert!((0.0..600.0).contains(&time), "{time}");
    time
}

#[test]
fn a_model_is_measured() {
    let world = World::new();
    let found =
        json(&world.run(&["bench", "--size", "64x64", "--steps", "2", "--repeat", "2", "--json"]));
    assert_eq!((&found["event"], &found["model"]), (&"bench".into(), &"sd15".into()));
    assert_eq!((&found["device"], &found["dtype"]), (&"cpu".into(), &"f32".into()));
    // torch 2.15's FlopCounterMode over diffusers 0.42.1 on this model: batch 2 at 8x8 cells, and decoding.
    let summary = &found["summary"];
    assert_eq!(summary["step"]["operations"], 15_305_216);
    assert_eq!(summary["decode"]["operations"], 39_036_928);
    for part in ["open", "load", "compose", "encode", "step", "decode"] {
        let [min, median, max] = ["min", "median", "max"].map(|key| seconds(&summary[part][key]));
        assert!(min <= median && median <= max, "{part}");
    }
    let runs = found["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert_eq!(run["steps"].as_array().unwrap().len(), 2);
        assert!(!cfg!(target_os = "linux") || run["peak_bytes"].as_u64().unwrap() > 1 << 20);
    }
    for rate in ["f32_operations", "bf16_operations", "read_bytes", "copy_bytes"] {
        assert!(found["ceilings"][format!("{rate}_per_second")].as_f64().unwrap() > 1e6, "{rate}");
    }
    let rate = summary["step"]["operations_per_second"].as_f64().unwrap();
    let share = summary["step"]["share_of_ceiling"].as_f64().unwrap();
    let ceiling = found["ceilings"]["f32_operations_per_second"].as_f64().unwrap();
    assert!((rate / ceiling - share).abs() < 1e-9);
    assert!(world.files().is_empty(), "nothing is saved");
}

#[test]
fn a_table_of_the_starter_with_a_lora() {
    let world = World::new();
    let lora = concat!(env!("CARGO_MANIFEST_DIR"), "/loras/flat.safetensors");
    let arguments =
        ["bench", "-m", "starter", "-l", lora, "--size", "64x64", "-s1", "--cpu", "portable"];
    let text = world.run(&arguments);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("starter  64x64  f32 on cpu, portable, "), "{text}");
    assert!(lines[0].ends_with("LoRAs: 1") && lines[1].starts_with("ceilings  f32 "), "{text}");
    for part in ["open ", "load ", "compose ", "encode ", "step ", "decode "] {
        assert!(lines.iter().any(|line| line.starts_with(part)), "{part}: {text}");
    }
    let step = lines.iter().find(|line| line.starts_with("step ")).unwrap();
    assert!(step.ends_with(" %"), "{text}");
}

#[test]
fn what_cannot_be_measured() {
    let world = World::new();
    for (code, arguments, part) in [
        (2, &["bench", "--repeat", "0"][..], "repeat = 0"),
        (2, &["bench", "--steps", "0"], "steps = 0"),
        (2, &["bench", "--size", "65x64"], "multiple of 8"),
        (2, &["bench", "--cpu", "mmx"], "avx512"),
        (2, &["bench", "--threads", "0"], "threads = 0"),
        (2, &["bench", "a fox"], "unexpected argument"),
        (4, &["bench", "-m", "nothing"], "no model named `nothing`"),
        (4, &["bench", "-l", "nothing"], "no LoRA named `nothing`"),
    ] {
        let error = world.fail(code, arguments);
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
}
