"""The small models: real layouts, few channels, random weights that are first rounded to f16."""

import diffusers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from common import *

MERGES_KEPT = 486
VOCAB = 256 + 256 + MERGES_KEPT + 2
XL_FIRST, XL_SECOND = 16, 24  # widths of SDXL's text towers: 768, 1280


# ---------------------------------------------------------------- configurations, spelled as the real repositories do

def unet_sd15(**changes) -> dict:
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "attention_head_dim": 2,  # 8 in SD 1.5: despite its name the number of heads
        "block_out_channels": [8, 12, 16, 16],
        "center_input_sample": False,
        "cross_attention_dim": 32,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 4,
        "out_channels": 4,
        "sample_size": 8,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        **changes,
    }


def unet_sd2(**changes) -> dict:
    return {
        **unet_sd15(),
        "_diffusers_version": "0.10.0.dev0",
        "attention_head_dim": [2, 3, 4, 4],  # [5, 10, 20, 20]: heads again, so that each is 64 (here 4) wide
        "cross_attention_dim": 24,
        "dual_cross_attention": False,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "upcast_attention": True,
        "use_linear_projection": True,
        **changes,
    }


def unet_sdxl(**changes) -> dict:
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.19.0.dev0",
        "act_fn": "silu",
        "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": 8,
        "attention_head_dim": [2, 3, 4],
        "block_out_channels": [8, 12, 16],
        "center_input_sample": False,
        "class_embed_type": None,
        "class_embeddings_concat": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_dim": XL_FIRST + XL_SECOND,
        "cross_attention_norm": None,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_only_cross_attention": None,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-05,
        "norm_num_groups": 4,
        "num_attention_heads": None,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": XL_SECOND + 6 * 8,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "sample_size": 8,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "upcast_attention": None,
        "use_linear_projection": True,
        **changes,
    }


def unet_refiner(**changes) -> dict:
    return {
        **unet_sdxl(),
        "attention_head_dim": [2, 2, 2, 2],
        "block_out_channels": [8, 8, 8, 8],
        "cross_attention_dim": XL_SECOND,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "projection_class_embeddings_input_dim": XL_SECOND + 5 * 8,
        "transformer_layers_per_block": 4,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        **changes,
    }


def vae(**changes) -> dict:
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "block_out_channels": [4, 8, 16, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 2,
        "out_channels": 3,
        "sample_size": 64,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        **changes,
    }


def text(width: int, act: str, **changes) -> dict:
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,  # the old wrong value that all of these models carry
        "hidden_act": act,
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "pad_token_id": 1,
        "projection_dim": width,
        "torch_dtype": "float16",
        "transformers_version": "4.22.0.dev0",
        "vocab_size": VOCAB,
        **changes,
    }


BETAS = {"beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000}
SCHEDULERS = {
    # SD 1.5 says nothing about timestep_spacing or prediction_type.
    "sd15": {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        **BETAS,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    },
    "sd2": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.8.0",
        **BETAS,
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    },
    "sdxl": {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.19.0.dev0",
        **BETAS,
        "clip_sample": False,
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": False,
    },
}


# ---------------------------------------------------------------- random weights

def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# Attention that looks at something; branches smaller than what they are added to, so that small errors stay small.
GAINS = {
    ("to_q.weight", "to_k.weight", "q_proj.weight", "k_proj.weight"): 1.5,
    ("conv2.weight", "to_out.0.weight", "ff.net.2.weight", "out_proj.weight", "fc2.weight", "proj_out.weight"): 0.5,
    ("time_emb_proj.weight",): 0.5,
}


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fills every parameter: no path is dead, activations stay near unit size, attention is not flat."""
    generator = seeded(seed)
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=generator)
        leaf = name.rsplit(".", 2)[-2]
        if "embedding" in leaf:
            p.copy_(noise * (0.2 if leaf == "position_embedding" else 0.6))
        elif p.ndim == 1 and name.endswith("weight"):
            p.copy_(1 + 0.2 * noise)
        elif p.ndim == 1:
            p.copy_(0.1 * noise)
        else:
            gain = next((g for ends, g in GAINS.items() if name.endswith(ends)), 1.0)
            p.copy_(noise * gain / (p[0].numel() ** 0.5))
    return model.eval().requires_grad_(False)


def rounded(model: torch.nn.Module) -> torch.nn.Module:
    """Rounds the weights to f16 and keeps computing in f32: what any reader of the file sees."""
    for p in model.parameters():
        p.copy_(p.half().float())
    return model


def make_unet(config: dict, seed: int) -> diffusers.UNet2DConditionModel:
    """The last block lets the outermost skip connection through, so that the noise can be read off (see `teach`)."""
    model = randomise(diffusers.UNet2DConditionModel.from_config(config), seed)
    model.conv_in.weight.mul_(0.4)
    model.conv_in.weight[:, :, 1, 1].mul_(5)
    last = model.up_blocks[-1].resnets[-1]
    skip = model.config.block_out_channels[0]
    last.conv_shortcut.weight[:, :-skip].mul_(0.5)
    last.conv_shortcut.weight[:, -skip:].mul_(2.5)
    last.conv2.weight.mul_(0.7)
    return model


def make_vae(config: dict, seed: int) -> diffusers.AutoencoderKL:
    model = randomise(diffusers.AutoencoderKL.from_config(config), seed)
    # The last convolution sets the contrast: a picture's values reach from black to white without sticking there.
    latents = torch.randn(4, 4, 12, 12, generator=seeded(seed + 1)) / model.config.scaling_factor
    shown = model.decode(latents).sample
    model.decoder.conv_out.weight.mul_(0.4 / shown.std())
    model.decoder.conv_out.bias.zero_()
    model.decoder.conv_out.bias.copy_(-0.5 * model.decode(latents).sample.mean((0, 2, 3)))
    return rounded(model)


def make_text(config: dict, seed: int, project: bool = False):
    kind = CLIPTextModelWithProjection if project else CLIPTextModel
    return rounded(randomise(kind(CLIPTextConfig(**config)).float(), seed))


def teach(unet, prediction: str, seed: int, added=None, wild: float = 0.1) -> None:
    """Solves the last convolution by least squares for the noise (or velocity), then roughens it.

    So a sampler shrinks its latents as with a trained model instead of ending in grey or in nonsense, and errors
    do not grow from step to step. The rest of the network stays random.
    """
    generator = seeded(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    count, size = 48, 12
    coarse = torch.nn.functional.interpolate(draw(count, 4, 4, 4), size=size, mode="bilinear") * 1.2
    clean = coarse + 0.5 * draw(count, 4, size, size)
    noise = draw(count, 4, size, size)
    steps = torch.randint(1, 1000, (count,), generator=generator)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    keep = torch.cumprod(1 - betas, 0)[steps].float().view(-1, 1, 1, 1)
    noisy = keep.sqrt() * clean + (1 - keep).sqrt() * noise
    target = noise if prediction == "epsilon" else keep.sqrt() * noise - (1 - keep).sqrt() * clean
    context = draw(count, 77, unet.config.cross_attention_dim)
    seen = {}
    hook = unet.conv_out.register_forward_pre_hook(lambda module, inputs: seen.update(features=inputs[0]))
    conditions = added(count, draw) if added else None
    unet(noisy, steps, context, added_cond_kwargs=conditions)
    hook.remove()
    columns = torch.nn.functional.unfold(seen["features"], 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    columns = torch.cat([columns, torch.ones(len(columns), 1, dtype=torch.float64)], 1)
    goal = target.permute(0, 2, 3, 1).flatten(0, 2).double()
    gram = columns.T @ columns + 1e-3 * len(columns) * torch.eye(columns.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(gram, columns.T @ goal)
    left = (columns @ solved - goal).var() / goal.var()
    weight = solved[:-1].T.reshape(unet.conv_out.weight.shape).float()
    rough = draw(*weight.shape)
    unet.conv_out.weight.copy_(weight + wild * rough / (weight[0].numel() ** 0.5) / columns.std().float())
    unet.conv_out.bias.copy_(solved[-1].float())
    rounded(unet)
    note(f"  last convolution explains {1 - left.item():.2f} of the {prediction}")


# ---------------------------------------------------------------- folders

OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def half_state(model: torch.nn.Module) -> dict:
    return {name: value.half() for name, value in model.state_dict().items()}


def text_state(model: torch.nn.Module) -> dict:
    """The names of the real files, which transformers 5 no longer uses inside CLIPTextModel."""
    state = half_state(model)
    named = {}
    for name, value in state.items():
        outer = name.startswith(("text_model.", "text_projection"))
        named[name if outer else "text_model." + name] = value
    return named


def old_vae_state(model: torch.nn.Module) -> dict:
    """SD 1.5's VAE file is older than diffusers' present names of the attention layers."""
    state = {}
    for name, value in half_state(model).items():
        for new, old in OLD_ATTENTION.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        state[name] = value
    return state


def write_part(folder: Path, config: dict, state: dict, file: str) -> None:
    write_json(folder / "config.json", config)
    write_tensors(folder / file, state)


def write_unet(folder: Path, config: dict, unet) -> None:
    write_part(folder, config, half_state(unet), "diffusion_pytorch_model.safetensors")


def write_text(folder: Path, config: dict, model, **extra) -> None:
    write_part(folder, config, {**text_state(model), **extra}, "model.safetensors")
