//! `colora doctor`: what this build and this machine can do.

use super::style::{bytes, result_json, result_line, value as shown};
use super::{env, setup};
use crate::app::{SCHEMA, Setup};
use crate::config::files;
use crate::error::Error;
use crate::pipeline::{DeviceChoice, Pipeline};
use crate::room;
use crate::weights::Instructions;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::path::Path;

/// What `colora doctor` accepts.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Most devices of a kind that are looked for.
const MOST_DEVICES: usize = 16;

/// Runs `colora doctor`; fails when the built-in model does not open.
pub(super) fn run(args: &Args) -> Result<()> {
    let starter = Pipeline::options().device(DeviceChoice::Cpu).open_starter();
    let report = report(&starter)?;
    if args.json {
        let mut value = json!({ "schema": SCHEMA, "event": "doctor" });
        if let Some(object) = value.as_object_mut() {
            object.extend(report);
        }
        result_json(&value.to_string())?;
    } else {
        for (key, value) in &report {
            result_line(&format!("{key:9} {}", text(value)))?;
        }
    }
    starter.map(drop).map_err(|e| anyhow::Error::new(e).context("the built-in model does not open"))
}

fn report(starter: &Result<Pipeline, Error>) -> Result<Map<String, Value>> {
    let Setup { store, .. } = setup()?;
    let place = |path: &Path| json!({ "path": path.to_string_lossy(), "exists": path.exists() });
    let folders: Vec<Value> = store.folders().iter().map(|p| place(p)).collect();
    let loras: Vec<Value> = store.lora_folders().iter().map(|p| place(p)).collect();
    let configs: Vec<Value> = files(Path::new("."), &env).iter().map(|p| place(p)).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    put("version", env!("CARGO_PKG_VERSION").into());
    put("target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS).into());
    put("features", features().into());
    put("cpu", cpu().into());
    put("kernels", Instructions::used().name().into());
    put("cores", cores.into());
    put("memory", memory().unwrap_or_default());
    put("devices", devices().into());
    put("models", folders.into());
    put("loras", loras.into());
    put("hub cache", place(store.cache().root()));
    put(
        "hub",
        if store.cache().offline() {
            "offline".into()
        } else {
            store.cache().shown_endpoint().into()
        },
    );
    put("config", configs.into());
    let starter = starter.as_ref().map_or_else(ToString::to_string, |_| "ok".to_owned());
    put("starter", starter.into());
    Ok(map)
}

/// A value for people.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => shown(text).into_owned(),
        Value::Object(object) if object.contains_key("free") => {
            let part = |name: &str| object.get(name).and_then(Value::as_u64).map(bytes);
            let of = |name: &str| part(name).unwrap_or_default();
            let limit = part("limit").map(|size| format!(", limited to {size}"));
            format!("{} free of {}{}", of("free"), of("total"), limit.unwrap_or_default())
        }
        Value::Object(place) => {
            let path = place.get("path").and_then(Value::as_str).unwrap_or_default();
            let missing = place.get("exists").and_then(Value::as_bool) == Some(false);
            format!("{}{}", shown(path), if missing { " (not there)" } else { "" })
        }
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => {
            let places = items.iter().any(Value::is_object);
            let items: Vec<String> = items.iter().map(text).collect();
            items.join(if places { "\n          " } else { " " })
        }
        other => other.to_string(),
    }
}

/// Features that this build has.
fn features() -> Vec<&'static str> {
    let all = [
        ("cli", cfg!(feature = "cli")),
        ("hub", cfg!(feature = "hub")),
        ("cuda", cfg!(feature = "cuda")),
        ("cudnn", cfg!(feature = "cudnn")),
        ("metal", cfg!(feature = "metal")),
        ("accelerate", cfg!(feature = "accelerate")),
        ("mkl", cfg!(feature = "mkl")),
    ];
    all.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect()
}

/// Devices that open, as `--device` names them.
fn devices() -> Vec<String> {
    let opens = |choice: DeviceChoice| choice.open().is_ok();
    let mut found = vec!["cpu".to_owned()];
    if cfg!(feature = "cuda") {
        let cuda = (0..MOST_DEVICES).take_while(|i| opens(DeviceChoice::Cuda(*i)));
        found.extend(cuda.map(|i| format!("cuda:{i}")));
    }
    if cfg!(feature = "metal") && opens(DeviceChoice::Metal(0)) {
        found.push("metal".to_owned());
    }
    found
}

/// Vector instructions that this processor has.
#[cfg(target_arch = "x86_64")]
fn cpu() -> Vec<&'static str> {
    let all = [
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    all.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect()
}

/// Vector instructions that this processor has.
#[cfg(target_arch = "aarch64")]
fn cpu() -> Vec<&'static str> {
    let all = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
    ];
    all.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect()
}

/// Vector instructions are not asked for on other processors.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu() -> Vec<&'static str> {
    Vec::new()
}

/// Bytes of memory that are free and that there are, and the limit of the control group if there is one; Linux
/// only.
fn memory() -> Option<Value> {
    let machine = room::machine()?;
    Some(json!({ "free": machine.free, "total": machine.total, "limit": machine.limit }))
}
