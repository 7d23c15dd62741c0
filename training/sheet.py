"""Draws a 4x4 sheet for the sixteen captions of the bar.

    python sheet.py work/starter sheet.png --guidance 5 --steps 20
"""

import argparse

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

CAPTIONS = ["apple", "cat face", "rocket", "octopus", "pizza", "heart", "robot", "sunflower", "house", "car",
            "penguin", "mushroom", "crown", "guitar", "snowman", "grinning face"]

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--guidance", type=float, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schedule", choices=["karras", "discrete"], default="karras")
    parser.add_argument("--captions", nargs="+", default=CAPTIONS)
    args = parser.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.float32)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, use_karras_sigmas=args.schedule == "karras")
    generators = [torch.Generator().manual_seed(args.seed + i) for i in range(len(args.captions))]
    pictures = pipe(args.captions, num_inference_steps=args.steps, guidance_scale=args.guidance,
                    generator=generators).images
    side = pictures[0].width
    sheet = Image.new("RGB", (4 * side, (len(pictures) + 3) // 4 * side), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % 4 * side, i // 4 * side))
    sheet.save(args.out)
