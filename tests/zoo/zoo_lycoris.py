"""Files written by LyCORIS itself, goldens from its own forward."""

import re

from lycoris.kohya import LycorisNetworkKohya
from lycoris.logging import logger
from lycoris.wrapper import LycorisNetwork
from safetensors.torch import load_file

from zoo_kohya import dotted_stem, kohya_metadata, kohya_stem, short, spell
from zoo_probe import probed
from zoo_store import *

logger.setLevel("ERROR")

U, A = "unet.down_blocks.0.", "unet.down_blocks.0.attentions.0.transformer_blocks.0."
SOME = [
    U + "attentions.0.proj_in", A + "attn1.to_q", A + "attn1.to_out.0", A + "attn2.to_k", A + "ff.net.2",
    U + "resnets.0.conv1", U + "downsamplers.0.conv", "unet.down_blocks.1.resnets.0.conv_shortcut",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
]
ROLE = {"lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid", "a1.weight": "a1", "a2.weight": "a2",
        "b1.weight": "b1", "b2.weight": "b2", "bm.weight": "bm"}


def targets(modules, part, models):
    return ["^" + re.escape(python_path(m, models[part])) + "$" for m in modules if split_site(m)[0] == part]


def network(base, algo, modules, each, wrapper=False, precision=torch.float64, **options):
    """(net, {part: model}). `each`: n -> options of the n-th module (dim, alpha, …)."""
    models = {part: part_model(base, part, precision) for part in parts(base)}
    chosen = {"^" + re.escape(python_path(m, models[split_site(m)[0]])) + "$": {"algo": algo, **each(n)}
              for n, m in enumerate(modules)}
    common = dict(multiplier=1.0, lora_dim=4, conv_lora_dim=4, alpha=1, conv_alpha=1, network_module=algo,
                  warn_on_unmatched=False, use_tucker=options.pop("use_tucker", False), **options)
    if wrapper:
        LycorisNetwork.apply_preset({"enable_conv": True, "target_module": [], "target_name": list(chosen),
                                     "name_algo_map": chosen, "lora_prefix": "lycoris"})
        net = LycorisNetwork(models[wrapper], **common)
        net.apply_to()
    else:
        texts = [p for p in parts(base) if p != "unet"]
        LycorisNetworkKohya.apply_preset({
            "enable_conv": True, "unet_target_module": [], "text_encoder_target_module": [],
            "unet_target_name": targets(modules, "unet", models),
            "text_encoder_target_name": [t for p in texts for t in targets(modules, p, models)],
            "name_algo_map": chosen,
        })
        encoders = [models[p] for p in texts]
        net = LycorisNetworkKohya(encoders if base == "sdxl" else encoders[0], models["unet"], **common)
        net.apply_to(encoders, models["unet"], True, True)
    return net.to(precision), models


def named(base, net, wrapper=False) -> dict:
    """lora_name -> module id, by the producer's own way of naming."""
    out = {}
    for module in modules(base):
        part, path = split_site(module)
        for spelled in {path, short(path)}:
            if wrapper:
                if part == wrapper:
                    out[f"lycoris_{flat(spelled)}"] = module
            else:
                out[kohya_stem(base, f"{part}.{spelled}")] = module
    return {lora.lora_name: out[lora.lora_name] for lora in net.loras}


def roles_of(state: dict, lora_name: str) -> dict:
    found = {k[len(lora_name) + 1:]: v for k, v in state.items() if k.split(".")[0] == lora_name}
    return {ROLE.get(k, k): v for k, v in found.items()}


def make_one(zoo, name, base, algo, kind=None, chosen=None, each=None, wrapper=False, dtype=None, notes="", metadata=True,
             partial=True, check=TOLERANCE, strength=STRENGTH, precision=torch.float64, **options):
    torch.manual_seed(0)
    chosen = chosen or SOME
    each = each or (lambda n: {"dim": (2, 3, 4, 1)[n % 4], "alpha": (1.0, 5.0, 2.0, 0.5, 8.0)[n % 5]})
    net, models = network(base, algo, chosen, each, wrapper, precision, **options)
    names = named(base, net, wrapper)
    assert sorted(names.values()) == sorted(m for m in chosen if not wrapper or m.startswith(wrapper + ".")), (name, names)
    generator = seeded(name)
    for lora in net.loras:
        module = names[lora.lora_name]
        weight, bias = weights(base)[f"{module}.weight"], weights(base).get(f"{module}.bias")
        shapes = {ROLE.get(k, k): torch.zeros(v.shape, dtype=v.dtype) if k not in ("alpha", "on_input") else v
                  for k, v in lora.state_dict().items()}
        values = fill(shapes, weight, bias, generator, dtype or torch.float32, strength=strength)
        for key, parameter in lora.named_parameters():
            if ROLE.get(key, key) in values:
                parameter.copy_(values[ROLE.get(key, key)])
            elif algo == "dylora":
                n, size = int(key.split(".")[1]), lora.block_size
                half = slice(n * size, n * size + size)
                parameter.copy_(values["up"][:, half] if key.startswith("up") else values["down"][half].flatten(1))
            elif algo == "full":
                parameter.copy_((weight if key == "weight" else bias) + values["diff" if key == "weight" else "diff_b"])
            else:
                raise AssertionError((name, key))
    file = HERE / f"good/{name}.safetensors"
    prefix = kohya_metadata(base, "lycoris.kohya", ss_network_args=json.dumps({"algo": algo, **{
        k: str(v) for k, v in options.items()}})) if metadata and not wrapper else {"format": "pt"}
    net.save_weights(str(file), dtype or torch.float32, dict(prefix))
    file.chmod(0o644)
    state = load_file(str(file))
    members, forwards, partials = {}, {}, {}
    for lora in net.loras:
        module = names[lora.lora_name]
        members[module] = (roles_of(state, lora.lora_name), None)
        if algo == "dylora":
            continue
        inner = models[split_site(module)[0]].get_submodule(python_path(module, models[split_site(module)[0]]))
        net.set_multiplier(1.0)
        forwards[module] = probed(inner, precision)
        net.set_multiplier(PARTIAL)
        partials[module] = probed(inner, precision)
    producer = f"LyCORIS {VERSIONS['lycoris-lora']} {type(net).__name__} algo={algo}" + "".join(
        f" {k}={v}" for k, v in options.items())
    # LyCORIS' own law of DoRA and rescale at other multipliers is not the one chosen (specification 3.7, 3.8).
    zoo.add(name, base, kind or algo, producer, None, members, forwards or None, partials if partial else None,
            notes=notes, check=check)
    return name


def make(zoo: Zoo) -> None:
    def one(what, algo, base="sd15", **more):
        return make_one(zoo, f"{base}-lyco-{what}", base, algo, **more)

    f32 = {"check": 2e-5, "precision": torch.float32}  # these invert in f32 and cannot run in f64
    few = [SOME[0], SOME[1], SOME[3], SOME[5], SOME[7]]
    one("locon", "locon", notes="te without text_model: the producer runs on transformers 5")
    one("locon-tucker", "locon", use_tucker=True, chosen=SOME[:8])
    one("locon-f16", "locon", dtype=torch.float16, chosen=few, notes="saved in f16, alpha too")
    one("rslora", "locon", rs_lora=True, chosen=few, notes="alpha stored already multiplied by √r")
    one("loha", "loha", notes="alpha/rank applied once (the producer's merge applies it twice)")
    one("loha-tucker", "loha", use_tucker=True, chosen=few)
    one("lokr", "lokr", notes="w2 decomposed or full by size", chosen=SOME, factor=2)
    one("lokr-factor4", "lokr", factor=4, chosen=few,
        each=lambda n: {"dim": 1, "alpha": 3.0})
    one("lokr-full", "lokr", full_matrix=True, factor=4, chosen=few,
        notes="both factors full: alpha is not applied")
    one("lokr-both", "lokr", decompose_both=True, factor=4, chosen=few, each=lambda n: {"dim": 1, "alpha": 2.0 + n})
    one("lokr-tucker", "lokr", use_tucker=True, factor=2, chosen=[SOME[5], SOME[6]],
        each=lambda n: {"dim": 1, "alpha": 3.0})
    one("glora", "glora", notes="new layout (LyCORIS 1.9 and later)")
    one("ia3", "ia3", chosen=[*SOME[1:3], SOME[3], SOME[5]], notes="on_input 0: rows")
    one("ia3-input", "ia3", chosen=[SOME[3], SOME[4], SOME[5], SOME[7]], train_on_input=True, notes="on_input 1: columns")
    one("ia3-f16", "ia3", chosen=[SOME[3], SOME[5]], dtype=torch.float16, notes="on_input cast to f16 with the rest")
    one("full", "full", chosen=[*SOME[:3], SOME[5], SOME[8]])
    oft = dict(chosen=[SOME[0], SOME[1], SOME[2], SOME[3], SOME[5], SOME[7], SOME[8]],
               each=lambda n: {"dim": (4, 2)[n % 2]}, **f32)
    one("oft", "diag-oft", kind="oft", notes="alpha 0: no constraint", **oft)
    one("oft-constraint", "diag-oft", kind="oft", constraint=0.02, notes="alpha·out bounds the norm of all blocks", **oft)
    one("oft-rescaled", "diag-oft", kind="oft", rescaled=True, constraint=1.0, partial=False, **oft)
    boft = dict(chosen=[SOME[0], SOME[1], SOME[2], SOME[5], SOME[8]], each=lambda n: {"dim": (4, 2)[n % 2]}, **f32)
    one("boft", "boft", kind="boft", **boft)
    one("boft-constraint", "boft", kind="boft", constraint=0.02, **boft)
    one("boft-rescaled", "boft", kind="boft", rescaled=True, partial=False, **boft)
    dora = dict(weight_decompose=True, partial=False)
    one("dora-out", "locon", wd_on_out=True, **dora, notes="dora_scale [out,1,…]")
    one("dora-in", "locon", wd_on_out=False, **dora, notes="dora_scale [1,in,…]")
    one("dora-loha-out", "loha", wd_on_out=True, chosen=few, **dora)
    one("dora-loha-in", "loha", wd_on_out=False, chosen=few, **dora)
    one("dora-lokr", "lokr", wd_on_out=True, factor=2, chosen=few, **dora)
    one("dora-tucker-in", "locon", wd_on_out=False, use_tucker=True, chosen=few, **dora)
    norms = [U + "resnets.0.norm1", U + "attentions.0.norm", A + "norm1", A + "norm3",
             "text_encoder.text_model.encoder.layers.1.layer_norm2"]
    one("norm", "locon", kind="norm", train_norm=True, chosen=[*norms, SOME[1]])
    one("wrapper-unet", "lokr", wrapper="unet", factor=2, chosen=few, notes="create_lycoris on a bare UNet: lycoris_…")
    one("wrapper-te", "locon", wrapper="text_encoder", chosen=SOME[8:], notes="create_lycoris on a bare text encoder: lycoris_…")
    one("dylora", "dylora", kind="lora", chosen=few, partial=False, block_size=2,
        each=lambda n: {"dim": 4, "alpha": (1.0, 3.0)[n % 2], "block_size": 2},
        notes="up is 2-D even for convolutions; the producer's forward draws a random rank: the golden is alpha/rank · up·down")

    sdxl = ["unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
            "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_out.0",
            "unet.down_blocks.1.attentions.0.proj_in", "unet.down_blocks.1.resnets.0.conv_shortcut",
            "unet.down_blocks.0.resnets.0.conv1", "unet.time_embedding.linear_1",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
            "text_encoder_2.text_model.encoder.layers.0.self_attn.k_proj"]
    one("locon", "locon", base="sdxl", chosen=sdxl, notes="te1 without, te2 with text_model: what today's code writes")
    one("lokr", "lokr", base="sdxl", chosen=sdxl, factor=4)
    one("loha", "loha", base="sdxl", chosen=sdxl[:6])
    one("dora-in", "locon", base="sdxl", chosen=sdxl, wd_on_out=False, **dora)
    one("dora-out", "locon", base="sdxl", chosen=sdxl[:5], wd_on_out=True, dtype=torch.bfloat16, **dora)
    sd2 = ["unet.down_blocks.0.attentions.0.proj_in", "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
           "unet.up_blocks.1.upsamplers.0.conv", "text_encoder.text_model.encoder.layers.1.self_attn.out_proj"]
    one("loha", "loha", base="sd2", chosen=sd2[:2] + sd2[3:])
    one("lokr-dora", "lokr", base="sd2", chosen=sd2[:2] + sd2[3:], factor=4, **dora, wd_on_out=True)

    # The same files in other spellings: the algebra must not depend on the grammar.
    for source, base in (("lokr", "sdxl"), ("dora-in", "sdxl")):
        spelled = spell(zoo.roles[f"{base}-lyco-{source}"], lambda m: kohya_stem("sdxl", m, ldm=True), dtype=torch.float32)
        zoo.add(f"{base}-lyco-{source}-ldm", base, source, "by hand: renamed", spelled, goldens=f"{base}-lyco-{source}",
                notes="ldm names, te1 and te2 with text_model")
    for source in ("loha", "oft-rescaled", "glora", "dora-out"):
        spelled = spell(zoo.roles[f"sd15-lyco-{source}"], lambda m: dotted_stem("sd15", m, ldm=True, unet="diffusion_model.",
                        text=("text_encoders.clip_l.transformer.",)), dtype=torch.float32)
        zoo.add(f"sd15-lyco-{source}-comfy", "sd15", source, "by hand: ComfyUI generic", spelled,
                goldens=f"sd15-lyco-{source}", notes="diffusion_model. + ldm names")
    glora_old(zoo)


def glora_old(zoo: Zoo) -> None:
    """The layout before LyCORIS 1.9 and the Tucker form, that 4.1.3 can read but no longer writes."""
    base = "sd15"
    generator, members = seeded("sd15-glora-old"), {}
    for n, module in enumerate((A + "attn1.to_q", A + "attn2.to_k", A + "ff.net.2")):
        weight = weights(base)[f"{module}.weight"]
        out, within = weight.shape
        r = 2 + n % 2
        shapes = {"a1": torch.zeros(r, within), "a2": torch.zeros(within, r), "b1": torch.zeros(r, within),
                  "b2": torch.zeros(out, r), "alpha": 3.0}
        roles = fill(shapes, weight, None, generator)
        # fill() scales a1 and b1, one of each product in this layout too
        members[module] = (roles, None)
    zoo.add("sd15-glora-old", base, "glora", "by hand: GLoRA before LyCORIS 1.9", spell(
            members, lambda m: kohya_stem(base, m), dtype=torch.float32), members, notes="a1 [r,in], told apart by its shape")

    from lycoris.modules.glora import _glora_weight

    module, name = U + "resnets.0.conv1", "sd15-glora-tucker"
    weight = weights(base)[f"{module}.weight"]
    shapes = {"a1": torch.zeros(8, 2, 1, 1), "a2": torch.zeros(2, 8, 1, 1), "b1": torch.zeros(8, 2, 1, 1),
              "b2": torch.zeros(2, 8, 1, 1), "bm": torch.zeros(2, 2, 3, 3), "alpha": 3.0}
    roles = fill(shapes, weight, None, seeded(name))
    d = {k: v.double() if torch.is_tensor(v) else v for k, v in roles.items()}
    forwards = {}
    for at in (1.0, PARTIAL):
        change = _glora_weight(weight, d["a1"], d["a2"], d["b1"], d["b2"], d["bm"], 3.0 / 2)
        forwards[at] = {module: (weight + at * change, weights(base)[f"{module}.bias"])}
    members = {module: (roles, None)}
    zoo.add(name, base, "glora", "by hand, golden by LyCORIS' weight function", spell(
            members, lambda m: kohya_stem(base, m), dtype=torch.float32), members, forwards[1.0], forwards[PARTIAL],
            notes="bm.weight; LyCORIS 4.1.3 reads it but never makes it")
