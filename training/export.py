"""Writes the starter model's folder: diffusers layout, f16.

    python export.py --model work/starter --vae work/starter.vae --card card.md --out models/starter

train_unet.py writes `work/starter` with `write_model` every few minutes; this adds the newest decoder,
the model card and colora.toml, checks that diffusers loads it, and puts it in place with one rename.
"""

import argparse
import copy
import json
import pathlib
import shutil

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

LIMIT = 16 * 2**20

DEFAULTS = """default_size = "{size}x{size}"
default_steps = {steps}
default_guidance = {guidance}
default_sampler = "dpmpp-2m"
default_schedule = "{schedule}"
"""


def half(network):
    """A copy in f16; the network itself stays as it is."""
    return copy.deepcopy(network).to(torch.float16)


def write_model(folder, vae, text, unet, tokenizer, tokenizer_folder, scheduler):
    temporary = folder.with_name(folder.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    pipe = StableDiffusionPipeline(half(vae), half(text), tokenizer, half(unet), scheduler, None, None,
                                   requires_safety_checker=False)
    pipe.save_pretrained(temporary, max_shard_size="15MB")
    # The four files of CLIP's own tokenizer, and its names with the prefix that every reader knows.
    shutil.rmtree(temporary / "tokenizer")
    shutil.copytree(tokenizer_folder, temporary / "tokenizer")
    for weights in (temporary / "text_encoder").glob("*.safetensors"):
        tensors = {"text_model." + k.removeprefix("text_model."): v for k, v in load_file(weights).items()}
        save_file(tensors, weights, {"format": "pt"})
    for index in (temporary / "text_encoder").glob("*.index.json"):
        content = json.loads(index.read_text())
        content["weight_map"] = {"text_model." + k.removeprefix("text_model."): v
                                 for k, v in content["weight_map"].items()}
        index.write_text(json.dumps(content, indent=2) + "\n")
    strip_paths(temporary)
    replace(temporary, folder)


def strip_paths(folder):
    """Configs remember where a network was loaded from; that is nobody's business."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(content, indent=2) + "\n")


def replace(new, folder):
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--vae", type=pathlib.Path, help="newer decoder for the same latents")
    parser.add_argument("--card", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--schedule", default="karras")
    args = parser.parse_args()
    temporary = args.out.with_name("." + args.out.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(args.model, temporary)
    if args.vae:
        shutil.rmtree(temporary / "vae")
        AutoencoderKL.from_pretrained(args.vae).to(torch.float16).save_pretrained(
            temporary / "vae", max_shard_size="15MB")
        strip_paths(temporary)
    shutil.copy(args.card, temporary / "README.md")
    (temporary / "colora.toml").write_text(
        DEFAULTS.format(size=args.size, steps=args.steps, guidance=args.guidance, schedule=args.schedule))
    files = [p for p in temporary.rglob("*") if p.is_file()]
    for path in files:
        if path.stat().st_size >= LIMIT:
            raise SystemExit(f"{path.name} is over {LIMIT} bytes")
    StableDiffusionPipeline.from_pretrained(temporary)
    for path in files:
        path.chmod(0o644)
    replace(temporary, args.out)
    print(len(files), "files,", sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file()) / 1e6, "MB")


if __name__ == "__main__":
    main()
