"""Noise other than the discrete one through diffusers' SDXL pipeline: noise.json (cases) and noise.safetensors.

EDM (Playground 2.5, CosXL) with the schedulers of diffusers, rectified flow with its Euler scheduler, whose interface lacks
two names that the pipeline asks for, and zero terminal SNR with v. CASE.picture u8 [H,W,3], CASE.latents f32 [4,h,w].
"""

import diffusers

from common import *
from make_pictures import case as picture_case
from make_pictures import load, run, same_noise


class Flow(diffusers.FlowMatchEulerDiscreteScheduler):
    """Starts from plain noise and shows the network its latents as they are."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample, timestep):
        return sample


diffusers.Flow = Flow
EDM = {"scheduler": "EDMEulerScheduler", "options": {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}}
EDM_DPM = {"scheduler": "EDMDPMSolverMultistepScheduler", "options": {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}}
COSXL = {"scheduler": "EDMEulerScheduler",
         "options": {"sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0, "prediction_type": "v_prediction"}}
ZSNR = {"scheduler": "EulerDiscreteScheduler",
        "options": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}}
ZSNR_A = {**ZSNR, "scheduler": "EulerAncestralDiscreteScheduler"}
ZSNR_DPM = {**ZSNR, "scheduler": "DPMSolverMultistepScheduler"}


def case(name: str, sampler: dict, request: dict, steps: int = 6, **more) -> dict:
    return {**picture_case("sdxl", name, sampler, cfg=3.0, seed=7, steps=steps, **more), "request": request}


CASES = [
    case("edm", EDM, {"prediction": "edm", "sampler": "euler", "schedule": "karras"}),
    case("edm_dpm", EDM_DPM, {"prediction": "edm", "sampler": "dpmpp-2m", "schedule": "karras"}),
    case("cosxl", COSXL, {"prediction": "edm-v", "sampler": "euler", "schedule": "karras"}),
    case("zsnr", ZSNR, {"prediction": "v:zsnr", "sampler": "euler", "schedule": "discrete"}),
    case("zsnr_a", ZSNR_A, {"prediction": "v:zsnr", "sampler": "euler-a", "schedule": "discrete"}),
    case("zsnr_dpm", ZSNR_DPM, {"prediction": "v:zsnr", "sampler": "dpmpp-2m", "schedule": "discrete"}),
    case("flow", {"scheduler": "Flow", "options": {"shift": 1.0}},
         {"prediction": "flow", "sampler": "euler", "schedule": "discrete"}),
    case("flow_shift", {"scheduler": "Flow", "options": {"shift": 2.5}},
         {"prediction": "flow:shift=2.5", "sampler": "euler", "schedule": "discrete"}),
]


def main() -> None:
    # In f64, with the noise of f32: at σ = 4096 the schedulers lose three digits in f32.
    pipe = load("sdxl", torch.float64)
    base = dict(pipe.scheduler.config)
    tensors, listed = {}, []
    for wanted in CASES:
        flow = wanted["scheduler"] == "Flow"
        plain = type(pipe).__call__
        if flow:
            # The levels of timesteps 1000 to 1, before the shift, which the scheduler makes itself.
            levels = np.linspace(1.0, 0.001, wanted["steps"]).tolist()
            kind = type("Levels", (type(pipe),), {
                "__call__": lambda self, **call: plain(self, **{**call, "num_inference_steps": None, "sigmas": levels})})
            before, pipe.__class__ = pipe.__class__, kind
        try:
            config = {k: v for k, v in base.items() if k in ("num_train_timesteps",)} if flow or "EDM" in wanted["scheduler"] else base
            got = same_noise(run, pipe, config, wanted, {})
        finally:
            if flow:
                pipe.__class__ = before
        name = wanted["name"]
        note(f"{name}: latents std {got['latents'].std():.2f}, told {[round(t, 3) for t in got['timesteps']]}")
        tensors[f"{name}.picture"] = torch.from_numpy(got["picture"])
        tensors[f"{name}.latents"] = got["latents"]
        listed.append({k: v for k, v in wanted.items() if k != "options"})
    write_tensors(HERE / "noise.safetensors", tensors)
    text = json.dumps(VERSIONS)[:-1] + ',\n "cases": [\n  ' + ",\n  ".join(json.dumps(c) for c in listed) + "\n ]\n}\n"
    (HERE / "noise.json").write_text(text, encoding="utf-8")
    note(len(listed), "pictures,", tensors_on_disk(HERE / "noise.safetensors") >> 10, "KiB")


if __name__ == "__main__":
    main()
