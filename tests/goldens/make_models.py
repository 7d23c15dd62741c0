"""The small models and the goldens of their parts: FOLDER/ and FOLDER_parts.safetensors."""

import argparse

from tiny import *

PROMPTS = [
    "a photo of a cat",
    "",
    "an old lighthouse on a cliff at sunset, dramatic clouds, oil painting!",
    "word " * 90,
]


def text_goldens(name: str, model, tokenizer) -> dict:
    """NAME.CASE.ids → .last, .penultimate, and .pooled, or .embeds where there is a projection."""
    cases = {f"prompt{i}": tokenizer(p, padding="max_length", max_length=77, truncation=True).input_ids
             for i, p in enumerate(PROMPTS)}
    # Hand-made: two end tokens before the padding, and none at all.
    end, start = VOCAB - 1, VOCAB - 2
    cases["two_ends"] = [start, 320, 500, end, 700, 701, end] + [0] * 70
    cases["no_end"] = [start] + [(7 * i + 300) % 990 for i in range(76)]
    out = {}
    for case, ids in cases.items():
        ids = torch.tensor([ids])
        got = model(ids, output_hidden_states=True)
        last = got.last_hidden_state
        out[f"{name}.{case}.ids"] = ids
        out[f"{name}.{case}.last"] = last
        out[f"{name}.{case}.penultimate"] = got.hidden_states[-2]
        if hasattr(got, "text_embeds"):
            out[f"{name}.{case}.embeds"] = got.text_embeds
        else:
            out[f"{name}.{case}.pooled"] = got.pooler_output
    return out


def unet_goldens(unet, seed: int, sizes=((8, 8), (9, 12)), name: str = "unet", mixed: bool = True) -> dict:
    """NAME.CASE.sample, .timestep, .context, (.text_embeds, .time_ids), (.timestep_cond) → .out"""
    generator = seeded(seed)
    config = unet.config

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    cases = [(f"{h}x{w}", 1, h, w, [981.0 if i == 0 else 21.0]) for i, (h, w) in enumerate(sizes)]
    if mixed:
        cases.append(("mixed", 2, 8, 8, [999.0, 250.5]))  # a timestep of its own for each sample, one fractional
    out = {}
    for case, batch, height, width, steps in cases:
        inputs = {
            "sample": draw(batch, config.in_channels, height, width),
            "timestep": torch.tensor(steps),
            "context": draw(batch, 77, config.cross_attention_dim),
        }
        more = {}
        if config.addition_embed_type == "text_time":
            numbers = (config.projection_class_embeddings_input_dim - XL_SECOND) // config.addition_time_embed_dim
            ids = {6: [64.0, 96.0, 0.0, 8.0, 64.0, 96.0], 5: [1024.0, 1024.0, 0.0, 0.0, 6.0]}[numbers]
            inputs["text_embeds"] = draw(batch, XL_SECOND)
            inputs["time_ids"] = torch.tensor([ids] * batch)
            more["added_cond_kwargs"] = {key: inputs[key] for key in ("text_embeds", "time_ids")}
        if config.time_cond_proj_dim:
            inputs["timestep_cond"] = draw(batch, config.time_cond_proj_dim)
            more["timestep_cond"] = inputs["timestep_cond"]
        result = unet(inputs["sample"], inputs["timestep"], inputs["context"], **more).sample
        assert result.isfinite().all()
        for key, value in inputs.items():
            out[f"{name}.{case}.{key}"] = value
        out[f"{name}.{case}.out"] = result
    return out


def vae_goldens(model, seed: int) -> dict:
    """vae.decode.HxW.latents → .out (no scaling factor in between); vae.encode.HxW.picture → .mean, .logvar, .std"""
    generator = seeded(seed)
    out = {}
    for h, w in ((8, 8), (9, 12)):
        latents = torch.randn(1, 4, h, w, generator=generator) / model.config.scaling_factor
        out[f"vae.decode.{h}x{w}.latents"] = latents
        out[f"vae.decode.{h}x{w}.out"] = model.decode(latents).sample
    for h, w in ((64, 64), (40, 48)):
        picture = torch.rand(1, 3, h, w, generator=generator) * 2 - 1
        moments = model.encode(picture).latent_dist
        assert moments.logvar.abs().max() < 20
        for key in ("mean", "logvar", "std"):
            out[f"vae.encode.{h}x{w}.{key}"] = getattr(moments, key)
        out[f"vae.encode.{h}x{w}.picture"] = picture
    return out


def tokenizer_of(folder: Path):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder))


def finish(name: str, index: dict, scheduler: dict | None, goldens: dict) -> None:
    folder = HERE / name
    if index:
        write_json(folder / "model_index.json", index)
    if scheduler:
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_tensors(HERE / f"{name}_parts.safetensors", goldens)
    note(f"{name}: {tensors_on_disk(folder) >> 10} KiB, goldens {tensors_on_disk(HERE / f'{name}_parts.safetensors') >> 10} KiB")


def make_sd15() -> None:
    folder = HERE / "sd15"
    write_tokenizer(folder / "tokenizer", "l", MERGES_KEPT)
    unet, coder = make_unet(unet_sd15(), 15), make_vae(vae(), 16)
    tower = make_text(text(32, "quick_gelu"), 17)
    teach(unet, "epsilon", 18)
    write_unet(folder / "unet", unet_sd15(), unet)
    write_part(folder / "vae", vae(), old_vae_state(coder), "diffusion_pytorch_model.safetensors")
    write_text(folder / "text_encoder", text(32, "quick_gelu"), tower,
               **{"text_model.embeddings.position_ids": torch.arange(77).view(1, 77)})
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    goldens = {
        **text_goldens("text", tower, tokenizer_of(folder / "tokenizer")),
        **unet_goldens(unet, 19),
        **vae_goldens(coder, 20),
    }
    finish("sd15", index, SCHEDULERS["sd15"], goldens)


def make_sd2() -> None:
    folder = HERE / "sd2"
    words = text(24, "gelu", projection_dim=16, num_hidden_layers=3)
    write_tokenizer(folder / "tokenizer", "h", MERGES_KEPT)
    coder_config = vae(_diffusers_version="0.8.0", scaling_factor=0.18215)
    unet, coder, tower = make_unet(unet_sd2(), 25), make_vae(coder_config, 26), make_text(words, 27)
    teach(unet, "v_prediction", 28)
    write_unet(folder / "unet", unet_sd2(), unet)
    write_part(folder / "vae", coder_config, half_state(coder), "diffusion_pytorch_model.safetensors")
    write_text(folder / "text_encoder", words, tower)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.8.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    goldens = {
        **text_goldens("text", tower, tokenizer_of(folder / "tokenizer")),
        **unet_goldens(unet, 29),
        **vae_goldens(coder, 30),
    }
    finish("sd2", index, SCHEDULERS["sd2"], goldens)


def micro(numbers: int):
    def added(count, draw):
        sizes = torch.randint(4, 24, (count, numbers), generator=seeded(7)).float() * 8
        return {"text_embeds": draw(count, XL_SECOND), "time_ids": sizes}

    return added


XL_VAE = dict(_diffusers_version="0.20.0.dev0", force_upcast=True, scaling_factor=0.13025)
XL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "_diffusers_version": "0.19.0.dev0",
    "force_zeros_for_empty_prompt": True,
    "add_watermarker": None,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def make_sdxl() -> None:
    folder = HERE / "sdxl"
    first = text(XL_FIRST, "quick_gelu")
    second = text(XL_SECOND, "gelu", architectures=["CLIPTextModelWithProjection"])
    write_tokenizer(folder / "tokenizer", "l", MERGES_KEPT)
    write_tokenizer(folder / "tokenizer_2", "g", MERGES_KEPT)
    unet, coder = make_unet(unet_sdxl(), 35), make_vae(vae(**XL_VAE), 36)
    tower, tower_2 = make_text(first, 37), make_text(second, 38, project=True)
    teach(unet, "epsilon", 39, micro(6))
    write_unet(folder / "unet", unet_sdxl(), unet)
    write_part(folder / "vae", vae(**XL_VAE), half_state(coder), "diffusion_pytorch_model.safetensors")
    write_text(folder / "text_encoder", first, tower)
    write_text(folder / "text_encoder_2", second, tower_2)
    index = {key: value for key, value in XL_INDEX.items() if key != "add_watermarker"}
    goldens = {
        **text_goldens("text", tower, tokenizer_of(folder / "tokenizer")),
        **text_goldens("text2", tower_2, tokenizer_of(folder / "tokenizer_2")),
        **unet_goldens(unet, 40),
        **vae_goldens(coder, 41),
    }
    finish("sdxl", index, SCHEDULERS["sdxl"], goldens)


def make_refiner() -> None:
    """The refiner shares its VAE and second text tower with sdxl/, so only its UNet is written."""
    folder = HERE / "sdxl-refiner"
    unet = make_unet(unet_refiner(), 45)
    teach(unet, "epsilon", 46, micro(5))
    write_unet(folder / "unet", unet_refiner(), unet)
    index = {
        **XL_INDEX,
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "force_zeros_for_empty_prompt": False,
        "requires_aesthetics_score": True,
        "text_encoder": [None, None],
        "tokenizer": [None, None],
    }
    index.pop("add_watermarker")
    finish("sdxl-refiner", index, SCHEDULERS["sdxl"], unet_goldens(unet, 47))


MAKERS = {"sd15": make_sd15, "sdxl": make_sdxl, "sd2": make_sd2, "sdxl-refiner": make_refiner}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", choices=[[], *MAKERS], default=[])
    for which in parser.parse_args().which or MAKERS:
        MAKERS[which]()
