"""Writes merge.safetensors: what PEFT's add_weighted_adapter makes of two LoRAs on a tiny UNet.

`a/KEY`, `b/KEY`, `c/KEY`: the adapters, in diffusers' grammar, with alphas. `WHAT/SITE`: the change by the merge, for the
pairs and options in the metadata. Needs torch, diffusers and peft; the UNet is that of ../goldens/sd15.
"""

import json
from pathlib import Path

import peft
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

HERE = Path(__file__).parent
ROOT = "down_blocks.0.attentions.0."
MODULES = [ROOT + "proj_in", ROOT + "transformer_blocks.0.attn1.to_q", ROOT + "transformer_blocks.0.attn2.to_k",
           ROOT + "transformer_blocks.0.ff.net.2", "down_blocks.0.resnets.0.conv1"]
RANKS = {"a": (2, 5), "b": (3, 4), "c": (3, 1)}
FULL = 8  # outputs of every module
MERGES = {
    "cat": ("ab", (0.7, -0.4), {"combination_type": "cat"}),
    "linear": ("bc", (0.7, -0.4), {"combination_type": "linear"}),
    "svd": ("ab", (0.7, -0.4), {"combination_type": "svd", "svd_rank": 3}),
    "ties_svd": ("ab", (0.7, 0.4), {"combination_type": "ties_svd", "svd_rank": FULL, "density": 0.5}),
}


def main() -> None:
    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_pretrained(HERE.parent / "goldens/sd15/unet", torch_dtype=torch.float32)
    configs = {
        name: LoraConfig(r=r, lora_alpha=alpha, target_modules=MODULES, init_lora_weights=False)
        for name, (r, alpha) in RANKS.items()
    }
    model = get_peft_model(unet, configs["a"], adapter_name="a")
    for name in "bc":
        model.add_adapter(name, configs[name])
    out = {}
    for name, (_, alpha) in RANKS.items():
        for module in MODULES:
            layer = unet.get_submodule(module)
            for side in ("lora_A", "lora_B"):
                weight = getattr(layer, side)[name].weight
                torch.nn.init.normal_(weight)
                out[f"{name}/unet.{module}.{side}.weight"] = weight.detach().clone()
            out[f"{name}/unet.{module}.alpha"] = torch.tensor(float(alpha))
    for what, (adapters, weights, options) in MERGES.items():
        model.add_weighted_adapter(list(adapters), list(weights), what, **options)
        for module in MODULES:
            delta = unet.get_submodule(module).get_delta_weight(what)
            out[f"{what}/unet.{module}.weight"] = delta.detach().clone().contiguous()
    notes = {what: json.dumps([adapters, weights, options]) for what, (adapters, weights, options) in MERGES.items()}
    save_file(out, HERE / "merge.safetensors", {"peft": peft.__version__, "torch": torch.__version__, **notes})


main()
