"""UNets of other layouts in variants/NAME/, the small autoencoder in taesd/, and their goldens."""

import diffusers

from make_models import micro, unet_goldens
from tiny import *

NARROW = dict(block_out_channels=[8, 8, 8, 8])
XL_NARROW = dict(block_out_channels=[8, 8, 8], attention_head_dim=[2, 2, 2])
VARIANTS = {
    "inpaint": unet_sd15(in_channels=9, **NARROW),
    "pix2pix": unet_sd15(in_channels=8, **NARROW),
    "lcm": unet_sd15(time_cond_proj_dim=16, **NARROW),
    # BK-SDM-Tiny, segmind/tiny-sd: three levels, one layer a block, no middle.
    "tiny-sd": unet_sd15(
        block_out_channels=[8, 12, 16], layers_per_block=1, mid_block_type=None,
        down_block_types=["CrossAttnDownBlock2D"] * 3, up_block_types=["CrossAttnUpBlock2D"] * 3),
    # SSD-1B: a middle of one resnet, another number of transformer layers for each attention.
    "ssd-1b": unet_sdxl(
        mid_block_type="UNetMidBlock2D", transformer_layers_per_block=[1, [2, 2], [4, 4]],
        reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], 1], **XL_NARROW),
    # KOALA: SDXL with one layer a block and no middle.
    "koala": unet_sdxl(layers_per_block=1, mid_block_type=None, transformer_layers_per_block=[1, 2, 5], **XL_NARROW),
}
TAESD = {
    "_class_name": "AutoencoderTiny",
    "_diffusers_version": "0.20.0.dev0",
    "act_fn": "relu",
    "decoder_block_out_channels": [16, 16, 16, 16],
    "encoder_block_out_channels": [16, 16, 16, 16],
    "force_upcast": False,
    "in_channels": 3,
    "latent_channels": 4,
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "out_channels": 3,
    "scaling_factor": 1.0,
    "upsampling_scaling_factor": 2,
}


def make_taesd() -> None:
    model = rounded(randomise(diffusers.AutoencoderTiny.from_config(TAESD), 71))
    write_part(HERE / "taesd", TAESD, half_state(model), "diffusion_pytorch_model.safetensors")
    generator, out = seeded(72), {}
    for h, w in ((8, 8), (9, 12)):
        latents = 2 * torch.randn(1, 4, h, w, generator=generator)  # some beyond the clamp at 3
        picture = torch.rand(1, 3, 8 * h, 8 * w, generator=generator) * 2 - 1
        out[f"taesd.decode.{h}x{w}.latents"] = latents
        out[f"taesd.decode.{h}x{w}.out"] = model.decode(latents).sample
        if h == 8:
            out[f"taesd.encode.{h}x{w}.picture"] = picture
            out[f"taesd.encode.{h}x{w}.out"] = model.encode(picture).latents
    write_tensors(HERE / "taesd_parts.safetensors", out)


def make_shards(state: dict, folder: Path, config: dict) -> None:
    names = sorted(state)
    stem = "diffusion_pytorch_model"
    files = [f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    # Cut in the middle of a block, so that neither shard is complete in itself.
    groups = [names[: len(names) // 2], names[len(names) // 2:]]
    for file, group in zip(files, groups):
        write_tensors(folder / file, {name: state[name] for name in group})
    size = sum(v.numel() * v.element_size() for v in state.values())
    where = {name: file for file, group in zip(files, groups) for name in group}
    write_json(folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": where})
    write_json(folder / "config.json", config)


def main() -> None:
    goldens = {}
    for i, (name, config) in enumerate(VARIANTS.items()):
        unet = rounded(make_unet(config, 60 + i))
        write_unet(HERE / "variants" / name, config, unet)
        goldens |= unet_goldens(unet, 80 + i, name=name, mixed=name == "lcm")
        note(f"{name}: {tensors_on_disk(HERE / 'variants' / name) >> 10} KiB")
        if name == "tiny-sd":
            make_shards(half_state(unet), HERE / "variants" / "tiny-sd-sharded", config)
            state = {key: value.bfloat16() for key, value in unet.state_dict().items()}
            write_part(HERE / "variants" / "tiny-sd-bf16", config, state, "diffusion_pytorch_model.safetensors")
            unet.load_state_dict({key: value.float() for key, value in state.items()})
            goldens |= unet_goldens(unet, 90, sizes=((8, 8),), name="tiny-sd-bf16", mixed=False)
    write_tensors(HERE / "variants_parts.safetensors", goldens)
    make_taesd()


if __name__ == "__main__":
    main()
