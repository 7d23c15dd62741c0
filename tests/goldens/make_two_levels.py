"""A model whose autoencoder has two levels, as diffusers' public tiny test pipelines have: two-levels/ and its images.

The layout is that of hf-internal-testing's `tiny-stable-diffusion` pipelines (two levels in the UNet and in the
autoencoder, so that latents are half as wide as images), with fewer channels. two-levels_pictures.safetensors holds
SAMPLER.picture u8 [H,W,3] and SAMPLER.latents f32 [4,h,w].
"""

import diffusers
from make_pictures import BLUR, CAT, DDIM, DPM_KARRAS, EULER, case, run
from tiny import *

NAME = "two-levels"
UNET = unet_sd15(
    block_out_channels=[8, 16], attention_head_dim=[2, 4], sample_size=32,
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"])
VAE = vae(
    block_out_channels=[8, 16], down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    norm_num_groups=4, layers_per_block=1)
# Width and height in pixels: diffusers' pipeline asks for multiples of 8 whatever the factor is.
CASES = {"euler": (EULER, (72, 56)), "ddim": (DDIM, (40, 48)), "dpm": (DPM_KARRAS, (64, 64))}


def write_model() -> Path:
    folder = HERE / NAME
    write_tokenizer(folder / "tokenizer", "l", MERGES_KEPT)
    unet, coder, tower = make_unet(UNET, 115), make_vae(VAE, 116), make_text(text(32, "quick_gelu"), 117)
    teach(unet, "epsilon", 118)
    write_unet(folder / "unet", UNET, unet)
    write_part(folder / "vae", VAE, half_state(coder), "diffusion_pytorch_model.safetensors")
    write_text(folder / "text_encoder", text(32, "quick_gelu"), tower)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULERS["sd15"])
    write_json(folder / "model_index.json", {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
    return folder


def main() -> None:
    folder = write_model()
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        str(folder), safety_checker=None, requires_safety_checker=False, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.vae_scale_factor == 2
    base, out = dict(pipe.scheduler.config), {}
    for name, (sampler, size) in CASES.items():
        got = run(pipe, base, case(NAME, name, sampler, prompt=CAT, negative=BLUR, seed=7, size=size), {})
        out[f"{name}.picture"] = torch.from_numpy(got["picture"])
        out[f"{name}.latents"] = got["latents"]
        note(f"{name}: {got['picture'].shape}, mean {got['picture'].mean():.0f} std {got['picture'].std():.0f}")
    write_tensors(HERE / f"{NAME}_pictures.safetensors", out)
    note(f"{NAME}: {tensors_on_disk(folder) >> 10} KiB")


if __name__ == "__main__":
    main()
