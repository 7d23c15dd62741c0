"""Runs of three schedulers over a network that is a formula, one for each setting: samplers.json.

It also lists every key that the schedulers' constructors take, with its default (null for an infinity).
The formula: output = 0.6 * input - 0.5 * pattern + 0.2 * timestep / 1000.
"""

import inspect

import diffusers

from common import *

BASE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False,
}
KARRAS = {"use_karras_sigmas": True}
LIMITS = {"sigma_min": 0.1, "sigma_max": 10.0}
CASES = {
    "DDIMScheduler": [
        {}, {"steps_offset": 0}, {"set_alpha_to_one": True}, {"clip_sample": True}, {"clip_sample": None},
        {"clip_sample": True, "clip_sample_range": 2.5}, {"thresholding": True},
        {"thresholding": True, "sample_max_value": 3.0},
        {"thresholding": True, "sample_max_value": 30.0, "dynamic_thresholding_ratio": 0.8},
        {"thresholding": True, "clip_sample": True, "sample_max_value": 3.0},
        {"prediction_type": "sample"}, {"prediction_type": "v_prediction"},
        {"prediction_type": "v_prediction", "clip_sample": True}, {"prediction_type": "sample", "clip_sample": True},
        {"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}, {"beta_schedule": "linear"},
        {"num_train_timesteps": 500}, {"trained_betas": [0.0001 + 0.0002 * i for i in range(100)], "num_train_timesteps": 100},
        {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"beta_start": None, "beta_end": None, "beta_schedule": None, "steps_offset": None, "set_alpha_to_one": None},
    ],
    "EulerDiscreteScheduler": [
        {}, {"timestep_spacing": "leading"}, {"timestep_spacing": "leading", "steps_offset": 0}, KARRAS,
        {**KARRAS, **LIMITS}, {"use_exponential_sigmas": True, **LIMITS}, {**KARRAS, "sigma_max": 9.0},
        {"clip_sample": True, "thresholding": True}, {"prediction_type": "sample"}, {"prediction_type": "v_prediction"},
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun", "euler_at_final": True},
        {"beta_start": None, "beta_end": None, "beta_schedule": None},
    ],
    "DPMSolverMultistepScheduler": [
        {}, KARRAS, {**KARRAS, **LIMITS}, {"use_exponential_sigmas": True, **LIMITS},
        {"thresholding": True}, {"thresholding": True, "sample_max_value": 3.0}, {"clip_sample": True},
        {"solver_order": 1}, {"solver_type": "heun"}, {"solver_type": "bh2"}, {"algorithm_type": "deis", "final_sigmas_type": "sigma_min"},
        {"final_sigmas_type": "sigma_min"}, {"final_sigmas_type": "sigma_min", "lower_order_final": False},
        {"final_sigmas_type": "sigma_min", "solver_type": "heun", "lower_order_final": False},
        {"final_sigmas_type": "sigma_min", "steps": 16}, {"final_sigmas_type": "sigma_min", "euler_at_final": True, "steps": 16},
        {"lambda_min_clipped": -2.0}, {"lambda_min_clipped": -2.0, "timestep_spacing": "leading"},
        {"lambda_min_clipped": -2.55, "timestep_spacing": "trailing"},
        {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
        {"timestep_spacing": "leading", "steps_offset": 0}, {"prediction_type": "sample"}, {"prediction_type": "v_prediction"},
    ],
}
SHAPE = (1, 4, 3, 3)
NOISE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
PATTERN = torch.randn(SHAPE, generator=torch.Generator().manual_seed(6))


def run(kind: str, config: dict, steps: int) -> list[float]:
    scheduler = getattr(diffusers, kind).from_config(config)
    scheduler.set_timesteps(steps)
    latents = NOISE * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(latents, t)
        output = 0.6 * seen - 0.5 * PATTERN + 0.2 * t / 1000
        latents = scheduler.step(output, t, latents).prev_sample
    return shortest(latents)


def shortest(values) -> list[float]:
    """Values of an f32 array, written with as few digits as give the same f32 back."""
    return [float(str(v)) for v in np.asarray(values, dtype=np.float32).reshape(-1)]


def keys(kind: str) -> dict:
    parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters
    found = {name: p.default for name, p in parameters.items() if name != "self"}
    return {name: None if isinstance(d, float) and np.isinf(d) else d for name, d in found.items()}


def main() -> None:
    lines = []
    for kind, variants in CASES.items():
        for options in variants:
            steps = options.get("steps", 6)
            # None leaves a key out; clip_sample may be null.
            config = {**BASE, **{k: v for k, v in options.items() if k != "steps"}}
            config = {k: v for k, v in config.items() if v is not None or k == "clip_sample"}
            case = {"scheduler": kind, "config": config, "steps": steps, "latents": run(kind, config, steps)}
            lines.append("  " + json.dumps(case, separators=(",", ":")))
    head = json.dumps({**VERSIONS, "keys": {kind: keys(kind) for kind in CASES}, "shape": SHAPE,
                       "noise": shortest(NOISE), "pattern": shortest(PATTERN)})
    text = head[:-1] + ',\n "cases": [\n' + ",\n".join(lines) + "\n ]\n}\n"
    (HERE / "samplers.json").write_text(text, encoding="utf-8")
    note(len(lines), "runs")


if __name__ == "__main__":
    main()
