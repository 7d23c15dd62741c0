"""Full-size SD 1.5 or SDXL with random f16 weights in the diffusers layout, for timing.

    python make_fullsize.py OUT {sd15,sdxl}

Times do not depend on the values of the weights; the pictures mean nothing.
"""

import json
import pathlib
import sys

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

MERGES = pathlib.Path(__file__).parents[2] / "src/conditioning/data/clip_merges.txt"
L = dict(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
         projection_dim=768)
G = dict(vocab_size=49408, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
         projection_dim=1280, hidden_act="gelu")
SD15 = dict(cross_attention_dim=768, sample_size=64)
SDXL = dict(
    sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), use_linear_projection=True,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20], addition_embed_type="text_time",
    addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)
VAE = dict(block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
           up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, sample_size=512)


def write(kind, config, folder):
    with torch.device("meta"):
        model = kind(CLIPTextConfig(**config)) if "vocab_size" in config else kind(**config)
    device = "cuda" if torch.cuda.is_available() else "cpu"  # much faster where there is one
    model = model.to_empty(device=device).to(torch.float16)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator, device=device) * 0.02
        parameter.data = (values + ("norm" in name and name.endswith("weight"))).to(torch.float16)
    model.save_pretrained(folder)


def tokenizer(folder):
    merges = MERGES.read_text(encoding="utf-8").splitlines()[1:]
    visible = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters = [chr(b) for b in visible]
    letters += [chr(256 + i) for i in range(256 - len(visible))]
    words = letters + [a + "</w>" for a in letters] + ["".join(m.split()) for m in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
               "pad_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}))


def main(out, which):
    out, xl = pathlib.Path(out), which == "sdxl"
    write(UNet2DConditionModel, SDXL if xl else SD15, out / "unet")
    write(AutoencoderKL, VAE | {"scaling_factor": 0.13025 if xl else 0.18215}, out / "vae")
    write(CLIPTextModel, L, out / "text_encoder")
    tokenizer(out / "tokenizer")
    kind = "XL" if xl else ""
    index = {"_class_name": f"StableDiffusion{kind}Pipeline", "scheduler": ["diffusers", "EulerDiscreteScheduler"],
             "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    if xl:
        write(CLIPTextModelWithProjection, G, out / "text_encoder_2")
        tokenizer(out / "tokenizer_2")
        index |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
                  "tokenizer_2": ["transformers", "CLIPTokenizer"], "force_zeros_for_empty_prompt": True}
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    (out / "model_index.json").write_text(json.dumps(index, indent=1))
    (out / "scheduler").mkdir(exist_ok=True)
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(
        {"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
         "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "steps_offset": 1,
         "timestep_spacing": "leading", "prediction_type": "epsilon"}, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:3])
