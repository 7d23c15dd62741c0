"""The bases (tests/goldens/{sd15,sd2,sdxl}), the names of their weights, and random numbers.

A *site* is `unet.<diffusers path>.weight`, `text_encoder.text_model.….weight` or `text_encoder_2.….weight` (or `.bias`).
A *module id* is a site without its last element.
"""

import hashlib
import json
import os
import sys
import zlib
from functools import cache
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import diffusers
import torch
import transformers
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
GOLDENS = HERE.parent / "goldens"
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
PART_FILES = {
    "sd15": {"unet": UNET_FILE, "text_encoder": "text_encoder/model.safetensors"},
    "sd2": {"unet": UNET_FILE, "text_encoder": "text_encoder/model.safetensors"},
    "sdxl": {
        "unet": UNET_FILE,
        "text_encoder": "text_encoder/model.safetensors",
        "text_encoder_2": "text_encoder_2/model.safetensors",
    },
}

torch.set_num_threads(1)
torch.set_grad_enabled(False)
for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()


def note(*words) -> None:
    print(*words, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- random numbers

def seeded(name: str) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(zlib.crc32(name.encode()))


# ---------------------------------------------------------------- models

@cache
def weights(base: str) -> dict:
    """Site -> value in f64 (the files are f16)."""
    out = {}
    for part, file in PART_FILES[base].items():
        for key, value in load_file(str(GOLDENS / base / file)).items():
            if value.is_floating_point():
                out[f"{part}.{key}"] = value.double()
    return out


def hashes(base: str) -> dict:
    return {
        part: hashlib.sha256((GOLDENS / base / file).read_bytes()).hexdigest()
        for part, file in PART_FILES[base].items()
    }


def part_model(base: str, part: str, dtype=torch.float64):
    """A fresh model; its weights are those of the file."""
    folder = str(GOLDENS / base / part)
    if part == "unet":
        model = diffusers.UNet2DConditionModel.from_pretrained(folder, torch_dtype=dtype)
    elif part == "text_encoder_2":
        model = transformers.CLIPTextModelWithProjection.from_pretrained(folder, dtype=dtype)
    else:
        model = transformers.CLIPTextModel.from_pretrained(folder, dtype=dtype)
    model = model.to(dtype).eval().requires_grad_(False)
    known = weights(base)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value.double(), known[site_of(part, name)]), (base, part, name)
    return model


def parts(base: str) -> list[str]:
    return list(PART_FILES[base])


def site_of(part: str, path: str) -> str:
    """A path in today's python model -> our canonical name (transformers 5 dropped `text_model.`)."""
    if part != "unet" and not path.startswith(("text_model.", "text_projection")):
        path = "text_model." + path
    return f"{part}.{path}"


def split_site(name: str) -> tuple[str, str]:
    """`text_encoder.text_model.x` -> (`text_encoder`, `text_model.x`)"""
    part, rest = name.split(".", 1)
    return part, rest


def python_path(module: str, model) -> str:
    """Module id -> path inside `model` as python has it now."""
    _, rest = split_site(module)
    names = {n for n, _ in model.named_modules()}
    return rest if rest in names else rest.removeprefix("text_model.")


@cache
def modules(base: str) -> dict:
    """Module id -> kind (`linear`, `conv`, `norm`, `embedding`), in registration order."""
    out = {}
    for part in parts(base):
        for path, module in part_model(base, part).named_modules():
            kind = {
                "Linear": "linear", "Conv2d": "conv", "GroupNorm": "norm", "LayerNorm": "norm", "Embedding": "embedding",
            }.get(type(module).__name__)
            if kind is None and hasattr(module, "in_features"):
                kind = "linear"
            if kind is None and hasattr(module, "kernel_size"):
                kind = "conv"
            if kind:
                out[site_of(part, path)] = kind
    return out


# ---------------------------------------------------------------- diffusers <-> ldm

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}


def ldm_of(base: str, path: str) -> str:
    """UNet path in diffusers' spelling -> ldm's (specification 1.3)."""
    flat = {
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    }
    if path in flat:
        return flat[path]
    bits = path.split(".")
    if bits[0] == "mid_block":
        j = int(bits[2])
        if bits[1] == "resnets":
            return f"middle_block.{2 * j}.{RESNET[bits[3]]}"
        return ".".join(["middle_block.1", *bits[3:]])
    i, what, j, rest = int(bits[1]), bits[2], int(bits[3]), bits[4:]
    if bits[0] == "down_blocks":
        if what == "downsamplers":
            return f"input_blocks.{3 * (i + 1)}.0.op"
        head = f"input_blocks.{3 * i + j + 1}"
    else:
        if what == "upsamplers":
            has_attention = any(m.startswith(f"unet.up_blocks.{i}.attentions.") for m in modules(base))
            return f"output_blocks.{3 * i + 2}.{2 if has_attention else 1}.conv"
        head = f"output_blocks.{3 * i + j}"
    if what == "resnets":
        return f"{head}.0.{RESNET[rest[0]]}"
    return ".".join([head, "1", *rest])


def flat(path: str) -> str:
    return path.replace(".", "_")


# ---------------------------------------------------------------- the modules that most files touch

CORE = {
    "sd15": [
        "unet.down_blocks.0.attentions.0.proj_in",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2",
        "unet.down_blocks.0.resnets.0.conv1",
        "unet.down_blocks.0.resnets.0.time_emb_proj",
        "unet.down_blocks.0.downsamplers.0.conv",
        "unet.down_blocks.1.resnets.0.conv_shortcut",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
        "unet.up_blocks.0.upsamplers.0.conv",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        "text_encoder.text_model.encoder.layers.2.mlp.fc1",
    ],
    "sd2": [
        "unet.down_blocks.0.attentions.0.proj_in",
        "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_v",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
        "unet.down_blocks.0.resnets.1.conv2",
        "unet.down_blocks.0.downsamplers.0.conv",
        "unet.up_blocks.0.upsamplers.0.conv",
        "unet.up_blocks.3.resnets.2.conv_shortcut",
        "unet.up_blocks.3.attentions.2.proj_out",
        "text_encoder.text_model.encoder.layers.0.self_attn.v_proj",
        "text_encoder.text_model.encoder.layers.1.mlp.fc2",
    ],
    "sdxl": [
        "unet.down_blocks.1.attentions.0.proj_in",
        "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
        "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_out.0",
        "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
        "unet.down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_v",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2",
        "unet.down_blocks.0.resnets.0.conv1",
        "unet.down_blocks.0.resnets.0.time_emb_proj",
        "unet.down_blocks.0.downsamplers.0.conv",
        "unet.down_blocks.1.resnets.0.conv_shortcut",
        "unet.mid_block.attentions.0.transformer_blocks.3.ff.net.2",
        "unet.up_blocks.1.upsamplers.0.conv",
        "unet.add_embedding.linear_1",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        "text_encoder.text_model.encoder.layers.2.mlp.fc1",
        "text_encoder_2.text_model.encoder.layers.1.self_attn.out_proj",
        "text_encoder_2.text_model.encoder.layers.2.mlp.fc1",
    ],
}


def bases_summary() -> dict:
    return {base: hashes(base) for base in PART_FILES}


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))
