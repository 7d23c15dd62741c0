"""Turns a diffusers folder into the single file of the original code (ldm, sgm), and prints the table of names.

    to_single_file.py FOLDER OUT.safetensors|OUT.ckpt [--table OUT.tsv]
    to_single_file.py --all      what stands in single/

Works on full-size models too. The family is read off the folder: tokenizer_2 means SDXL, linear projections SD2.
"""

import argparse

from safetensors.torch import load_file

from common import *

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
OPEN_CLIP_ENDS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
VAE_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",
}


def unet_name(name: str, config: dict) -> str:
    stem, leaf = name.rsplit(".", 1)
    if stem in UNET_ENDS:
        return f"{UNET_ENDS[stem]}.{leaf}"
    side, rest = name.split(".", 1)
    layers = config["layers_per_block"]
    if side == "mid_block":
        kind, j, rest = rest.split(".", 2)
        place = 2 * int(j) if kind == "resnets" else 1
        return f"middle_block.{place}.{resnet(rest) if kind == 'resnets' else rest}"
    i, kind, j, rest = rest.split(".", 3)
    i, j = int(i), int(j)
    if side == "down_blocks":
        first = (layers + 1) * i + j + 1
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (i + 1)}.0.op.{leaf}"
        return f"input_blocks.{first}.{'0.' + resnet(rest) if kind == 'resnets' else '1.' + rest}"
    first = (layers + 1) * i + j
    if kind == "upsamplers":
        place = 2 if config["up_block_types"][i].startswith("CrossAttn") else 1
        return f"output_blocks.{(layers + 1) * i + layers}.{place}.conv.{leaf}"
    return f"output_blocks.{first}.{'0.' + resnet(rest) if kind == 'resnets' else '1.' + rest}"


def resnet(rest: str) -> str:
    part, leaf = rest.split(".", 1)
    return f"{RESNET[part]}.{leaf}"


def vae_name(name: str, levels: int) -> str:
    for side in ("encoder", "decoder"):
        name = name.replace(f"{side}.conv_norm_out.", f"{side}.norm_out.")
        for j in (0, 1):
            name = name.replace(f"{side}.mid_block.resnets.{j}.", f"{side}.mid.block_{j + 1}.")
    for new, old in VAE_ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
    name = name.replace("conv_shortcut", "nin_shortcut")
    for i in range(levels):
        for new, old in (("resnets", "block"), ("samplers.0", "sample")):
            way = ("down", "up") if new == "samplers.0" else ("", "")
            name = name.replace(f"down_blocks.{i}.{way[0]}{new}.", f"down.{i}.{way[0]}{old}.")
            name = name.replace(f"up_blocks.{i}.{way[1]}{new}.", f"up.{levels - 1 - i}.{way[1]}{old}.")
    return name


def open_clip(state: dict, table: list, prefix: str) -> dict:
    out = {}

    def put(name: str, value, source: str) -> None:
        out[prefix + name] = value
        table.append((source, prefix + name))

    width = state["text_model.final_layer_norm.weight"].shape[0]
    layers = "text_model.encoder.layers."
    for name, value in state.items():
        if name in OPEN_CLIP_ENDS:
            put(OPEN_CLIP_ENDS[name], value, name)
        elif name == "text_projection.weight":
            put("text_projection", value.T.contiguous(), name + " (transposed)")
        elif name.startswith(layers):
            n, rest = name.removeprefix(layers).split(".", 1)
            stem, leaf = rest.rsplit(".", 1)
            if stem in OPEN_CLIP_LAYER:
                put(f"transformer.resblocks.{n}.{OPEN_CLIP_LAYER[stem]}.{leaf}", value, name)
            elif stem == "self_attn.q_proj":
                parts = [state[f"{layers}{n}.self_attn.{x}_proj.{leaf}"] for x in "qkv"]
                put(f"transformer.resblocks.{n}.attn.in_proj_{leaf}", torch.cat(parts),
                    f"{layers}{n}.self_attn.{{q,k,v}}_proj.{leaf} (rows one after another)")
            else:
                assert stem in ("self_attn.k_proj", "self_attn.v_proj"), name
    if "text_projection.weight" not in state:
        out[prefix + "text_projection"] = 0.1 * torch.randn(width, width, generator=torch.Generator().manual_seed(3)).half()
    out[prefix + "logit_scale"] = torch.tensor(4.6052).half()
    return out


def part(folder: Path, name: str) -> dict:
    return load_file(next((folder / name).glob("*.safetensors")))


def convert(folder: Path) -> tuple[dict, list]:
    """The tensors of the single file, and the pairs (component/diffusers name, name in the file)."""
    config = read_json(folder / "unet" / "config.json")
    out, table = {}, []

    def take(component: str, rename, change=lambda name, value: value) -> None:
        for name, value in part(folder, component).items():
            out[rename(name)] = change(name, value)
            table.append((f"{component}/{name}", rename(name)))

    def widen(name: str, value):
        """The attention of the first code's VAE is made of 1x1 convolutions."""
        inner = ".attentions.0." in name and "group_norm" not in name and name.endswith("weight")
        return value.reshape(*value.shape[:2], 1, 1) if inner else value

    def text_clip(component: str, prefix: str) -> None:
        take(component, lambda name: prefix + name)

    def text_open_clip(component: str, prefix: str) -> None:
        pairs = []
        out.update(open_clip(part(folder, component), pairs, prefix))
        table.extend((f"{component}/{a}", b) for a, b in pairs)

    take("unet", lambda name: "model.diffusion_model." + unet_name(name, config))
    levels = len(read_json(folder / "vae" / "config.json")["block_out_channels"])
    take("vae", lambda name: "first_stage_model." + vae_name(name, levels), widen)
    if (folder / "tokenizer_2").exists():
        text_clip("text_encoder", "conditioner.embedders.0.transformer.")
        text_open_clip("text_encoder_2", "conditioner.embedders.1.model.")
        out["denoiser.sigmas"] = torch.linspace(0.03, 14.6, 1000).half()
    elif config.get("use_linear_projection"):
        text_open_clip("text_encoder", "cond_stage_model.model.")
        # The file has one layer more than is used: the picture is made from the last but one.
        base = "cond_stage_model.model.transformer.resblocks."
        count = 1 + max(int(k.removeprefix(base).split(".")[0]) for k in out if k.startswith(base))
        for name in [k for k in out if k.startswith(base + "0.")]:
            out[name.replace(base + "0.", f"{base}{count}.")] = out[name].flip(0).contiguous()
    else:
        text_clip("text_encoder", "cond_stage_model.transformer.")
    if not (folder / "tokenizer_2").exists():
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        out["betas"] = betas.float()
        out["alphas_cumprod"] = torch.cumprod(1 - betas, 0).float()
        out["model_ema.decay"] = torch.tensor(0.9999)
        out["model_ema.num_updates"] = torch.tensor(1, dtype=torch.int32)
    return out, table


def check(folder: Path, state: dict) -> None:
    """diffusers' own converter must give the folder back."""
    from diffusers.loaders import single_file_utils as theirs

    unet_config = read_json(folder / "unet" / "config.json")
    back = theirs.convert_ldm_unet_checkpoint(
        dict(state), {"class_embed_type": None, "addition_embed_type": None, "num_class_embeds": None, **unet_config})
    mine = part(folder, "unet")
    assert mine.keys() == back.keys() and all(torch.equal(mine[k], back[k]) for k in mine), "unet"
    back = theirs.convert_ldm_vae_checkpoint(dict(state), read_json(folder / "vae" / "config.json"))
    # The converter writes the attention under the old names in some versions, under the new ones in others.
    fold = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

    def modern(name: str) -> str:
        for old, new in fold.items():
            name = name.replace(f"attentions.0.{old}.", f"attentions.0.{new}.")
        return name

    back = {modern(k): v for k, v in back.items()}
    mine = {modern(k): v for k, v in part(folder, "vae").items()}
    assert mine.keys() == back.keys(), "vae"
    assert all(torch.equal(mine[k], back[k].reshape(mine[k].shape)) for k in mine), "vae"
    note(f"{folder.name}: diffusers' converter gives the UNet and the VAE back")


def write(state: dict, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".ckpt":
        torch.save({"epoch": 12, "global_step": 840000, "state_dict": state}, out)
    else:
        write_tensors(out, state)


def write_table(table: list, out: Path) -> None:
    lines = [f"{theirs}\t{ours}" for ours, theirs in table]
    out.write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--table", type=Path, help="name in the file, tab, component/name in the folder")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    if not options.all:
        state, table = convert(options.folder)
        write(state, options.out)
        if options.table:
            write_table(table, options.table)
        return
    for name in ("sd15", "sd2", "sdxl"):
        state, table = convert(HERE / name)
        check(HERE / name, state)
        write(state, HERE / "single" / f"{name}.safetensors")
        write_table(table, HERE / "single" / f"{name}.tsv")
        if name == "sd15":
            write(state, HERE / "single" / f"{name}.ckpt")
    # One component as diffusers used to write it.
    torch.save(part(HERE / "sd2", "text_encoder"), HERE / "single" / "sd2_text_encoder.bin")


if __name__ == "__main__":
    main()
