"""Files written by PEFT and diffusers themselves, goldens from PEFT's own forward."""

import json
import tempfile
import warnings

from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import BOFTConfig, IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file

from zoo_kohya import dotted_stem, spell
from zoo_probe import probed
from zoo_store import *

warnings.filterwarnings("ignore")
ROLE = {"lora_A": "down", "lora_B": "up", "lora_magnitude_vector": "magnitude",
        "lora_embedding_A": "embedding_A", "lora_embedding_B": "embedding_B"}
U, A = "unet.down_blocks.0.", "unet.down_blocks.0.attentions.0.transformer_blocks.0."


def parameters(layer) -> dict:
    """role -> parameter of a PEFT layer."""
    out = {}
    for name, value in layer.named_parameters():
        if "base_layer" in name or ".default" not in name:
            continue
        head, tail = name.split(".default")
        role = ROLE.get(head, head)
        out[role + "_bias" if tail == ".bias" else role] = value
    return out


def short_paths(chosen, part, model):
    return [python_path(m, model) for m in chosen if split_site(m)[0] == part]


def randomise(model, part, chosen, base, generator, metas, strength=STRENGTH) -> None:
    for module in chosen:
        if split_site(module)[0] != part:
            continue
        layer = model.get_submodule(python_path(module, model))
        values = parameters(layer)
        assert values, module
        shapes = {k: torch.zeros(v.shape) for k, v in values.items()}
        weight, bias = weights(base)[f"{module}.weight"], weights(base).get(f"{module}.bias")
        for role, value in fill(shapes, weight, bias, generator, torch.float32, metas[module], strength).items():
            values[role].copy_(value)


def learn(model, part, chosen, metas, precision, members, forwards, dtype=torch.float32):
    for module in chosen:
        if split_site(module)[0] != part:
            continue
        layer = model.get_submodule(python_path(module, model))
        for value in parameters(layer).values():
            value.copy_(value.to(dtype))
        roles = {k: v.detach().float().clone() for k, v in parameters(layer).items()}
        if metas[module].get("no_scale"):
            roles["alpha"] = 0
        members[module] = (roles, metas[module])
        forwards[module] = probed(layer, precision)


def patterns(module: str, table: dict, default):
    path = split_site(module)[1]
    for key, value in table.items():
        if re.match(rf"(.*\.)?({key})$", path) or re.match(rf"(.*\.)?({key})$", path.removeprefix("text_model.")):
            return value
    return default


import re


def lora_files(zoo, base, what, chosen, r=4, alpha=6, ranks=None, alphas=None, notes="", converted=False, metadata=True,
               also_converted=True, sketched=False, dtype=torch.float32, **options):
    """LoRA through diffusers: add_adapter, get_peft_model_state_dict, save_lora_weights."""
    name = f"{base}-{what}"
    ranks, alphas = ranks or {}, alphas or {}
    generator, models, metas = seeded(name), {}, {}
    for module in chosen:
        metas[module] = {"alpha": patterns(module, alphas, alpha), "rslora": options.get("use_rslora", False)}
    members, forwards, states, configs = {}, {}, {}, {}
    for part in parts(base):
        inside = [m for m in chosen if m.startswith(part + ".")]
        if not inside:
            continue
        model = part_model(base, part, torch.float32)
        config = LoraConfig(r=r, lora_alpha=alpha, target_modules=sorted(short_paths(chosen, part, model)), rank_pattern=dict(ranks),
                            alpha_pattern=dict(alphas), init_lora_weights=False, **options)
        model.add_adapter(config)
        randomise(model, part, chosen, base, generator, metas)
        for module in inside:
            for value in parameters(model.get_submodule(python_path(module, model))).values():
                value.copy_(value.to(dtype))
        states[part] = {k: v.detach().to(dtype).clone() for k, v in get_peft_model_state_dict(model).items()}
        config = model.peft_config["default"]
        config.base_model_name_or_path = None
        config.target_modules = sorted(config.target_modules)
        models[part] = configs[part] = model
        model.double()
        learn(model, part, chosen, metas, torch.float64, members, forwards, dtype)
    pipeline = diffusers.StableDiffusionXLPipeline if base == "sdxl" else diffusers.StableDiffusionPipeline

    def save(label, change):
        more = {}
        if metadata:
            more = _collate_lora_metadata({p: configs[p] for p in states})
        for part, state in states.items():
            more[f"{part}_lora_layers"] = change(state)
        with tempfile.TemporaryDirectory() as folder:
            pipeline.save_lora_weights(folder, weight_name="file.safetensors", **more)
            with safe_open(folder + "/file.safetensors", "pt") as f:
                meta = dict(sorted((f.metadata() or {}).items()))
            write(HERE / f"good/{label}.safetensors", load_file(folder + "/file.safetensors"), meta)

    save(name, lambda s: s)
    producer = f"PEFT {VERSIONS['peft']} LoraConfig, diffusers {VERSIONS['diffusers']} save_lora_weights"
    if options:
        producer += " " + " ".join(f"{k}={v}" for k, v in options.items())
    kind = "dora" if options.get("use_dora") else "lora"
    zoo.add(name, base, kind, producer, None, members, forwards, sketched=sketched,
            notes=notes + ("" if metadata else "; no metadata, alpha = rank"))
    if also_converted:
        save(name + "-converted", convert_state_dict_to_diffusers)
        zoo.add(name + "-converted", base, kind, producer + ", convert_state_dict_to_diffusers", goldens=name,
                notes=".lora.down / lora_linear_layer beside lora_A in one file")
    return name


def native(zoo, base, what, config, chosen, metas, kind, precision=torch.float64, notes="", part="unet", merged=False, **more):
    """A PEFT folder: adapter_model.safetensors and adapter_config.json."""
    name = f"{base}-{what}"
    inside = part_model(base, part, torch.float32)
    config.target_modules = sorted(short_paths(chosen, part, inside)) if config.target_modules is None else config.target_modules
    model = get_peft_model(inside, config)
    core = model.base_model.model
    randomise(core, part, chosen, base, seeded(name), metas)
    folder = HERE / "good" / name
    model.peft_config["default"].base_model_name_or_path = None
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    settings = read_json(folder / "adapter_config.json")
    settings = {k: sorted(v) if isinstance(v, list) else v for k, v in sorted(settings.items())}
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    tensors = load_file(str(folder / "adapter_model.safetensors"))
    write(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    members, forwards = {}, {}
    model.to(precision)
    learn(core, part, chosen, metas, precision, members, forwards)
    if merged:
        plain = model.merge_and_unload()
        for module in chosen:
            inner = plain.get_submodule(split_site(module)[1])
            forwards[module] = (inner.weight, inner.bias)
    zoo.add(name, base, kind, f"PEFT {VERSIONS['peft']} {type(config).__name__}, save_pretrained", None, members, forwards,
            file=f"good/{name}/adapter_model.safetensors", config=f"good/{name}/adapter_config.json", notes=notes, **more)
    return tensors, settings


def make(zoo: Zoo) -> None:
    some = [U + "attentions.0.proj_in", A + "attn1.to_q", A + "attn1.to_out.0", A + "attn2.to_k", A + "ff.net.0.proj", A + "ff.net.2",
            U + "resnets.0.conv1", U + "downsamplers.0.conv", "unet.down_blocks.1.resnets.0.conv_shortcut",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj", "text_encoder.text_model.encoder.layers.1.mlp.fc2"]
    few = [some[i] for i in (0, 1, 2, 3, 6, 8)]
    lora_files(zoo, "sd15", "peft", some, ranks={"attn2.to_k": 3, "conv1": 2, "q_proj": 5},
               alphas={"attn1.to_q": 10, r"down_blocks\.0\.resnets\.\d+\.conv1": 1, "encoder.layers.0.self_attn.q_proj": 2},
               notes="rank and alpha patterns: suffix, regular expression, path; lora_adapter_metadata")
    lora_files(zoo, "sd15", "peft-nometa", some, r=3, alpha=3, metadata=False)
    lora_files(zoo, "sd15", "peft-rslora", few, r=4, alpha=6, use_rslora=True, ranks={"attn2.to_k": 2},
               notes="scale alpha/√r by the metadata", also_converted=False)
    lora_files(zoo, "sd15", "peft-dora", few, r=2, alpha=3, use_dora=True, ranks={"attn2.to_k": 3},
               notes="lora_magnitude_vector: linear [out], convolution [1,out,1,1]")
    lora_files(zoo, "sd15", "peft-bias", [some[2], some[4], some[6], some[8], some[9]], r=2, alpha=3, lora_bias=True,
               notes="lora_B.bias")
    lora_files(zoo, "sd15", "peft-f16", few, r=2, alpha=5, dtype=torch.float16, also_converted=False)
    lora_files(zoo, "sd15", "peft-embedding", ["text_encoder.text_model.embeddings.token_embedding", some[9]], r=2, alpha=5,
               notes="lora_embedding_A/B", sketched=True, also_converted=False, dtype=torch.float16)
    b = "unet.down_blocks.1.attentions.0.transformer_blocks.1."
    xl = [b + "attn1.to_q", b + "attn1.to_out.0", b + "attn2.to_k", b + "attn2.to_v", b + "ff.net.2",
          "unet.down_blocks.2.attentions.0.proj_in", "unet.down_blocks.0.resnets.0.conv1", "unet.add_embedding.linear_1",
          "text_encoder.text_model.encoder.layers.0.self_attn.q_proj", "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj",
          "text_encoder_2.text_model.encoder.layers.2.mlp.fc1"]
    lora_files(zoo, "sdxl", "peft", xl, ranks={"attn2.to_k": 3, "mlp.fc1": 1}, alphas={"attn1.to_q": 10, "linear_1": 2})
    lora_files(zoo, "sdxl", "peft-dora", xl[:4] + xl[6:7] + xl[9:10], r=2, alpha=3, use_dora=True)
    lora_files(zoo, "sd2", "peft", [
        "unet.down_blocks.0.attentions.0.proj_in", "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0", "unet.up_blocks.0.upsamplers.0.conv",
        "text_encoder.text_model.encoder.layers.2.self_attn.out_proj"], ranks={"attn2.to_k": 2}, alphas={"out_proj": 9})

    natives(zoo, few)


def natives(zoo, few) -> None:
    base = "sd15"
    lokr_ranks, lokr_alphas = {"attn2.to_k": 1, "conv1": 2}, {"attn1.to_q": 5}

    def scaled(default, table, **more):
        return {m: {"alpha": patterns(m, table, default), **more} for m in few}

    native(zoo, base, "peftfolder-lora", LoraConfig(r=3, lora_alpha=5, rank_pattern={"attn2.to_k": 2},
           alpha_pattern={"attn1.to_q": 7}, init_lora_weights=False), few, scaled(5, {"attn1.to_q": 7}), "lora")
    native(zoo, base, "peftfolder-rslora-dora", LoraConfig(r=4, lora_alpha=5, use_rslora=True, use_dora=True,
           init_lora_weights=False), few, scaled(5, {}, rslora=True), "dora")
    te = ["text_encoder.text_model.encoder.layers.0.self_attn.q_proj", "text_encoder.text_model.encoder.layers.1.mlp.fc1"]
    native(zoo, base, "peftfolder-te", LoraConfig(r=2, lora_alpha=5, init_lora_weights=False), te,
           {m: {"alpha": 5} for m in te}, "lora", part="text_encoder", notes="base_model.model.encoder.…: only by lookup the text encoder")
    native(zoo, base, "peftfolder-loha", LoHaConfig(r=2, alpha=5, alpha_pattern={"attn1.to_q": 3}, rank_pattern={"attn2.to_k": 3},
           init_weights=False), few, scaled(5, {"attn1.to_q": 3}), "loha", notes="alpha only in adapter_config.json")
    native(zoo, base, "peftfolder-loha-effective", LoHaConfig(r=2, alpha=5, use_effective_conv2d=True, init_weights=False),
           few, scaled(5, {}), "loha", notes="hada_t1/t2 for 3×3")
    metas = {m: {"alpha": patterns(m, lokr_alphas, 6), "r": patterns(m, lokr_ranks, 3), "tuner": "LOKR"} for m in few}
    native(zoo, base, "peftfolder-lokr", LoKrConfig(r=3, alpha=6, rank_pattern=lokr_ranks, alpha_pattern=lokr_alphas, decompose_factor=4,
           init_weights=False), few, metas, "lokr",
           notes="scale alpha/r of the configuration also where both factors are full: unlike LyCORIS")
    metas = {m: {"alpha": 3, "r": 1, "tuner": "LOKR"} for m in few}
    native(zoo, base, "peftfolder-lokr-both", LoKrConfig(r=1, alpha=3, decompose_both=True, decompose_factor=4, use_effective_conv2d=True,
           init_weights=False), few, metas, "lokr", notes="w1 and w2 decomposed, lokr_t2")
    none = {m: {} for m in few}
    flatter = [m for m in few if not m.endswith("conv1")]
    for what, options in (("", {}), ("-exact", {"use_cayley_neumann": False}), ("-share", {"block_share": True}),
                          ("-terms", {"num_cayley_neumann_terms": 7})):
        metas = {m: {"use_cayley_neumann": options.get("use_cayley_neumann", True),
                     "terms": options.get("num_cayley_neumann_terms", 5)} for m in flatter}
        native(zoo, base, f"peftfolder-oft{what}", OFTConfig(r=0, oft_block_size=4, init_weights=False, **options), flatter,
               metas, "oft", notes=f"acts on the input; {options or 'Cayley-Neumann, 5 terms'}", precision=torch.float32, check=2e-5)
    kernel = [U + "resnets.0.conv1", U + "downsamplers.0.conv"]
    native(zoo, base, "peftfolder-oft-3x3", OFTConfig(r=0, oft_block_size=4, init_weights=False), kernel,
           {m: {"use_cayley_neumann": True} for m in kernel}, "oft", precision=torch.float32, check=2e-5, merged=True,
           notes="golden from PEFT's merge: its forward on k×k kernels (unfold, rotate, fold) is another function, not even "
           "the identity for a rotation by nothing")
    ff = [A + "ff.net.2"]
    metas = {m: {"feedforward": m in ff} for m in few + ff}
    native(zoo, base, "peftfolder-ia3", IA3Config(feedforward_modules=[split_site(ff[0])[1]],
           init_ia3_weights=False, target_modules=sorted(split_site(m)[1] for m in few + ff)), few + ff, metas, "ia3",
           notes="multiplicative, neutral 1; ff.net.2 scales its input")
    native(zoo, base, "peftfolder-boft", BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=1, init_weights=False), few, none,
           "boft", precision=torch.float32, check=2e-5, optional=True,
           notes="one butterfly factor (PEFT without its CUDA extension makes no other); refusing it is right too")
