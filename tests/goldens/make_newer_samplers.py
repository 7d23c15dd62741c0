"""Grids, runs and whole pictures of the samplers that joined after the first three: samplers/NAME.json and .safetensors.

Grids and runs are diffusers' schedulers over the network that is a formula of make_samplers.py. The noise of a run
is one generator an image: it makes the initial latents and goes on into the steps. Pictures are diffusers' pipelines
on the tiny models. `trajectories` are k-diffusion's own functions on a toy denoiser; they are copied from a file of
recorded runs whose path is an argument (versions beside them), so that nothing else than diffusers is needed here.
"""

import argparse
import inspect

import diffusers
from diffusers.utils.torch_utils import randn_tensor

import make_pictures
from common import *
from make_samplers import BASE, PATTERN, SHAPE, shortest

KARRAS, EXPONENTIAL = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
V, ZERO_SNR = {"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}
LEADING, TRAILING = {"timestep_spacing": "leading"}, {"timestep_spacing": "trailing"}
LINSPACE = {"timestep_spacing": "linspace"}
STEPS = [1, 2, 5, 20, 30]
SAMPLERS = {
    "euler-a": {
        "scheduler": "EulerAncestralDiscreteScheduler", "k_diffusion": "euler_ancestral", "steps": STEPS,
        "grids": [LINSPACE, LEADING, TRAILING, {**TRAILING, **ZERO_SNR}],
        "runs": [{}, LEADING, TRAILING, V, {**TRAILING, **ZERO_SNR, **V}, {"beta_schedule": "linear"}],
        "pictures": [("sd15", "plain", {}), ("sd15", "cfg1", dict(cfg=1.0, seed=42, steps=7)),
                     ("sd15", "two", dict(seed=[42, 43], prompt=[make_pictures.CAT, make_pictures.LIGHT],
                                          negative=[make_pictures.BLUR, ""])),
                     ("sd15", "odd_72x88", dict(seed=make_pictures.BIG, size=(72, 88), steps=4)),
                     ("sd2", "plain", {}), ("sdxl", "plain", {})],
    },
    "heun": {
        "scheduler": "HeunDiscreteScheduler", "k_diffusion": "heun", "steps": STEPS,
        "grids": [LINSPACE, LEADING, TRAILING, KARRAS, {**LEADING, **KARRAS}, EXPONENTIAL, {**TRAILING, **EXPONENTIAL}],
        "runs": [{}, LEADING, TRAILING, KARRAS, EXPONENTIAL, V, {"prediction_type": "sample"}, {"clip_sample": True},
                 {"clip_sample": True, "clip_sample_range": 2.5}, {**KARRAS, "sigma_min": 0.1, "sigma_max": 10.0},
                 {"final_sigmas_type": "sigma_min", "thresholding": True}],
        "pictures": [("sd15", "plain", {}), ("sd15", "karras", dict(seed=42, steps=6, options=KARRAS)),
                     ("sd15", "cfg1", dict(cfg=1.0, steps=3)), ("sd2", "plain", {}), ("sdxl", "plain", {})],
    },
    "lcm": {
        "scheduler": "LCMScheduler", "k_diffusion": None, "steps": [1, 2, 4, 8, 13, 50],
        "grids": [{}, LINSPACE, {"original_inference_steps": 100}, {"original_inference_steps": 30}],
        "runs": [{}, V, {"prediction_type": "sample"}, {"clip_sample": True}, {"thresholding": True},
                 {"thresholding": True, "sample_max_value": 3.0}, {"timestep_scaling": 0.01},
                 {"original_inference_steps": 100}, {"set_alpha_to_one": True, "steps_offset": 0}],
        "pictures": [("sd15", "plain", dict(cfg=1.0, steps=4)), ("sd15", "cfg", dict(cfg=1.7, seed=42, steps=8)),
                     ("sd15", "guided", dict(cfg=8.0, steps=4, unet="variants/lcm", negative=None)),
                     ("sdxl", "plain", dict(cfg=1.0, steps=4))],
    },
    "unipc-bh2": {
        "scheduler": "UniPCMultistepScheduler", "k_diffusion": None, "steps": STEPS,
        "grids": [LINSPACE, LEADING, TRAILING, KARRAS],
        "runs": [{}, LEADING, TRAILING, KARRAS, V, {"solver_order": 3}, {"solver_order": 1}, {"thresholding": True},
                 {"solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"}],
        "pictures": [("sd15", "plain", {}), ("sd15", "karras", dict(seed=42, steps=6, options=KARRAS)),
                     ("sd2", "plain", {}), ("sdxl", "plain", {})],
    },
    "deis": {
        "scheduler": "DEISMultistepScheduler", "k_diffusion": None, "steps": [2, 3, 5, 20, 30],
        "base": {"final_sigmas_type": "sigma_min"},
        "grids": [LINSPACE, LEADING, TRAILING, KARRAS],
        "runs": [{}, LEADING, TRAILING, KARRAS, V, {"solver_order": 3}, {"solver_order": 1}],
        "pictures": [("sd15", "plain", {}), ("sd15", "seven", dict(seed=42, steps=7)),
                     ("sd2", "plain", {}), ("sdxl", "plain", {})],
    },
    "lms": {
        "scheduler": "LMSDiscreteScheduler", "k_diffusion": None, "steps": STEPS,
        "grids": [LINSPACE, LEADING, TRAILING, KARRAS], "runs": [{}, LEADING, TRAILING, KARRAS, V, EXPONENTIAL],
        "pictures": [("sd15", "plain", {}), ("sd15", "karras", dict(seed=42, steps=6, options=KARRAS)),
                     ("sd2", "plain", {}), ("sdxl", "plain", {})],
    },
    "dpm2": {
        "scheduler": "KDPM2DiscreteScheduler", "k_diffusion": None, "steps": STEPS, "middles": True,
        "grids": [LINSPACE, LEADING, TRAILING, KARRAS], "runs": [{}, LEADING, TRAILING, KARRAS, V, EXPONENTIAL],
        "pictures": [("sd15", "plain", {}), ("sd15", "karras", dict(seed=42, steps=6, options=KARRAS)),
                     ("sd2", "plain", {}), ("sdxl", "plain", {})],
    },
    "dpm2-a": {
        "scheduler": "KDPM2AncestralDiscreteScheduler", "k_diffusion": None, "steps": STEPS, "middles": True,
        "grids": [LINSPACE, LEADING, TRAILING, KARRAS], "runs": [{}, LEADING, TRAILING, KARRAS, V, EXPONENTIAL],
        "pictures": [("sd15", "plain", {}), ("sd15", "karras", dict(seed=42, steps=6, options=KARRAS)),
                     ("sd2", "plain", {}), ("sdxl", "plain", {})],
    },
    "dpmpp-2s": {
        "scheduler": "DPMSolverSinglestepScheduler", "k_diffusion": None, "steps": STEPS,
        "grids": [{}, LEADING, TRAILING, KARRAS],
        "runs": [{}, KARRAS, V, {"solver_order": 3}, {"solver_order": 1}, {"solver_type": "heun"}, {"thresholding": True}],
        "pictures": [("sd15", "plain", {}), ("sd15", "karras", dict(seed=42, steps=6, options=KARRAS)),
                     ("sd2", "plain", {}), ("sdxl", "plain", {})],
    },
    "sa-solver": {
        "scheduler": "SASolverScheduler", "k_diffusion": None, "steps": STEPS,
        "base": {"final_sigmas_type": "sigma_min"},
        "grids": [LINSPACE, LEADING, TRAILING, KARRAS], "runs": [{}, LEADING, TRAILING, KARRAS, V, {"beta_schedule": "linear"}],
        "pictures": [("sd15", "plain", {}), ("sd15", "two", dict(seed=[42, 43], prompt=[make_pictures.CAT, make_pictures.LIGHT],
                                                                 negative=[make_pictures.BLUR, ""])),
                     ("sd2", "plain", {}), ("sdxl", "plain", {})],
    },
    "ddpm": {
        "scheduler": "DDPMScheduler", "k_diffusion": None, "steps": STEPS,
        "grids": [{}, LINSPACE, LEADING, TRAILING],
        "runs": [{}, LEADING, TRAILING, V, {"clip_sample": True}, {"thresholding": True}],
        "pictures": [("sd15", "plain", {}), ("sd15", "seven", dict(seed=42, steps=7)),
                     ("sd2", "plain", {}), ("sdxl", "plain", {})],
    },
    "tcd": {
        "scheduler": "TCDScheduler", "eta": 0.3, "k_diffusion": None, "steps": [1, 2, 4, 8, 13, 50],
        "grids": [{}, LINSPACE, {"original_inference_steps": 100}, {"original_inference_steps": 30}],
        "runs": [{}, V, {"thresholding": True}, {"original_inference_steps": 100}, {"prediction_type": "sample"},
                 {"steps_offset": 0}],
        "pictures": [("sd15", "plain", dict(cfg=1.0, steps=4)), ("sd15", "cfg", dict(cfg=1.7, seed=42, steps=8)),
                     ("sd15", "two", dict(seed=[42, 43], prompt=[make_pictures.CAT, make_pictures.LIGHT],
                                          negative=[make_pictures.BLUR, ""], cfg=1.5, steps=3)),
                     ("sdxl", "plain", dict(cfg=1.0, steps=4))],
    },
    "plms": {
        "scheduler": "PNDMScheduler", "k_diffusion": None, "steps": STEPS, "base": {"skip_prk_steps": True},
        "grids": [{}, {"steps_offset": 0}, {"set_alpha_to_one": True}, {"beta_schedule": "linear"}],
        "runs": [{}, V, {"set_alpha_to_one": True}, {"steps_offset": 0}, {"beta_schedule": "linear"},
                 {"num_train_timesteps": 500}],
        "pictures": [("sd15", "plain", {}), ("sd15", "seven", dict(seed=42, steps=7)),
                     ("sd2", "plain", {}), ("sdxl", "plain", {})],
    },
}


def with_base(spec: dict, kind: str) -> list[dict]:
    return [{**spec.get("base", {}), **options} for options in spec[kind]]


def scheduler_of(kind: str, options: dict):
    return getattr(diffusers, kind).from_config({**BASE, **options})


def grid(kind: str, options: dict, steps: int, middles: bool = False) -> dict:
    scheduler = scheduler_of(kind, options)
    case = {"config": {**BASE, **options}, "steps": steps}
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        return {**case, "refused": str(error)}
    # PNDM lists the second timestep twice, once for each evaluation.
    timesteps = torch.unique_consecutive(scheduler.timesteps)
    case["timesteps"] = shortest(timesteps)
    if hasattr(scheduler, "sigmas"):
        case["sigmas"] = shortest(scheduler.sigmas)
        if middles:  # between the levels, for the second evaluation of a step
            timesteps = scheduler.timesteps[::2]
            case["timesteps"] = shortest(timesteps)
            case["sigmas"] = shortest(torch.cat([torch.unique_consecutive(scheduler.sigmas)]))
    else:
        case["alphas_cumprod"] = shortest(scheduler.alphas_cumprod[timesteps])
    case["init_noise_sigma"] = shortest([scheduler.init_noise_sigma])[0]
    return case


def network(seen: torch.Tensor, t) -> torch.Tensor:
    return 0.6 * seen - 0.5 * PATTERN + 0.2 * t / 1000


def run(kind: str, options: dict, steps: int, seeds: list[int]) -> dict:
    scheduler = scheduler_of(kind, options)
    scheduler.set_timesteps(steps)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    draws = "generator" in inspect.signature(scheduler.step).parameters and kind != "HeunDiscreteScheduler"
    drawing = {"generator": generators} if draws else {}
    shape = (len(seeds), *SHAPE[1:])
    latents = randn_tensor(shape, generator=generators) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(latents, t)
        latents = scheduler.step(network(seen, t), t, latents, **drawing).prev_sample
    return {"config": {**BASE, **options}, "steps": steps, "seeds": seeds, "latents": shortest(latents)}


def pictures(name: str, spec: dict, tensors: dict) -> list[dict]:
    listed = []
    for model, label, options in spec["pictures"]:
        options = dict(options)
        unet, chosen = options.pop("unet", None), {**spec.get("base", {}), **options.pop("options", {})}
        wanted = make_pictures.case(model, label, {"scheduler": spec["scheduler"], "options": chosen}, **options)
        wanted |= {"eta": spec["eta"]} if "eta" in spec else {}
        pipe = make_pictures.load(model, torch.float32)
        if unet:
            pipe.unet = diffusers.UNet2DConditionModel.from_pretrained(str(HERE / unet))
        got = make_pictures.run(pipe, dict(pipe.scheduler.config), wanted, {})
        tensors[f"{wanted['name']}.picture"] = torch.from_numpy(got["picture"])
        tensors[f"{wanted['name']}.latents"] = got["latents"]
        listed.append({**wanted, "unet": unet, "scheduler_config": {**got["config"], **spec.get("base", {})}})
        note(name, wanted["name"], f"latents std {got['latents'].std():.2f}, picture std {got['picture'].std():.0f}")
    return listed


def trajectories(recorded: dict, function: str | None) -> list[dict]:
    kept = ["sampler", "list", "options", "evals", "draws", "final"]
    return [{**{k: t[k] for k in kept if k in t}, "sigmas": recorded["lists"][t["list"]]}
            for t in recorded["trajectories"]
            if t["tool"] == "k-diffusion" and t["sampler"] == function and "dtype" not in t]


def main(names: list[str], recorded: str | None) -> None:
    for name in names:
        spec = SAMPLERS[name]
        kind, path = spec["scheduler"], HERE / "samplers" / f"{name}.json"
        out = {**VERSIONS, "sampler": name, "scheduler": kind, "shape": SHAPE, "pattern": shortest(PATTERN)}
        out["grids"] = [grid(kind, options, steps, spec.get("middles", False))
                        for options in with_base(spec, "grids") for steps in spec["steps"]]
        out["runs"] = [run(kind, options, 6, [5]) for options in with_base(spec, "runs")]
        out["runs"] += [run(kind, spec.get("base", {}), steps, [5, 9]) for steps in (2, 4, 1)[: 2 if name == "deis" else 3]]
        tensors = {}
        out["pictures"] = pictures(name, spec, tensors)
        if recorded:
            vectors = read_json(Path(recorded))
            toy = {key: vectors["toy"][key] for key in ("formula", "start", "noise_list")}
            out["k_diffusion"] = {"versions": vectors["made_by"]["k-diffusion"], **toy,
                                  "trajectories": trajectories(vectors, spec["k_diffusion"])}
        elif path.exists():
            out["k_diffusion"] = read_json(path)["k_diffusion"]
        else:  # proven by recorded.json
            out["k_diffusion"] = {"start": [], "noise_list": [], "trajectories": []}
        lines = []
        for key, value in out.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                rows = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in value)
                lines.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
            else:
                lines.append(f" {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}")
        path.parent.mkdir(exist_ok=True)
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        write_tensors(path.with_suffix(".safetensors"), tensors)
        note(name, len(out["grids"]), "grids,", len(out["runs"]), "runs,", path.stat().st_size >> 10, "KiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samplers", nargs="*", default=list(SAMPLERS))
    parser.add_argument("--recorded", help="sampler_vectors.json with runs of k-diffusion")
    arguments = parser.parse_args()
    main(arguments.samplers, arguments.recorded)
