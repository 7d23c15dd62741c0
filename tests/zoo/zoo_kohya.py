"""LoRA and its kin in plain spellings, written by hand (kohya's trainer is not a package): kohya's own grammar and all
that are the same tensors under other names. The forward is kohya's: x -> module(x) + up(down(x)) · alpha/rank."""

from zoo_store import *

F = torch.nn.functional

SUFFIX = {  # role -> end of the key
    "kohya": {"down": ".lora_down.weight", "up": ".lora_up.weight", "mid": ".lora_mid.weight", "alpha": ".alpha"},
    "peft": {"down": ".lora_A.weight", "up": ".lora_B.weight", "alpha": ".alpha"},
    "bare": {"down": ".lora_A", "up": ".lora_B", "alpha": ".alpha"},
    "default": {"down": ".lora_A.default.weight", "up": ".lora_B.default.weight", "alpha": ".alpha"},
    "default_0": {"down": ".lora_A.default_0.weight", "up": ".lora_B.default_0.weight", "alpha": ".alpha"},
    "lora": {"down": ".lora.down.weight", "up": ".lora.up.weight", "alpha": ".alpha"},
    "layer": {"down": ".lora_linear_layer.down.weight", "up": ".lora_linear_layer.up.weight", "alpha": ".alpha"},
    "old": {"down": "_lora.down.weight", "up": "_lora.up.weight"},
}
OTHER = {  # roles that are spelled alike everywhere
    "scale": ".scale", "dora_scale": ".dora_scale", "oft_blocks": ".oft_blocks", "rescale": ".rescale",
    "a1": ".a1.weight", "a2": ".a2.weight", "b1": ".b1.weight", "b2": ".b2.weight", "bm": ".bm.weight",
    "on_input": ".on_input", "weight": ".weight", "ia3_l": ".ia3_l", "oft_R": ".oft_R.weight",
    "diff": ".diff", "diff_b": ".diff_b", "w_norm": ".w_norm", "b_norm": ".b_norm", "set_weight": ".set_weight",
    "bias_indices": ".bias_indices", "bias_values": ".bias_values", "bias_size": ".bias_size",
    "embedding_A": ".lora_embedding_A", "embedding_B": ".lora_embedding_B",
}


def suffix(style: str, role: str) -> str:
    if role in SUFFIX[style]:
        return SUFFIX[style][role]
    if role in OTHER:
        return OTHER[role]
    assert role.startswith(("hada_", "lokr_")), role
    return "." + role


# ---------------------------------------------------------------- stems: module id -> beginning of the key

def short(path: str) -> str:
    return path.removeprefix("text_model.")


def kohya_stem(base, module, ldm=False, text_model=True, unet="lora_unet", te="lora_te"):
    part, path = split_site(module)
    if part == "unet":
        return f"{unet}_{flat(ldm_of(base, path) if ldm else path)}"
    number = {"text_encoder": "1", "text_encoder_2": "2"}[part] if base == "sdxl" else ""
    return f"{te}{number}_{flat(path if text_model else short(path))}"


def dotted_stem(base, module, ldm=False, text_model=True, unet="unet.", text=("text_encoder.", "text_encoder_2.")):
    part, path = split_site(module)
    if part == "unet":
        return unet + (ldm_of(base, path) if ldm else path)
    return text[part == "text_encoder_2"] + (path if text_model else short(path))


CLIPS = {"sd15": ("clip_l", ""), "sd2": ("clip_h", ""), "sdxl": ("clip_l", "clip_g")}


def comfy_text(base):
    return tuple(f"text_encoders.{name}.transformer." for name in CLIPS[base])


def omi_text(base):
    return tuple(f"{name}." for name in CLIPS[base])


def spell(modules: dict, stem, style="kohya", dtype=torch.float16, alpha_shape=()) -> dict:
    """{module id: (roles, meta)} -> tensors."""
    tensors = {}
    for module, (roles, _meta) in modules.items():
        for role, value in roles.items():
            if not torch.is_tensor(value):
                value = torch.full(alpha_shape, float(value))
            tensors[stem(module) + suffix(style, role)] = value
    return stored(tensors, dtype)


# ---------------------------------------------------------------- factors

RANKS = (2, 3, 1, 4)
ALPHAS = (1.0, 4.0, 0.5, 3.0, 2.0, 8.0)


def lora_roles(base, module, rank, alpha, generator, dtype=torch.float16, form="module", strength=STRENGTH):
    """`form`: `module` (factors as kohya makes them), `flat` (2-D for a 1×1 convolution), `deep` (4-D 1×1 for a
    linear), `mid` (Tucker), `reverse` (the kernel stands in `up`)."""
    weight = weights(base)[f"{module}.weight"]
    out, within, *kernel = weight.shape
    ones = [1] * len(kernel)
    roles = {"down": torch.zeros(rank, within, *kernel), "up": torch.zeros(out, rank, *ones)}
    if form == "deep":
        roles = {"down": torch.zeros(rank, within, 1, 1), "up": torch.zeros(out, rank, 1, 1)}
    elif form == "flat":
        roles = {"down": torch.zeros(rank, within), "up": torch.zeros(out, rank)}
    elif form == "mid":
        roles = {"down": torch.zeros(rank, within, *ones), "up": torch.zeros(out, rank, *ones),
                 "mid": torch.zeros(rank, rank, *kernel)}
    elif form == "reverse":
        roles = {"down": torch.zeros(rank, within, *ones), "up": torch.zeros(out, rank, *kernel)}
    if alpha is not None:
        roles["alpha"] = alpha
    return fill(roles, weight, None, generator, dtype, strength=strength)


def lora_forward(module, roles):
    """kohya's forward around a bare module, in f64."""
    down, up = roles["down"].double(), roles["up"].double()
    rank = down.shape[0]
    scale = 1.0 if roles.get("alpha", None) in (None, 0, 0.0) else laws.num(roles["alpha"]) / rank
    if hasattr(module, "kernel_size"):
        def branch(x):
            if down.ndim == 2:
                inner = F.conv2d(x, down[..., None, None])
                return F.conv2d(inner, up[..., None, None])
            if "mid" in roles:
                x = F.conv2d(x, down)
                x = F.conv2d(x, roles["mid"].double(), stride=module.stride, padding=module.padding)
                return F.conv2d(x, up)
            if up.shape[2] > 1:
                return F.conv2d(F.conv2d(x, down), up, stride=module.stride, padding=module.padding)
            return F.conv2d(F.conv2d(x, down, stride=module.stride, padding=module.padding), up)
    else:
        def branch(x):
            return F.linear(F.linear(x, down.flatten(1)), up.flatten(1))

    def forward(x):
        return module(x) + branch(x) * scale

    return forward


class Wrapped:
    """A module with another forward, for the probe."""

    def __init__(self, module, forward):
        self.base_layer, self.forward = module, forward

    def __call__(self, x):
        return self.forward(x)


def lora_forwards(base, modules):
    from zoo_probe import probed

    models, out = {}, {}
    for module, (roles, _) in modules.items():
        part, _path = split_site(module)
        if part not in models:
            models[part] = part_model(base, part)
        inner = models[part].get_submodule(python_path(module, models[part]))
        out[module] = probed(Wrapped(inner, lora_forward(inner, roles)))
    return out


def core(base, name, dtype=torch.float16, alphas=True, only=None, strength=STRENGTH):
    """{module id: (roles, None)} for the core modules, ranks and alphas different from module to module."""
    generator, out = seeded(name), {}
    for n, module in enumerate(CORE[base] if only is None else only):
        rank = RANKS[n % len(RANKS)]
        alpha = ALPHAS[n % len(ALPHAS)] if alphas else None
        out[module] = (lora_roles(base, module, rank, alpha, generator, dtype, strength=strength), None)
    return out


def kohya_metadata(base, module="networks.lora", **more):
    version = {"sd15": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}[base]
    architecture = {"sd15": "stable-diffusion-v1", "sd2": "stable-diffusion-v2-768-v", "sdxl": "stable-diffusion-xl-v1-base"}
    return {
        "ss_base_model_version": version, "ss_network_module": module, "ss_network_dim": "Dynamic",
        "ss_network_alpha": "Dynamic", "ss_v2": str(base == "sd2"), "ss_output_name": f"zoo-{base}",
        "modelspec.architecture": f"{architecture[base]}/lora", "modelspec.sai_model_spec": "1.0.0", **more,
    }


# ---------------------------------------------------------------- the files

def families(zoo: Zoo) -> None:
    """The same tensors of each family in every spelling of whole files."""
    for base in PART_FILES:
        name = f"{base}-kohya"
        modules = core(base, name)
        own = base == "sdxl"  # kohya's trainer has ldm's names for SDXL, diffusers' names for the others
        zoo.add(name, base, "lora", "by hand: kohya grammar", spell(modules, lambda m: kohya_stem(base, m, ldm=own)),
                modules, lora_forwards(base, modules), metadata=kohya_metadata(base),
                notes=f"{'ldm' if own else 'diffusers'} spelling, f16, ranks 1-4, alpha differs from rank, heterogeneous")

        def also(what, stem, style="kohya", notes="", base=base, name=name, modules=modules, **more):
            zoo.add(f"{base}-{what}", base, "lora", f"by hand: {more.pop('of', 'renamed')}", spell(modules, stem, style),
                    goldens=name, notes=notes, **more)

        also("kohya-diffusers" if own else "kohya-ldm", lambda m: kohya_stem(base, m, ldm=not own),
             notes=f"{'diffusers' if own else 'ldm'} spelling")
        also("kohya-te-flat", lambda m: kohya_stem(base, m, ldm=own, text_model=False),
             notes="text encoder without text_model, as trainers on transformers 5 write it")
        also("kohya-lycoris-prefix", lambda m: kohya_stem(base, m, unet="lycoris_unet", te="lycoris_te"),
             notes="lycoris_unet_, lycoris_te_")
        also("comfy", lambda m: dotted_stem(base, m, ldm=True, unet="diffusion_model.", text=comfy_text(base)),
             of="ComfyUI generic")
        also("comfy-model", lambda m: dotted_stem(base, m, ldm=True, unet="model.diffusion_model.", text=comfy_text(base)),
             style="peft", of="ComfyUI generic", notes="model.diffusion_model., lora_A/lora_B with alpha")
        also("omi", lambda m: dotted_stem(base, m, ldm=True, text=omi_text(base)), of="OneTrainer OMI",
             notes="unet. + ldm names")
        also("dotted", lambda m: dotted_stem(base, m), style="peft", of="diffusers names",
             notes="diffusers spelling with alpha tensors beside lora_A/lora_B")
        also("dotted-te-flat", lambda m: dotted_stem(base, m, text_model=False), style="default",
             of="raw state_dict", notes="`.default.` infix; text encoder without text_model")
        also("base-model", lambda m: dotted_stem(base, m, unet="unet.base_model.model.", text=(
            "text_encoder.base_model.model.", "text_encoder_2.base_model.model.")), style="peft",
            of="PEFT inside diffusers' prefix", notes="diffusers 0.42.1 refuses it")


def full(zoo: Zoo) -> None:
    """Everything kohya's trainer touches with convolutions switched on, one file for each family."""
    for base in PART_FILES:
        name, modules = f"{base}-kohya-full", {}
        generator = seeded(name)
        for n, (module, kind) in enumerate(modules_of_kohya(base)):
            rank = (1, 2, 1, 1, 3)[n % 5] if base != "sdxl" else (1, 2, 1, 1, 1, 1, 1)[n % 7]
            alpha = (0.5, 1.5, 2.0)[n % 3]
            modules[module] = (lora_roles(base, module, rank, alpha, generator, strength=0.2), None)
            _ = kind
        own = base == "sdxl"
        zoo.add(name, base, "lora", "by hand: kohya grammar", spell(modules, lambda m: kohya_stem(base, m, ldm=own)),
                modules, metadata=kohya_metadata(base, ss_network_args='{"conv_dim": "2", "conv_alpha": "1.5"}'),
                sketched=True, notes="every module that kohya trains: 278 (SDXL 788) of the UNet, 6 for each text layer")


def modules_of_kohya(base):
    for module, kind in modules(base).items():
        part, path = split_site(module)
        if kind not in ("linear", "conv"):
            continue
        if part == "unet" and path.split(".")[0] in ("conv_in", "conv_out", "time_embedding", "add_embedding"):
            continue
        if part != "unet" and "text_projection" in path:
            continue
        yield module, kind


ATTENTION = {
    "sd15": [
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "unet.up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k",
    ],
}
CLIP_ATTENTION = [
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    "text_encoder.text_model.encoder.layers.0.self_attn.k_proj",
    "text_encoder.text_model.encoder.layers.1.self_attn.v_proj",
    "text_encoder.text_model.encoder.layers.2.self_attn.out_proj",
]


def processor_stem(module, prefix="unet.", processor=True):
    """`….attn1.to_out.0` -> `….attn1.processor.to_out`, `….self_attn.q_proj` -> `….self_attn.to_q`"""
    part, path = split_site(module)
    if part == "unet":
        head, leaf = path.removesuffix(".0").rsplit(".", 1)
        return f"{prefix}{head}.{'processor.' if processor else ''}{leaf}"
    head, leaf = path.rsplit(".", 1)
    return f"text_encoder.{head}.to_{leaf.removesuffix('_proj')}"


def older(zoo: Zoo) -> None:
    """Spellings of diffusers' first year: no alpha, attention only."""
    base, name = "sd15", "sd15-attn-procs"
    modules = core(base, name, dtype=torch.float32, alphas=False, only=ATTENTION[base] + CLIP_ATTENTION)
    zoo.add(name, base, "lora", "by hand: diffusers 0.12-0.16 attention processors",
            spell(modules, processor_stem, "old", torch.float32), modules, lora_forwards(base, modules),
            notes="no alpha: scale 1; to_q_lora … also inside CLIP")
    unet_only = {m: r for m, r in modules.items() if m.startswith("unet.")}
    zoo.add("sd15-attn-procs-bare", base, "lora", "by hand: the first files, UNet alone, no prefix",
            spell(unet_only, lambda m: processor_stem(m, prefix=""), "old", torch.float32), unet_only,
            lora_forwards(base, unet_only), notes="keys begin with down_blocks / mid_block / up_blocks")

    def mixed(style_text, infix):
        tensors = {}
        for module, (roles, _) in modules.items():
            style = "lora" if module.startswith("unet.") else style_text
            stem = dotted_stem(base, module)
            if infix and module.endswith("attn1.to_out.0"):
                stem = stem.removesuffix(".0")  # to_out.lora.up.weight is met too
            for role, value in roles.items():
                tensors[stem + suffix(style, role)] = value
        return tensors

    zoo.add("sd15-lora-linear-layer", base, "lora", "by hand: diffusers 0.17-0.20", mixed("layer", False), goldens=name,
            notes=".lora.down in the UNet, .lora_linear_layer.down in the text encoder")
    zoo.add("sd15-to-out-short", base, "lora", "by hand: diffusers 0.17-0.20", mixed("layer", True), goldens=name,
            notes="attn1.to_out.lora.up.weight without the .0")
    zoo.add("sd15-bare-ab", base, "lora", "by hand: renamed", spell(modules, lambda m: dotted_stem(base, m), "bare",
            torch.float32), goldens=name, notes=".lora_A / .lora_B without .weight")
    zoo.add("sd15-default-0", base, "lora", "by hand: raw state_dict", spell(modules, lambda m: dotted_stem(base, m),
            "default_0", torch.float32), goldens=name, notes="`.default_0.` infix")
    zoo.add("sd15-peft-bare", base, "lora", "by hand: PEFT on the UNet alone", spell(unet_only, lambda m: dotted_stem(
            base, m, unet=""), "peft", torch.float32), goldens="sd15-attn-procs-bare", notes="no prefix at all")
    zoo.add("sd15-base-model-bare", base, "lora", "by hand: PEFT native without its config", spell(
            unet_only, lambda m: dotted_stem(base, m, unet="base_model.model."), "peft", torch.float32),
            goldens="sd15-attn-procs-bare", notes="base_model.model., component only by lookup, no config: scale 1")
    zoo.add("sd15-hcp", base, "lora", "by hand: HCP-Diffusion separator", spell(
            unet_only, lambda m: dotted_stem(base, m) + ".___.layer", "kohya", torch.float32),
            goldens="sd15-attn-procs-bare", notes="`.___.layer.` between path and role")
    zoo.add("sd15-hcp-short", base, "lora", "by hand: HCP-Diffusion separator", spell(
            unet_only, lambda m: dotted_stem(base, m) + ".___", "kohya", torch.float32),
            goldens="sd15-attn-procs-bare", notes="`.___.` between path and role")


def shapes(zoo: Zoo) -> None:
    """Factors whose rank of dimensions is not the module's, Tucker, reverse, broad coverage, roles on the side."""
    base = "sd15"
    u = "unet.down_blocks.0."
    attn = u + "attentions.0.transformer_blocks.0."
    name = "sd15-lora-mid"
    generator = seeded(name)
    modules = {
        u + "resnets.0.conv1": (lora_roles(base, u + "resnets.0.conv1", 3, 2.0, generator, form="mid"), None),
        u + "downsamplers.0.conv": (lora_roles(base, u + "downsamplers.0.conv", 2, 5.0, generator, form="mid"), None),
        u + "attentions.0.proj_in": (lora_roles(base, u + "attentions.0.proj_in", 4, 2.0, generator), None),
        attn + "attn1.to_q": (lora_roles(base, attn + "attn1.to_q", 2, 1.0, generator), None),
    }
    zoo.add(name, base, "lora", "by hand: kohya grammar with lora_mid", spell(modules, lambda m: kohya_stem(base, m)), modules,
            lora_forwards(base, modules), notes="Tucker (CP) convolutions beside ordinary ones; one has stride 2")

    name = "sd15-lora-reverse"
    generator = seeded(name)
    modules = {
        u + "resnets.0.conv1": (lora_roles(base, u + "resnets.0.conv1", 3, 2.0, generator, form="reverse"), None),
        u + "downsamplers.0.conv": (lora_roles(base, u + "downsamplers.0.conv", 2, 5.0, generator, form="reverse"), None),
        attn + "attn2.to_k": (lora_roles(base, attn + "attn2.to_k", 3, 1.0, generator), None),
    }
    zoo.add(name, base, "lora", "by hand: kohya grammar", spell(modules, lambda m: kohya_stem(base, m)), modules,
            lora_forwards(base, modules), notes="down [r,in,1,1], up [out,r,3,3]")

    for base, extra in (("sd15", ["unet.conv_in", "unet.conv_out"]), ("sdxl", ["unet.conv_in", "unet.add_embedding.linear_2"])):
        name = f"{base}-lcm-like"
        generator, modules = seeded(name), {}
        chosen = CORE[base][:12] + extra + ["unet.time_embedding.linear_1", "unet.time_embedding.linear_2"]
        for n, module in enumerate(m for m in chosen if m.startswith("unet.")):
            weight = weights(base)[f"{module}.weight"]
            form = "deep" if weight.ndim == 2 else "flat" if weight.ndim == 4 and weight.shape[2] == 1 else "module"
            modules[module] = (lora_roles(base, module, 2 + n % 3, (8.0, 1.0, 3.0)[n % 3], generator, form=form), None)
        zoo.add(name, base, "lora", "by hand: like distillation adapters", spell(modules, lambda m: kohya_stem(base, m)),
                modules, lora_forwards(base, modules), metadata={"format": "pt"},
                notes="4-D 1×1 factors on linear modules, 2-D factors on 1×1 convolutions, time_embedding, conv_in, …")

    base, name = "sd15", "sd15-alphas"
    generator, modules = seeded(name), {}
    for n, module in enumerate(CORE[base][:8]):
        alpha = (None, 0.0, 2.0, 6.0)[n % 4]
        modules[module] = (lora_roles(base, module, 2 + n % 3, alpha, generator), None)
    tensors = spell(modules, lambda m: kohya_stem(base, m))
    for n, module in enumerate(modules):
        key = kohya_stem(base, module) + ".alpha"
        if key in tensors:
            tensors[key] = torch.tensor([tensors[key].item()]) if n % 4 != 3 else torch.tensor(6, dtype=torch.int64)
    tensors["lora_unet_mid_block_resnets_0_conv1.alpha"] = torch.tensor(1.0)
    zoo.add(name, base, "lora", "by hand: kohya grammar", tensors, modules, lora_forwards(base, modules),
            unmatched=["lora_unet_mid_block_resnets_0_conv1.alpha"],
            notes="alpha by turns absent (scale 1), 0 (scale 1, warn), [1]-shaped f32, and i64; plus one orphan alpha (warn)")

    name = "sd15-scale"
    modules = core(base, name, only=CORE[base][:4])
    modules = {m: ({**r, "scale": torch.tensor(0.3 + 0.2 * n)}, None) for n, (m, (r, _)) in enumerate(modules.items())}
    zoo.add(name, base, "lora", "by hand: kohya grammar", spell(modules, lambda m: kohya_stem(base, m), dtype=torch.float32),
            modules, notes=".scale overrides alpha/rank")

    name = "sd15-sparse-bias"
    generator, modules = seeded(name), {}
    for module in (attn + "attn2.to_k", u + "resnets.0.conv1"):
        roles = lora_roles(base, module, 2, 3.0, generator, torch.float32)
        rows, columns = laws.flat2(weights(base)[f"{module}.weight"]).shape
        picked = torch.randperm(rows * columns, generator=generator)[:11]
        roles["bias_indices"] = torch.stack([picked // columns, picked % columns]).to(torch.int16)
        roles["bias_values"] = 0.2 * torch.randn(11, generator=generator)
        roles["bias_size"] = torch.tensor([rows, columns], dtype=torch.int16)
        modules[module] = (roles, None)
    zoo.add(name, base, "lora", "by hand: LyCORIS extractor's sparse residual",
            spell(modules, lambda m: kohya_stem(base, m), dtype=torch.float32), modules,
            notes="bias_indices/values/size: added to up·down before the scale; i16")

    name = "sd15-set-weight"
    generator = seeded(name)
    module = attn + "attn2.to_v"
    weight = weights(base)[f"{module}.weight"]
    modules = {module: (fill({"set_weight": torch.zeros(weight.shape)}, weight, None, generator), None),
               attn + "attn2.to_q": (lora_roles(base, attn + "attn2.to_q", 2, 1.0, generator, torch.float32), None)}
    zoo.add(name, base, "set", "by hand: ComfyUI", spell(modules, lambda m: kohya_stem(base, m), dtype=torch.float32), modules,
            notes="set_weight replaces; at m: W + m(T - W)")

    name, generator, modules = "sd15-diff", seeded("sd15-diff"), {}
    for module in (u + "resnets.0.conv1", attn + "attn1.to_out.0", u + "resnets.0.norm1", "unet.conv_norm_out",
                   "text_encoder.text_model.final_layer_norm"):
        weight, bias = weights(base)[f"{module}.weight"], weights(base)[f"{module}.bias"]
        roles = {"diff": torch.zeros(weight.shape), "diff_b": torch.zeros(bias.shape)}
        modules[module] = (fill(roles, weight, bias, generator, torch.float16, strength=0.2), None)
    modules[u + "resnets.0.conv2"] = (fill({"diff_b": torch.zeros(8)}, None, None, generator, torch.float16), None)
    zoo.add(name, base, "full", "by hand: ComfyUI extraction", spell(
            modules, lambda m: dotted_stem(base, m, ldm=True, unet="diffusion_model.", text=comfy_text(base))), modules,
            notes="diff and diff_b on convolution, linear, norms; one diff_b alone")

    name, generator, modules = "sd15-bias-created", seeded("sd15-bias-created"), {}
    module = attn + "attn1.to_q"
    modules[module] = (fill({"diff_b": torch.zeros(8)}, None, None, generator), None)
    zoo.add(name, base, "full", "by hand: ComfyUI", spell(modules, lambda m: kohya_stem(base, m), dtype=torch.float32), modules,
            notes="diff_b on a module without a bias: the bias has to be made", creates_bias=True)

    for name, base, cut in (("sd15-norms-half", "sd15", True),):
        generator, modules = seeded(name), {}
        for n, module in enumerate((u + "resnets.0.norm1", attn + "norm2", u + "attentions.0.norm",
                                    "text_encoder.text_model.encoder.layers.1.layer_norm1")):
            size = weights(base)[f"{module}.weight"].shape
            roles = {"w_norm": torch.zeros(size), "b_norm": torch.zeros(size)}
            if cut and n % 2:
                roles.pop("b_norm" if n == 1 else "w_norm")
            modules[module] = (fill(roles, None, None, generator), None)
        zoo.add(name, base, "norm", "by hand: LyCORIS grammar", spell(modules, lambda m: kohya_stem(base, m),
                dtype=torch.float32), modules, notes="one w_norm without b_norm, one b_norm without w_norm")


def rotations(zoo: Zoo) -> None:
    """kohya's OFT and DyLoRA."""
    base = "sd15"
    u = "unet.down_blocks.0."
    attn = u + "attentions.0.transformer_blocks.0."
    for name, alpha, size in (("sd15-kohya-oft", 0.02, 0.15), ("sd15-kohya-oft-free", 1.0, 0.15)):
        generator, modules = seeded(name), {}
        for n, module in enumerate((attn + "attn1.to_q", attn + "attn2.to_k", attn + "attn2.to_out.0",
                                    attn + "ff.net.0.proj", u + "attentions.0.proj_in", u + "resnets.0.conv1")):
            weight = weights(base)[f"{module}.weight"]
            count = (2, 4)[n % 2]
            side = weight.shape[0] // count
            blocks = size * torch.randn(count, side, side, generator=generator)
            modules[module] = ({"oft_blocks": blocks, "alpha": alpha}, None)
        forwards, partials = oft_forwards(base, modules, 1.0), oft_forwards(base, modules, PARTIAL)
        bound = [m for m, (r, _) in modules.items()
                 if float((r["oft_blocks"] - r["oft_blocks"].mT).norm()) > alpha * weights(base)[f"{m}.weight"].shape[0]]
        assert len(bound) == (len(modules) if alpha < 0.1 else 0), (name, bound)
        zoo.add(name, base, "oft", "by hand: kohya networks/oft.py", spell(modules, lambda m: kohya_stem(
                base, m, unet="oft_unet"), dtype=torch.float32), modules, forwards, partials,
                metadata=kohya_metadata(base, "networks.oft"),
                notes=f"prefix oft_unet_; alpha is the constraint ({'binding' if bound else 'not reached'}) ")
    zoo.add("sd15-kohya-oft-lora-prefix", base, "oft", "by hand: renamed", spell(
            zoo.roles["sd15-kohya-oft"], lambda m: kohya_stem(base, m, ldm=True), dtype=torch.float32),
            goldens="sd15-kohya-oft", notes="lora_unet_ and ldm names")

    name = "sd15-kohya-dylora"
    modules = core(base, name, dtype=torch.float32, only=[m for m in CORE[base] if "fc1" not in m][:9])
    zoo.add(name, base, "lora", "by hand: kohya networks/dylora.py", spell(modules, lambda m: kohya_stem(base, m),
            dtype=torch.float32), modules, lora_forwards(base, modules), metadata=kohya_metadata(base, "networks.dylora"),
            notes="on disk a LoRA: rank slices put together; full rank, scale alpha/rank (its forward at the last slice)")


def oft_forwards(base, modules, m):
    """kohya's forward: rotates the weight's row blocks with R, keeps the bias."""
    from zoo_probe import probed

    model, out = part_model(base, "unet"), {}
    for module, (roles, _) in modules.items():
        inner = model.get_submodule(python_path(module, model))
        blocks = roles["oft_blocks"].double()
        count, side, _ = blocks.shape
        q = blocks - blocks.transpose(1, 2)
        norm, limit = q.flatten().norm(), roles["alpha"] * inner.weight.shape[0]
        q = q * ((norm.clamp(max=limit) + 1e-8) / (norm + 1e-8))
        eye = torch.eye(side, dtype=torch.float64)
        r = m * ((eye + q) @ (eye - q).inverse() - eye) + eye

        def forward(x, inner=inner, r=r, count=count, side=side):
            rows = inner.weight.reshape(count, side, -1)
            turned = torch.stack([r[k].T @ rows[k] for k in range(count)]).reshape(inner.weight.shape)
            if inner.weight.ndim == 4:
                return F.conv2d(x, turned, inner.bias, inner.stride, inner.padding)
            return F.linear(x, turned, inner.bias)

        out[module] = probed(Wrapped(inner, forward))
    return out


def make(zoo: Zoo) -> None:
    families(zoo)
    full(zoo)
    older(zoo)
    shapes(zoo)
    rotations(zoo)
