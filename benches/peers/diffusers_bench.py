"""Times diffusers for the work of `colora bench`.

    python diffusers_bench.py MODEL --size 512 --steps 3 [--dtype bf16] [--channels-last] [--repeat 3]

Prints one JSON line a picture: seconds to load, encode, of each step (guidance on: batch 2) and to decode, peak of
resident memory.
"""

import argparse
import json
import resource
import time

import torch
from diffusers import DiffusionPipeline


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", choices=["f32", "bf16", "f16"], default="f32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile of UNet and decoder")
    args = parser.parse_args()
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[args.dtype]
    wait = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None

    def now():
        wait()
        return time.perf_counter()

    start = now()
    pipe = DiffusionPipeline.from_pretrained(args.model, dtype=dtype).to(args.device)
    if args.channels_last:
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if args.compile:
        pipe.unet.forward = torch.compile(pipe.unet.forward)
        pipe.vae.decode = torch.compile(pipe.vae.decode)
    loaded = now()
    pipe.set_progress_bar_config(disable=True)
    if args.device != "cpu":  # the first picture tunes and compiles
        pipe("warm", num_inference_steps=2, guidance_scale=7.5, height=args.size, width=args.size)

    encode, texts = pipe.encode_prompt, []

    def timed_encode(*words, **named):
        begin = now()
        features = encode(*words, **named)
        texts.append(now() - begin)
        return features

    pipe.encode_prompt = timed_encode
    # A step is from the first call of the UNet to the callback, and from callback to callback.
    marks = []
    pipe.unet.register_forward_pre_hook(lambda *_: None if marks else marks.append(now()))
    for _ in range(args.repeat):
        marks.clear()
        texts.clear()
        latents = pipe("a red fox in the snow", negative_prompt="blurry", num_inference_steps=args.steps,
                       guidance_scale=7.5, height=args.size, width=args.size, output_type="latent",
                       callback_on_step_end=lambda _p, _i, _t, kw: marks.append(now()) or kw).images
        begin = now()
        with torch.no_grad():
            pipe.vae.decode(latents / pipe.vae.config.scaling_factor)
        decoded = now()
        print(json.dumps({
            "peer": "diffusers", "dtype": args.dtype, "channels_last": args.channels_last,
            "device": args.device, "compile": args.compile,
            "load_s": round(loaded - start, 3), "text_s": round(sum(texts), 4),
            "step_s": [round(b - a, 4) for a, b in zip(marks, marks[1:])], "decode_s": round(decoded - begin, 4),
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}), flush=True)


if __name__ == "__main__":
    main()
