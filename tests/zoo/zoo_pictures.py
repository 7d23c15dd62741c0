"""Whole pictures with adapters through the real diffusers pipelines: pictures.json and pictures.safetensors.

NAME.picture u8 [H,W,3]; NAME.latents f32 [4,h,w] after the last step, before the division by the scaling factor.
`floor`: how far this is from the same pipeline in f64 with the goldens' laws merged into its weights (no adapter code of
diffusers at all), so it also shows that diffusers read the file as the goldens do.
"""

import json

from zoo_bases import *
from zoo_store import VERSIONS, laws, write

EULER = {"scheduler": "EulerDiscreteScheduler", "options": {}}
DDIM = {"scheduler": "DDIMScheduler", "options": {}}
CASES = [  # name, base, [(file, weight)], sampler, settings
    ("sd15.none", "sd15", [], EULER, {}),
    ("sd15.one", "sd15", [("sd15-uniform-a", 1.0)], EULER, {}),
    ("sd15.one_08", "sd15", [("sd15-uniform-b", 0.8)], DDIM, {"seed": 42}),
    ("sd15.two", "sd15", [("sd15-uniform-a", 0.8), ("sd15-uniform-b", 0.6)], EULER, {}),
    ("sd15.negative", "sd15", [("sd15-uniform-a", -0.5)], EULER, {"seed": 42}),
    ("sd15.peft", "sd15", [("sd15-peft", 1.0)], EULER, {"cfg": 1.0}),
    ("sd2.none", "sd2", [], EULER, {}),
    ("sd2.one_08", "sd2", [("sd2-peft", 0.8)], EULER, {}),
    ("sd2.negative", "sd2", [("sd2-peft", -0.6)], DDIM, {"seed": 42}),
    ("sd2.peft", "sd2", [("sd2-peft", 1.0)], EULER, {"cfg": 1.0}),
    ("sdxl.none", "sdxl", [], EULER, {}),
    ("sdxl.one_08", "sdxl", [("sdxl-uniform-a", 0.8)], EULER, {}),
    ("sdxl.two", "sdxl", [("sdxl-uniform-a", 0.8), ("sdxl-uniform-b", 0.6)], EULER, {}),
    ("sdxl.peft", "sdxl", [("sdxl-peft", 1.3)], DDIM, {"seed": 42}),
]


def load(base: str, dtype):
    folder = str(GOLDENS / base)
    if base == "sdxl":
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False, torch_dtype=dtype)
    else:
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(
            folder, safety_checker=None, requires_safety_checker=False, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, case: dict) -> tuple[torch.Tensor, torch.Tensor]:
    config = pipe.scheduler.config if not hasattr(pipe, "first") else pipe.first
    pipe.first = config
    pipe.scheduler = getattr(diffusers, case["scheduler"]).from_config(config, **case["options"])
    kept = {}

    def keep(_pipe, _index, _time, state):
        kept["latents"] = state["latents"].detach().clone()
        return state

    noise = torch.randn(1, 4, case["height"] // 8, case["width"] // 8, generator=torch.Generator("cpu").manual_seed(case["seed"]))
    shown = pipe(prompt=case["prompt"], negative_prompt=case["negative_prompt"], guidance_scale=case["guidance_scale"],
                 num_inference_steps=case["steps"], latents=noise.to(pipe.unet.dtype), width=case["width"], height=case["height"],
                 callback_on_step_end=keep, output_type="np").images
    return torch.from_numpy((shown[0] * 255).round().astype("uint8")), kept["latents"][0]


def merged(pipe, base: str, files: list, zoo) -> None:
    """W + Σ (W_i' - W) by the laws, in f64."""
    change = {}
    for name, weight in files:
        for module, (roles, meta) in zoo.roles[name].items():
            before = {leaf: weights(base).get(f"{module}.{leaf}") for leaf in ("weight", "bias")}
            for leaf, value in laws.effect(roles, before["weight"], before["bias"], weight, meta).items():
                site = f"{module}.{leaf}"
                change[site] = change.get(site, 0) + value - before[leaf]
    for part in parts(base):
        for path, value in getattr(pipe, part).named_parameters():
            site = site_of(part, path)
            if site in change:
                value.copy_(weights(base)[site] + change.pop(site))
    assert not change, sorted(change)


def make(zoo) -> None:
    tensors, listed = {}, []
    entries = {e["name"]: e for e in zoo.entries}
    for name, base, files, sampler, more in CASES:
        case = {"name": name, "model": base, **sampler, "prompt": "a photo of a cat", "negative_prompt": "blurry, low quality",
                "guidance_scale": more.get("cfg", 5.0), "seed": more.get("seed", 0), "width": 64, "height": 64, "steps": 4,
                "adapters": [{"name": n, "file": entries[n]["file"], "weight": w} for n, w in files]}
        pipe = load(base, torch.float32)
        plain, _ = run(pipe, case)
        for adapter, _ in files:
            pipe.load_lora_weights(str(HERE / entries[adapter]["file"]), adapter_name=adapter)
        if files:
            pipe.set_adapters([n for n, _ in files], [w for _, w in files])
        picture, latents = run(pipe, case)
        exact = load(base, torch.float64)
        merged(exact, base, files, zoo)
        fine_picture, fine_latents = run(exact, case)
        floor = {"latents": float((latents - fine_latents).abs().max()),
                 "picture": int((picture.int() - fine_picture.int()).abs().max())}
        change = float((picture.int() - plain.int()).abs().float().mean())
        note(f"{name}: changes a pixel by {change:.1f} on average, latents std {latents.std():.2f}, "
             f"picture mean {picture.float().mean():.0f} std {picture.float().std():.0f}, floor {floor}")
        tensors[f"{name}.picture"], tensors[f"{name}.latents"] = picture, latents.float()
        listed.append({**case, "change": round(change, 2), "floor": floor})
    write(HERE / "pictures.safetensors", tensors, {"format": "pt", **VERSIONS})
    head = json.dumps({**VERSIONS, "bases": bases_summary(),
                       "noise": "torch.randn(1, 4, height/8, width/8) of torch's CPU generator with the seed, in f32"})
    text = head[:-1] + ',\n "cases": [\n  ' + ",\n  ".join(json.dumps(c) for c in listed) + "\n ]\n}\n"
    (HERE / "pictures.json").write_text(text, encoding="utf-8")
