"""Times diffusers + PEFT for the work of `cargo bench --bench compose`: adapters from files into the weights.

    python diffusers_lora_bench.py MODEL LORAS [DEVICE]

In bf16 and in f32, on a device other than the CPU in f16, for 1, 2, 4 and 8 LoRAs of rank 16, one LoCon of rank 64, and one of each: seconds of load_lora_weights (all), fuse_lora, changing one
weight (unfuse, set_adapters, fuse), and the peak of resident memory. One JSON line each.
"""

import gc
import json
import os
import pathlib
import resource
import sys
import time

import torch
from diffusers import DiffusionPipeline


def evict(path):
    """Drops a file from the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(model, dtype, files, device):
    pipe = DiffusionPipeline.from_pretrained(model, dtype=dtype).to(device)
    # The weights are mapped lazily; touch them so that the fuse below does not pay for reading.
    for part in (pipe.unet, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
        if part is not None:
            sum(float(p.sum()) for p in part.parameters())
    for file in files:
        evict(file)
    names = [f"a{i}" for i in range(len(files))]
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None

    def now():
        wait()
        return time.perf_counter()

    start = now()
    for name, file in zip(names, files):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    pipe.set_adapters(names, [0.8] * len(names))
    loaded = now()
    pipe.fuse_lora(adapter_names=names)
    fused = now()
    pipe.unfuse_lora()
    pipe.set_adapters(names, [0.5] + [0.8] * (len(names) - 1))
    pipe.fuse_lora(adapter_names=names)
    again = now()
    return {"peer": "diffusers", "dtype": str(dtype), "files": [f.stem for f in files], "load_s": round(loaded - start, 3),
            "fuse_s": round(fused - loaded, 3), "total_s": round(fused - start, 3), "reweight_s": round(again - fused, 3),
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def main():
    model, loras = sys.argv[1], pathlib.Path(sys.argv[2])
    many = [loras / f"r16-{i}.safetensors" for i in range(8)]
    locon = loras / "locon64.safetensors"
    device = sys.argv[3] if len(sys.argv) > 3 else "cpu"
    for dtype in (torch.bfloat16, torch.float32) if device == "cpu" else (torch.float16,):
        for files in (many[:1], many[:2], many[:4], many, [locon], [many[0], locon]):
            print(json.dumps(run(model, dtype, files, device)), flush=True)
            gc.collect()


if __name__ == "__main__":
    main()
