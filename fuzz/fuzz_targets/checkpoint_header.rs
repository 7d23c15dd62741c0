#![no_main]
//! Any bytes as a checkpoint: safetensors, torch archives, pickles. Reading must never panic.

use colora::weights::CheckpointFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = CheckpointFile::from_vec(bytes.to_vec(), "fuzz") else { return };
    let names: Vec<String> = file.names().take(16).map(str::to_owned).collect();
    for name in names {
        let _ = file.info(&name);
        let _ = file.read_f32(&name, None);
        let _ = file.read_f32(&name, Some(0..1));
    }
});
