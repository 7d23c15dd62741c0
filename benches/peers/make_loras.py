"""LoRA files in kohya's format for the full-size models of make_fullsize.py, with random f16 factors.

    python make_loras.py MODEL OUT

Writes OUT/r16-{0..7}.safetensors (every linear layer under an attention, and the text encoders) and OUT/locon64.safetensors
(rank 64, convolutions too). Times do not depend on the values.
"""

import pathlib
import sys

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel


def modules(folder):
    """(kohya name, weight shape) of everything that kohya's network adapts."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
        towers = [CLIPTextModel(CLIPTextConfig.from_pretrained(folder / name))
                  for name in ("text_encoder", "text_encoder_2") if (folder / name).is_dir()]
    for name, module in unet.named_modules():
        if hasattr(module, "weight") and module.weight is not None and module.weight.ndim > 1:
            if name.split(".")[0] in ("down_blocks", "mid_block", "up_blocks"):
                yield "lora_unet_" + name.replace(".", "_"), tuple(module.weight.shape)
    for index, tower in enumerate(towers, 1):
        prefix = "lora_te_" if len(towers) == 1 else f"lora_te{index}_"
        for name, module in tower.named_modules():
            if isinstance(module, torch.nn.Linear) and "layers" in name:
                name = name.removeprefix("text_model.")
                yield prefix + "text_model_" + name.replace(".", "_"), tuple(module.weight.shape)


def network(folder, rank, convolutions, seed):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: (torch.randn(shape, generator=generator) * 0.01).half()
    tensors = {}
    for name, shape in modules(folder):
        if not convolutions and "unet" in name and "attentions" not in name:
            continue
        kernel = shape[2:]
        tensors[f"{name}.lora_down.weight"] = random(rank, *shape[1:])
        tensors[f"{name}.lora_up.weight"] = random(shape[0], rank, *(1 for _ in kernel))
        tensors[f"{name}.alpha"] = torch.tensor(rank / 2).half()
    return tensors


def main():
    folder, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for index in range(8):
        save_file(network(folder, 16, False, index), out / f"r16-{index}.safetensors", metadata={"format": "pt"})
    save_file(network(folder, 64, True, 99), out / "locon64.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
