"""Guidance beside plain CFG through diffusers' own pipelines: guidance.json (cases) and guidance.safetensors.

CASE.picture u8 [H,W,3], CASE.latents f32 [4,h,w]. `request` holds the fields of colora's request that a case is about.
Self-attention guidance left diffusers after 0.35: its pipeline is loaded from the wheel of 0.31.0 that the first
argument names (`pip download --no-deps diffusers==0.31.0`); the rest runs on the version in the file's metadata.
"""

import importlib.util
import sys
import types
import zipfile

import diffusers

from common import *
from make_pictures import BLUR, CAT, DDIM, EULER, LIGHT, load, run
from make_pictures import case as picture_case

# At 64 pixels the middle block of the tiny SD 1.5 has one token, which sees itself alone anyway.
WIDE = (128, 96)


def case(model: str, name: str, sampler: dict, request: dict, **more) -> dict:
    return {**picture_case(model, name, sampler, **{"seed": 7, **more}), "request": request}


CASES = [
    case("sd15", "rescale", EULER, {"guidance_rescale": "0.7"}, call={"guidance_rescale": 0.7}),
    case("sd2", "rescale", EULER, {"guidance_rescale": "0.7"}, call={"guidance_rescale": 0.7}),
    case("sdxl", "rescale", EULER, {"guidance_rescale": "0.5"}, call={"guidance_rescale": 0.5}),
    case("sd15", "pag", EULER, {"pag": "3"}, size=WIDE, call={"pag_scale": 3.0}),
    case("sd15", "pag_without_cfg", DDIM, {"pag": "3"}, cfg=1.0, size=WIDE, call={"pag_scale": 3.0}),
    case("sd15", "pag_adaptive", DDIM, {"pag": "3:adaptive=0.004"}, size=WIDE, call={"pag_scale": 3.0, "pag_adaptive_scale": 0.004}),
    case("sd15", "pag_layers", DDIM, {"pag": "2:layers=mid+up.1+down.2.0"}, call={"pag_scale": 2.0},
         layers=["mid", "up_blocks.1", "down_blocks.2.attentions.0"]),
    case("sd15", "pag_rescale", EULER, {"pag": "3", "guidance_rescale": "0.7"},
         size=WIDE, call={"pag_scale": 3.0, "guidance_rescale": 0.7}),
    case("sdxl", "pag", EULER, {"pag": "3"}, call={"pag_scale": 3.0}),
    case("sd15", "freeu", EULER, {"freeu": "diffusers"}, freeu=dict(s1=0.9, s2=0.2, b1=1.5, b2=1.6)),
    case("sdxl", "freeu", EULER, {"freeu": "diffusers:s1=0.6,s2=0.4,b1=1.1,b2=1.2"}, size=(72, 88),
         freeu=dict(s1=0.6, s2=0.4, b1=1.1, b2=1.2)),
    case("sd15", "sag", DDIM, {"sag": "0.75"}, size=WIDE, sag=0.75),
    case("sd15", "sag_without_cfg", DDIM, {"sag": "0.75"}, cfg=1.0, size=WIDE, sag=0.75),
    case("sd15", "sag_odd", DDIM, {"sag": "0.5"}, size=(96, 72), sag=0.5),
    case("sdxl", "sizes", EULER, {"original_size": "96x128", "crop": "8,16", "target_size": "80x64"},
         call={"original_size": (128, 96), "crops_coords_top_left": (8, 16), "target_size": (64, 80)}),
    case("sdxl", "negative_sizes", EULER,
         {"original_size": "96x128", "negative_original_size": "32x48", "negative_crop": "3,5", "negative_target_size": "40x56"},
         call={"original_size": (128, 96), "negative_original_size": (48, 32), "negative_crops_coords_top_left": (3, 5),
               "negative_target_size": (56, 40)}),
]
REFINED = [
    {"name": "sdxl.refined", "at": 0.6, "steps": 5, "seed": 7, "prompt": CAT, "negative_prompt": BLUR, "guidance_scale": 5.0},
    {"name": "sdxl.refined_late", "at": 0.8, "steps": 10, "seed": 3, "prompt": LIGHT, "negative_prompt": BLUR,
     "guidance_scale": 5.0},
]


def sag_pipeline(wheel: str):
    """The class of 0.31.0 on top of the installed diffusers; it only needs what both have."""
    name = "diffusers.pipelines.stable_diffusion_sag.pipeline_stable_diffusion_sag"
    source = zipfile.ZipFile(wheel).read(name.replace(".", "/") + ".py").decode()
    package = types.ModuleType(name.rsplit(".", 1)[0])
    package.__path__ = []
    sys.modules[package.__name__] = package
    spec = importlib.util.spec_from_loader(name, loader=None)
    module = importlib.util.module_from_spec(spec)
    module.__package__ = package.__name__
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
    return module.StableDiffusionSAGPipeline


def with_sag(pipe, kind, base: dict, wanted: dict) -> dict:
    """Its pipeline has no callback of the new kind, so that `run` does not fit it."""
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    made = kind(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    made.scheduler = getattr(diffusers, wanted["scheduler"]).from_config(base, **wanted["options"])
    kept = []
    shown = made(
        wanted["prompt"], negative_prompt=wanted["negative_prompt"], guidance_scale=wanted["guidance_scale"],
        num_inference_steps=wanted["steps"], generator=torch.Generator("cpu").manual_seed(wanted["seed"]),
        width=wanted["width"], height=wanted["height"], sag_scale=wanted["sag"], output_type="np",
        callback=lambda i, t, latents: kept.append(latents.clone()),
    ).images
    return {"picture": (shown * 255).round().astype("uint8")[0], "latents": kept[-1][0].float(),
            "config": {k: v for k, v in made.scheduler.config.items() if not k.startswith("_")}}


def drawn(pipe, base: dict, wanted: dict, sag) -> dict:
    if "sag" in wanted:
        return with_sag(pipe, sag, base, wanted)
    if "pag_scale" in wanted.get("call", {}):
        xl = wanted["model"] == "sdxl"
        kind = diffusers.StableDiffusionXLPAGPipeline if xl else diffusers.StableDiffusionPAGPipeline
        parts = dict(pipe.components)
        more = {"add_watermarker": False} if xl else {"requires_safety_checker": False}
        layers = wanted.get("layers", "mid")
        pipe = kind(**parts, pag_applied_layers=layers, **more)
        pipe.set_progress_bar_config(disable=True)
    if "freeu" in wanted:
        pipe.enable_freeu(**wanted["freeu"])
    extra = wanted.get("call", {})
    plain = type(pipe).__call__
    wrapped = type("Wrapped", (type(pipe),), {"__call__": lambda self, **call: plain(self, **call, **extra)})
    before, pipe.__class__ = pipe.__class__, wrapped
    try:
        return run(pipe, base, wanted, {})
    finally:
        pipe.__class__ = before
        if "freeu" in wanted:
            pipe.disable_freeu()


def refined(wanted: dict) -> dict:
    """Base until `at`, refiner from there: both pipelines with one number of steps, no noise between."""
    base, refiner = load("sdxl", torch.float32), load("sdxl-refiner", torch.float32)
    config = dict(base.scheduler.config)
    for pipe in (base, refiner):
        pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(config)
    common = {k: wanted[k] for k in ("prompt", "negative_prompt", "guidance_scale")}
    common |= {"num_inference_steps": wanted["steps"]}
    generator = torch.Generator("cpu").manual_seed(wanted["seed"])
    half = base(**common, denoising_end=wanted["at"], width=64, height=64, generator=generator, output_type="latent").images
    kept = []

    def keep(_pipe, _index, _time, state):
        kept.append(state["latents"].clone())
        return state

    shown = refiner(**common, image=half, denoising_start=wanted["at"], generator=generator, output_type="np",
                    callback_on_step_end=keep).images
    return {"picture": (shown * 255).round().astype("uint8")[0], "latents": kept[-1][0].float(), "refiner_steps": len(kept)}


def main(wheel: str) -> None:
    tensors, listed, sag = {}, [], sag_pipeline(wheel)
    for model in ("sd15", "sd2", "sdxl"):
        pipe = load(model, torch.float32)
        base = dict(pipe.scheduler.config)
        for wanted in [c for c in CASES if c["model"] == model]:
            plain = run(pipe, base, wanted, {})
            got = drawn(pipe, base, wanted, sag)
            change = abs(got["picture"].astype(int) - plain["picture"].astype(int)).mean()
            note(f"{wanted['name']}: changes a pixel by {change:.1f} on average")
            # Of large pictures the latents alone: the file stays small.
            if got["picture"].size <= 20000 or wanted["name"] in ("sd15.pag", "sd15.sag"):
                tensors[f"{wanted['name']}.picture"] = torch.from_numpy(got["picture"])
            tensors[f"{wanted['name']}.latents"] = got["latents"]
            kept = {k: v for k, v in wanted.items() if k not in ("call", "layers", "freeu", "sag", "options")}
            listed.append({**kept, "scheduler_config": got["config"]})
    for wanted in REFINED:
        got = refined(wanted)
        note(f"{wanted['name']}: the refiner made {got['refiner_steps']} of {wanted['steps']} steps")
        tensors[f"{wanted['name']}.picture"] = torch.from_numpy(got["picture"])
        tensors[f"{wanted['name']}.latents"] = got["latents"]
    write_tensors(HERE / "guidance.safetensors", tensors)
    text = json.dumps(VERSIONS)[:-1] + ',\n "cases": [\n  ' + ",\n  ".join(json.dumps(c) for c in listed)
    text += "\n ],\n \"refined\": [\n  " + ",\n  ".join(json.dumps(c) for c in REFINED) + "\n ]\n}\n"
    (HERE / "guidance.json").write_text(text.replace("Infinity", "1e308"), encoding="utf-8")
    note(len(listed) + len(REFINED), "pictures,", tensors_on_disk(HERE / "guidance.safetensors") >> 10, "KiB")


if __name__ == "__main__":
    main(sys.argv[1])
