"""Timesteps and noise levels of three schedulers: schedules.json."""

import diffusers

from common import *

BASE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "steps_offset": 1,
}
STEPS = [1, 2, 5, 20, 30]
SPACINGS = ["leading", "trailing", "linspace"]
KINDS = {
    "EulerDiscreteScheduler": [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True},
                               {"rescale_betas_zero_snr": True}, {"final_sigmas_type": "sigma_min"},
                               {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}],
    "DDIMScheduler": [{"set_alpha_to_one": False, "clip_sample": False},
                      {"set_alpha_to_one": True, "clip_sample": False},
                      {"set_alpha_to_one": False, "clip_sample": False, "rescale_betas_zero_snr": True}],
    "DPMSolverMultistepScheduler": [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True},
                                    {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True},
                                    {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True}],
}


def shortest(values) -> list[float]:
    """Values of an f32 array, written with as few digits as give the same f32 back."""
    return [float(str(v)) for v in np.asarray(values, dtype=np.float32).reshape(-1)]


def describe(kind: str, options: dict, steps: int) -> dict:
    scheduler = getattr(diffusers, kind)(**{**BASE, **options})
    scheduler.set_timesteps(steps)
    out = {"steps": steps, "timesteps": shortest(scheduler.timesteps)}
    if kind == "DDIMScheduler":
        # What `step` reads: the cumulative alpha of each timestep and of the one it goes to.
        stride = 1000 // steps
        here = scheduler.timesteps
        there = [t - stride for t in here.tolist()]
        out["alphas_cumprod"] = shortest(scheduler.alphas_cumprod[here])
        out["previous"] = there
        out["previous_alphas_cumprod"] = shortest(
            [scheduler.alphas_cumprod[t] if t >= 0 else scheduler.final_alpha_cumprod for t in there])
    else:
        out["sigmas"] = shortest(scheduler.sigmas)
    out["init_noise_sigma"] = shortest([scheduler.init_noise_sigma])[0]
    return out


def main() -> None:
    lines = []
    for kind, variants in KINDS.items():
        for options in variants:
            for spacing in SPACINGS:
                options = {**options, "timestep_spacing": spacing}
                for steps in STEPS:
                    try:
                        case = {"scheduler": kind, "options": options, **describe(kind, options, steps)}
                    except (IndexError, ValueError) as error:
                        case = {"scheduler": kind, "options": options, "steps": steps, "refused": str(error)}
                    lines.append("  " + json.dumps(case, separators=(",", ":")))
    betas = diffusers.EulerDiscreteScheduler(**BASE)
    head = json.dumps({**VERSIONS, "base": BASE, "alphas_cumprod_0_1_500_998_999":
                       shortest(betas.alphas_cumprod[[0, 1, 500, 998, 999]])}, indent=1)
    text = head[:-2] + ',\n "cases": [\n' + ",\n".join(lines) + "\n ]\n}\n"
    (HERE / "schedules.json").write_text(text, encoding="utf-8")
    note(len(lines), "schedules")


if __name__ == "__main__":
    main()
