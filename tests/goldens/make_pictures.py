"""Whole pictures through the real diffusers pipelines: pictures.json (the cases) and pictures.safetensors.

CASE.picture u8 [H,W,3]; CASE.latents f32 [4,h,w] after the last step, before the division by the scaling factor;
CASE.trajectory f32 [steps,4,h,w], the latents after each step, for cases that say so.
Every case is also run in f64: `floor` says how far the f32 reference itself is from it.
"""

import argparse
import inspect

import diffusers
from PIL import Image
from transformers import CLIPTextModel

from common import *

CAT, LIGHT, LONG = "a photo of a cat", "an old lighthouse on a cliff at sunset!", "very detailed painting, " * 20
BLUR = "blurry, low quality"
EULER = {"scheduler": "EulerDiscreteScheduler", "options": {}}
EULER_KARRAS = {"scheduler": "EulerDiscreteScheduler", "options": {"use_karras_sigmas": True}}
DDIM = {"scheduler": "DDIMScheduler", "options": {}}
DPM = {"scheduler": "DPMSolverMultistepScheduler", "options": {}}
DPM_KARRAS = {"scheduler": "DPMSolverMultistepScheduler", "options": {"use_karras_sigmas": True}}
BIG = 2**32 + 5


def case(model: str, name: str, sampler: dict, prompt=CAT, negative=BLUR, cfg=7.5, seed=0, size=(64, 64), steps=5, **more):
    """`size` is (width, height)."""
    return {
        "name": f"{model}.{name}", "model": model, **sampler, "prompt": prompt, "negative_prompt": negative,
        "guidance_scale": cfg, "seed": seed, "width": size[0], "height": size[1], "steps": steps, **more,
    }


SD = [
    ("euler", EULER, dict(trajectory=True)),
    ("euler_cfg1", EULER, dict(cfg=1.0, trajectory=True)),
    ("euler_prompt2", EULER, dict(prompt=LIGHT)),
    ("euler_negative_none", EULER, dict(negative=None, seed=42)),
    ("euler_long", EULER, dict(prompt=LONG, seed=42, size=(96, 64))),
    ("euler_karras", EULER_KARRAS, dict(seed=42, steps=6)),
    ("euler_seed_big", EULER, dict(seed=BIG, size=(72, 88), steps=4)),
    ("ddim", DDIM, dict(trajectory=True)),
    ("ddim_cfg1_88x72", DDIM, dict(cfg=1.0, seed=42, size=(88, 72), steps=7)),
    ("dpm", DPM, dict(trajectory=True)),
    ("dpm_16_steps", DPM, dict(prompt=LIGHT, seed=42, steps=16)),
    ("dpm_karras", DPM_KARRAS, dict(steps=8, size=(64, 96), trajectory=True)),
    ("dpm_karras_cfg1", DPM_KARRAS, dict(cfg=1.0, seed=42, steps=4)),
]
EXTRA = {
    "sd15": [
        ("clip_skip_1", EULER, dict(clip_skip=1)),
        ("clip_skip_2", EULER, dict(clip_skip=2, prompt=LIGHT)),
        ("dpm_leading", {**DPM, "options": {"timestep_spacing": "leading"}}, {}),
        ("euler_trailing", {**EULER, "options": {"timestep_spacing": "trailing"}}, {}),
        ("two", EULER, dict(seed=[42, 43], prompt=[CAT, LIGHT], negative=[BLUR, ""])),
        ("img2img_euler", EULER, dict(init="sd15.euler_prompt2", strength=0.6, steps=5, seed=42)),
        ("img2img_ddim", DDIM, dict(init="sd15.euler_prompt2", strength=0.75, steps=6, seed=0)),
        ("img2img_dpm", DPM, dict(init="sd15.euler_prompt2", strength=1.0, steps=4, seed=0)),
    ],
    "sd2": [
        ("ddim_zero_snr", {**DDIM, "options": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}}, {}),
    ],
    "sdxl": [
        ("clip_skip_2", EULER, dict(clip_skip=1, prompt=LIGHT)),
        ("negative_empty", EULER, dict(negative="")),
        ("crops", EULER, dict(original_size=[128, 96], crops_coords_top_left=[8, 16], target_size=[64, 80])),
        ("two_prompts", EULER, dict(prompt_2=LIGHT, negative_2="grey")),
        ("img2img_euler", EULER, dict(init="sdxl.euler_prompt2", strength=0.6, steps=5, seed=42)),
    ],
    "sdxl-refiner": [
        ("img2img_euler", EULER, dict(init="sdxl.euler_prompt2", strength=0.5, steps=6, seed=42)),
    ],
}
CASES = [case(m, name, sampler, **more) for m in ("sd15", "sd2", "sdxl") for name, sampler, more in SD]
CASES += [case(m, name, sampler, **more) for m, extra in EXTRA.items() for name, sampler, more in extra]


def load(model: str, dtype: torch.dtype):
    more = {"torch_dtype": dtype}
    if model in ("sd15", "sd2"):
        more |= {"safety_checker": None, "requires_safety_checker": False}
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(HERE / model), **more)
    elif model == "sdxl":
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(str(HERE / model), add_watermarker=False, **more)
    else:
        base = load("sdxl", dtype)
        unet = diffusers.UNet2DConditionModel.from_pretrained(str(HERE / model / "unet"), **more)
        pipe = diffusers.StableDiffusionXLImg2ImgPipeline(
            vae=base.vae, text_encoder=None, text_encoder_2=base.text_encoder_2, tokenizer=None,
            tokenizer_2=base.tokenizer_2, unet=unet, scheduler=base.scheduler, requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image_to_image(pipe):
    xl = isinstance(pipe, (diffusers.StableDiffusionXLPipeline, diffusers.StableDiffusionXLImg2ImgPipeline))
    kind = diffusers.StableDiffusionXLImg2ImgPipeline if xl else diffusers.StableDiffusionImg2ImgPipeline
    if isinstance(pipe, kind):
        return pipe
    parts = {**pipe.components}
    for name in ("image_encoder", "feature_extractor") if xl else ("image_encoder",):
        parts.pop(name, None)
    made = kind(**parts, **({"add_watermarker": False} if xl else {"requires_safety_checker": False}))
    made.set_progress_bar_config(disable=True)
    return made


def run(pipe, base: dict, wanted: dict, done: dict) -> dict:
    pipe.scheduler = getattr(diffusers, wanted["scheduler"]).from_config(base, **wanted["options"])
    seeds = wanted["seed"]
    steps = []

    def keep(_pipe, _index, _time, state):
        steps.append(state["latents"].detach().clone())
        return state

    call = {
        "prompt": wanted["prompt"],
        "negative_prompt": wanted["negative_prompt"],
        "guidance_scale": wanted["guidance_scale"],
        "num_inference_steps": wanted["steps"],
        "generator": [torch.Generator("cpu").manual_seed(s) for s in seeds] if isinstance(seeds, list)
        else torch.Generator("cpu").manual_seed(seeds),
        "callback_on_step_end": keep,
        "output_type": "np",
    }
    for theirs, ours in {"prompt_2": "prompt_2", "negative_prompt_2": "negative_2", "clip_skip": "clip_skip",
                         "original_size": "original_size", "crops_coords_top_left": "crops_coords_top_left",
                         "target_size": "target_size"}.items():
        if ours in wanted:
            call[theirs] = tuple(wanted[ours]) if isinstance(wanted[ours], list) else wanted[ours]
    if "eta" in wanted:
        call["eta"] = wanted["eta"]
    if "init" in wanted:
        pipe = image_to_image(pipe)
        call |= {"image": Image.fromarray(done[wanted["init"]]["picture"]), "strength": wanted["strength"]}
    else:
        call |= {"width": wanted["width"], "height": wanted["height"]}
    shown = pipe(**call).images
    # As diffusers' numpy_to_pil: round half to even after the multiplication by 255.
    pixels = (shown * 255).round().astype("uint8")
    one = not isinstance(seeds, list)
    return {
        "picture": pixels[0] if one else pixels,
        "latents": (steps[-1][0] if one else steps[-1]).float(),
        "trajectory": torch.cat(steps).float() if one else None,
        "config": {k: v for k, v in pipe.scheduler.config.items() if not k.startswith("_")},
        "timesteps": pipe.scheduler.timesteps.tolist(),
        "guided": pipe.do_classifier_free_guidance,
    }


def same_noise(function, *arguments):
    """Runs in f64 with the noise of f32: torch draws other numbers for another type."""
    draw = torch.randn

    def narrow(*shape, dtype=None, **more):
        return draw(*shape, dtype=torch.float32, **more).to(dtype or torch.float32)

    torch.randn = narrow
    try:
        return function(*arguments)
    finally:
        torch.randn = draw


def main(models: list[str]) -> None:
    # transformers 5 took `text_model` away from CLIPTextModel; diffusers 0.42.1 still asks for it with clip_skip.
    if not hasattr(CLIPTextModel, "text_model"):
        CLIPTextModel.text_model = property(lambda self: self)
    assert "callback_on_step_end" in inspect.signature(diffusers.StableDiffusionPipeline.__call__).parameters
    tensors, listed, done = {}, [], {}
    for model in models:
        exact, half = load(model, torch.float64), load(model, torch.float32)
        base = dict(half.scheduler.config)
        for wanted in [c for c in CASES if c["model"] == model]:
            got, fine = run(half, base, wanted, done), same_noise(run, exact, base, wanted, done)
            name = wanted["name"]
            done[name] = got
            floor = {
                "latents": float((got["latents"] - fine["latents"]).abs().max()),
                "picture": int(abs(got["picture"].astype(int) - fine["picture"].astype(int)).max()),
            }
            tensors[f"{name}.picture"] = torch.from_numpy(got["picture"])
            tensors[f"{name}.latents"] = got["latents"]
            if wanted.get("trajectory"):
                tensors[f"{name}.trajectory"] = got["trajectory"]
            listed.append({**wanted, "guided": got["guided"], "timesteps": got["timesteps"],
                           "scheduler_config": got["config"], "floor": floor})
            p = got["picture"]
            note(f"{name}: latents std {got['latents'].std():.2f}, picture mean {p.mean():.0f} std {p.std():.0f}"
                 f" at the ends {((p == 0) | (p == 255)).mean():.3f}, floor {floor}")
        pairs = {"prompt": "euler_prompt2", "guidance": "euler_cfg1"}
        if f"{model}.euler" in done:
            first = done[f"{model}.euler"]["picture"].astype(int)
            for what, other in pairs.items():
                change = abs(first - done[f"{model}.{other}"]["picture"]).mean()
                note(f"{model}: {what} changes a pixel by {change:.1f} on average")
    write_tensors(HERE / "pictures.safetensors", tensors)
    head = json.dumps({**VERSIONS, "clip_skip": "diffusers' count: 0 or absent is the last layer, 1 the one before",
                       "size": "width and height in pixels; original_size, target_size and crops are (height, width)"})
    text = head[:-1] + ',\n "cases": [\n  ' + ",\n  ".join(json.dumps(c) for c in listed) + "\n ]\n}\n"
    (HERE / "pictures.json").write_text(text, encoding="utf-8")
    note(len(listed), "pictures,", tensors_on_disk(HERE / "pictures.safetensors") >> 10, "KiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["sd15", "sd2", "sdxl", "sdxl-refiner"])
    main(parser.parse_args().models)
