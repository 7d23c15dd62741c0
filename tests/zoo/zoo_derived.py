"""Other containers, number types, mixtures, bundles, order-only files: written by hand from the specification."""

from collections import OrderedDict

from zoo_kohya import *

U, A = "unet.down_blocks.0.", "unet.down_blocks.0.attentions.0.transformer_blocks.0."
FEW = [U + "attentions.0.proj_in", A + "attn1.to_q", A + "attn2.to_k", U + "resnets.0.conv1"]


def of(base):
    return lambda m: kohya_stem(base, m)



def types(zoo: Zoo) -> None:
    base = "sd15"
    for label, dtype in (("bf16", torch.bfloat16), ("f32", torch.float32), ("f64", torch.float64),
                         ("f8-e4m3", torch.float8_e4m3fn), ("f8-e5m2", torch.float8_e5m2)):
        name = f"sd15-{label}"
        modules = core(base, name, dtype=dtype, only=FEW)
        tensors = {k: v.float() if k.endswith(".alpha") else v for k, v in spell(modules, of(base), dtype=dtype).items()}
        zoo.add(name, base, "lora", "by hand: kohya grammar", tensors, modules, lora_forwards(base, modules),
                notes=f"factors in {label}, alpha in f32")
    for label, ending in (("scale-weight", "scale_weight"), ("weight-scale", "weight_scale")):
        name = f"sd15-f8-{label}"
        generator, modules, tensors = seeded(name), {}, {}
        for module in FEW[1:3]:
            roles = lora_roles(base, module, 2, 3.0, generator, torch.float8_e4m3fn)
            stem = kohya_stem(base, module)
            grown = dict(roles)
            for role, end in (("down", "lora_down"), ("up", "lora_up")):
                factor = {"down": 0.5, "up": 0.25}[role]
                tensors[f"{stem}.{end}.weight"] = roles[role].to(torch.float8_e4m3fn)
                tensors[f"{stem}.{end}.{ending}"] = torch.tensor(factor)
                grown[role] = roles[role] * factor
            tensors[f"{stem}.alpha"] = torch.tensor(3.0)
            modules[module] = (grown, None)
        zoo.add(name, base, "lora", "by hand: f8 with a scale beside each factor", tensors, modules, lora_forwards(base, modules),
                optional=True, notes=f".{ending} multiplies its .weight; the spelling is not known from a real file")

    name = "sd15-f16-overflow"
    module = A + "attn2.to_k"
    generator = seeded(name)
    roles = {"down": 300 + 20 * torch.randn(2, 32, generator=generator), "up": 400 + 20 * torch.randn(8, 2, generator=generator),
             "alpha": 2.0 * 2**-17}
    modules = {module: (rounded(roles, torch.float16), None)}
    tensors = spell(modules, of(base))
    tensors[kohya_stem(base, module) + ".alpha"] = torch.tensor(2.0 * 2**-17)
    zoo.add(name, base, "lora", "by hand: kohya grammar", tensors, modules, lora_forwards(base, modules),
            notes="up·down leaves f16's range before the scale brings it back: products must be f32")


def pickles(zoo: Zoo) -> None:
    base, name = "sd15", "sd15-pickle"
    modules = core(base, name, dtype=torch.float16, only=FEW)
    tensors = dense(spell(modules, of(base)))

    def put(label, value, notes, ending="pt", zipped=True, **more):
        file = f"good/{label}.{ending}"
        torch.save(value, str(HERE / file), _use_new_zipfile_serialization=zipped)
        (HERE / file).chmod(0o644)
        own = {} if label == name else {"goldens": name}
        zoo.add(label, base, "lora", f"torch.save {VERSIONS['torch']}", None, modules if not own else None,
                lora_forwards(base, modules) if not own else None, file=file, notes=notes, **own, **more)

    put(name, OrderedDict(tensors), "zip, OrderedDict")
    put(name + "-bin", {"state_dict": dict(tensors)}, "zip, wrapped in state_dict", ending="bin")
    put(name + "-legacy", dict(tensors), "the format before torch 1.6", zipped=False)
    views = {}
    for key, value in tensors.items():
        if value.ndim == 2:
            views[key] = value.T.contiguous().T  # strides swapped
        elif value.ndim == 4:
            views[key] = value.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
        else:
            views[key] = value
    assert any(not v.is_contiguous() for v in views.values())
    put(name + "-strides", views, "transposed tensors: strides are not row-major")
    put(name + "-shared", shared(tensors), "every tensor a view of one storage: offsets")
    put(name + "-parameters", {"state_dict": {k: torch.nn.Parameter(v) for k, v in tensors.items()}},
        "_rebuild_parameter", ending="ckpt")


def shared(tensors: dict) -> dict:
    """The same tensors as views of a single storage (one for each type)."""
    out, storage = {}, {}
    for dtype in {v.dtype for v in tensors.values()}:
        storage[dtype] = torch.cat([v.flatten() for v in tensors.values() if v.dtype == dtype])
    places = {dtype: 0 for dtype in storage}
    for key, value in tensors.items():
        at = places[value.dtype]
        out[key] = storage[value.dtype][at: at + value.numel()].view(value.shape)
        places[value.dtype] += value.numel()
    return out


# ---------------------------------------------------------------- cloneofsimo/lora

def simo_order(base: str, geglu=True) -> list[str]:
    """The implicit order: registration order of diffusers of that time (feed-forward before attn2), mid block last."""
    blocks = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)]
    blocks += [f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)]
    blocks.append("mid_block.attentions.0")
    inner = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"] + (["ff.net.0.proj"] if geglu else [])
    inner += ["attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"]
    _ = base
    return [f"unet.{b}.transformer_blocks.0.{m}" for b in blocks for m in inner]


def simo_text(base: str) -> list[str]:
    layers = sum(m.endswith("self_attn.q_proj") and m.startswith("text_encoder.") for m in modules(base))
    return [f"text_encoder.text_model.encoder.layers.{n}.self_attn.{p}_proj" for n in range(layers) for p in ("k", "v", "q", "out")]


def simo(zoo: Zoo) -> None:
    for base, geglu, what in (("sd15", True, "simo"), ("sd15", False, "simo-no-geglu"), ("sd2", True, "simo")):
        name = f"{base}-{what}"
        generator, members, tensors, meta = seeded(name), {}, {}, {}
        classes = {"unet": ["CrossAttention", "Attention"] + (["GEGLU"] if geglu else []), "text_encoder": ["CLIPAttention"]}
        for part, order in (("unet", simo_order(base, geglu)), ("text_encoder", simo_text(base))):
            meta[part] = json.dumps(classes[part])
            for n, module in enumerate(order):
                roles = lora_roles(base, module, 2 if n % 3 == 1 else 1, None, generator, strength=0.25)
                members[module] = (roles, None)
                tensors[f"{part}:{n}:up"], tensors[f"{part}:{n}:down"] = roles["up"].half(), roles["down"].half()
                meta[f"{part}:{n}:rank"] = str(roles["down"].shape[0])
        more = {}
        if what == "simo":
            width = weights(base)["text_encoder.text_model.embeddings.token_embedding.weight"].shape[1]
            for token in ("<s1>", "<s2>"):
                tensors[token] = 0.6 * torch.randn(width, generator=generator)
                meta[token] = "<embed>"
                zoo.goldens[f"{name}/embedding.{token}.text_encoder"] = tensors[token].reshape(1, -1)
            more["embeddings"] = {t: {"text_encoder": 1} for t in ("<s1>", "<s2>")}
        if base == "sd15" and geglu:
            zoo.simo_tensors = (tensors, meta)
        zoo.add(name, base, "lora", "by hand: cloneofsimo/lora safetensors", tensors, members, metadata=dict(sorted(meta.items())),
                sketched=True, notes="no names: only the order; keys part:index:up|down, no alpha", **more)

    base, name = "sd15", "sd15-simo-list"
    generator, members, lists = seeded(name), {}, {}
    for part, order in (("unet", simo_order(base)), ("text_encoder", simo_text(base))):
        lists[part] = []
        for module in order:
            roles = lora_roles(base, module, 1, None, generator, strength=0.25)
            members[module] = (roles, None)
            lists[part] += [roles["up"].half(), roles["down"].half()]
    folder = HERE / "good" / name
    folder.mkdir(parents=True)
    for part, file in (("unet", "lora_weight.pt"), ("text_encoder", "lora_weight.text_encoder.pt")):
        views = shared({str(n): t for n, t in enumerate(lists[part])})
        torch.save(list(views.values()), str(folder / file))
        (folder / file).chmod(0o644)
    token = 0.6 * torch.randn(32, generator=generator)
    torch.save({"<s1>": token}, str(folder / "lora_weight.ti.pt"))
    zoo.goldens[f"{name}/embedding.<s1>.text_encoder"] = token.reshape(1, -1)
    zoo.add(name, base, "lora", "by hand: cloneofsimo/lora first format", None, members, sketched=True,
            file=f"good/{name}/lora_weight.pt", optional=True, embeddings={"<s1>": {"text_encoder": 1}},
            siblings=[f"good/{name}/lora_weight.text_encoder.pt", f"good/{name}/lora_weight.ti.pt"],
            notes="pickled flat list up0, down0, up1, …; the text encoder and the token lie in sibling files")


# ---------------------------------------------------------------- mixtures

def mixtures(zoo: Zoo) -> None:
    base, name = "sdxl", "sdxl-onetrainer"
    only = [m for m in CORE[base] if "fc1" not in m and "label" not in m][:9] + [
        "text_encoder.text_model.encoder.layers.1.self_attn.v_proj", "text_encoder_2.text_model.encoder.layers.0.mlp.fc2"]
    members = core(base, name, only=only)
    tensors = spell(members, of(base))
    generator = seeded(name + "-bundle")
    tokens = {}
    for token, count in (("my token", 2), ("v1.5 style", 1)):
        for clip, part, width in (("clip_l", "text_encoder", 16), ("clip_g", "text_encoder_2", 24)):
            vectors = 0.6 * torch.randn(count, width, generator=generator)
            tensors[f"bundle_emb.{token}.{clip}"] = vectors
            zoo.goldens[f"{name}/embedding.{token}.{part}"] = vectors
        tokens[token] = {"text_encoder": count, "text_encoder_2": count}
    zoo.add(name, base, "lora", "by hand: OneTrainer legacy", tensors, members, lora_forwards(base, members), embeddings=tokens,
            notes="kohya grammar, diffusers spelling, bundle_emb with clip_l and clip_g; names with a space and with a dot")

    base, name = "sd15", "sd15-bundle"
    members = core(base, name, only=FEW[1:3])
    tensors, tokens = spell(members, of(base)), {}
    for token, inner, count in (("old-star", ".string_to_param.*", 3), ("params", ".emb_params", 2), ("single", "", 1)):
        vectors = 0.6 * torch.randn(count, 32, generator=seeded(name + token))
        tensors[f"bundle_emb.{token}{inner}"] = vectors
        zoo.goldens[f"{name}/embedding.{token}.text_encoder"] = vectors
        tokens[token] = {"text_encoder": count}
    zoo.add(name, base, "lora", "by hand: bundle_emb", tensors, members, lora_forwards(base, members), embeddings=tokens,
            notes="inner keys string_to_param.*, emb_params, none")
    only = {k: v for k, v in tensors.items() if k.startswith("bundle_emb.")}
    write(HERE / "good/sd15-bundle-only.safetensors", only)
    for token, counts in tokens.items():
        zoo.goldens[f"sd15-bundle-only/embedding.{token}.text_encoder"] = zoo.goldens[f"{name}/embedding.{token}.text_encoder"]
        _ = counts
    zoo.add("sd15-bundle-only", base, "embedding", "by hand: bundle_emb", None, {}, embeddings=tokens, notes="nothing but embeddings")

    # Duplicates.
    base, source = "sdxl", "sdxl-kohya"
    members = zoo.roles[source]
    both = {**spell(members, lambda m: kohya_stem(base, m, ldm=True)), **spell(members, of(base))}
    zoo.add("sdxl-twice", base, "lora", "by hand: both spellings", both, goldens=source,
            notes="every UNet module under ldm and diffusers names, bit-identical: one of them counts")
    halves = spell(members, lambda m: kohya_stem(base, m, ldm=True))
    for key in halves:
        if key.startswith("lora_unet") and key.endswith("lora_up.weight"):
            halves[key] = halves[key] * 2
    zoo.add("sdxl-twice-differing", base, "lora", "by hand: both spellings", {**halves, **spell(members, of(base))}, goldens=source,
            notes="the ldm half differs: it is dropped with a warning, the diffusers half counts", warns=True)

    base, source = "sd15", "sd15-kohya"
    members = zoo.roles[source]
    unet = {m: r for m, r in members.items() if m.startswith("unet.")}
    text = {m: r for m, r in members.items() if not m.startswith("unet.")}
    mixed = {**spell(unet, lambda m: kohya_stem(base, m, ldm=True)), **spell(text, lambda m: dotted_stem(base, m), "peft")}
    zoo.add("sd15-mixed-grammar", base, "lora", "by hand: merged file", mixed, goldens=source,
            notes="kohya UNet (ldm names) and diffusers text encoder in one file")
    zoo.add("sd15-metadata-lies", base, "lora", "by hand: merged file", spell(members, of(base)), goldens=source,
            metadata={"ss_base_model_version": "sdxl_base_v1-0", "ss_network_dim": "128", "ss_network_alpha": "0.001",
                      "modelspec.architecture": "stable-diffusion-xl-v1-base/lora"},
            notes="metadata says SDXL, rank 128, alpha 0.001: shapes and tensors win")
    extra = spell(members, of(base))
    extra["lora_unet_no_such_module.lora_down.weight"] = torch.zeros(2, 8)
    extra["lora_unet_no_such_module.lora_up.weight"] = torch.zeros(8, 2)
    extra["lora_unet_no_such_module.alpha"] = torch.tensor(1.0)
    extra["something.else"] = torch.zeros(3)
    zoo.add("sd15-unmatched", base, "lora", "by hand", extra, goldens=source, warns=True,
            unmatched=[k for k in extra if "no_such" in k or k == "something.else"],
            notes="four keys that fit nothing: warn, or refuse when strict")

    # All kinds in one file, all of whose producers we have goldens of.
    name, members = "sd15-all-kinds", {}
    for source, n in (("sd15-lyco-locon-tucker", 5), ("sd15-lyco-loha", 2), ("sd15-lyco-lokr", 3), ("sd15-lyco-glora", 4),
                      ("sd15-lyco-ia3", 1), ("sd15-lyco-oft", 0), ("sd15-lyco-dora-out", 7), ("sd15-lyco-norm", 0)):
        for module, value in list(zoo.roles[source].items())[n:] + list(zoo.roles[source].items())[:n]:
            if module not in members:
                members[module] = value
                break
    zoo.add(name, base, "mixed", "by hand: modules of eight LyCORIS files", spell(members, of(base), dtype=torch.float32), members,
            notes="a different kind on each module")

    name, generator = "sd15-lora-diffb", seeded("sd15-lora-diffb")
    module = U + "resnets.0.conv1"
    roles = lora_roles(base, module, 2, 3.0, generator, torch.float32)
    roles["diff_b"] = 0.1 * torch.randn(8, generator=generator)
    norm = U + "resnets.0.norm1"
    members = {module: (roles, None), norm: ({"w_norm": 0.2 * torch.randn(8, generator=generator),
                                             "b_norm": 0.1 * torch.randn(8, generator=generator)}, None)}
    zoo.add(name, base, "lora", "by hand", spell(members, of(base), dtype=torch.float32), members,
            notes="low-rank weight and a full bias on one module; a norm beside it")


def magnitudes(zoo: Zoo) -> None:
    """DoRA keys that no producer at hand writes, but that lie on disks."""
    base, name = "sd15", "sd15-dora-shapes"
    generator, members = seeded(name), {}
    shapes = {A + "attn1.to_q": (8,), A + "attn2.to_k": (8, 1), A + "ff.net.2": (1, 32), U + "resnets.0.conv1": (1, 8, 1, 1),
              U + "downsamplers.0.conv": (8, 1, 1, 1)}
    for n, (module, shape) in enumerate(shapes.items()):
        roles = lora_roles(base, module, 2 + n % 2, 3.0, generator, torch.float32)
        weight = weights(base)[f"{module}.weight"]
        roles |= fill({"dora_scale": torch.zeros(shape), "down": roles["down"], "up": roles["up"]}, weight, None, generator)
        roles["alpha"] = 3.0
        members[module] = (roles, None)
    zoo.add(name, base, "dora", "by hand: kohya grammar with dora_scale", spell(members, of(base), dtype=torch.float32), members,
            notes="[out], [out,1], [1,in], [1,in,1,1] where in = out (in-axis by its form), [out,1,1,1] where in = out")
    zoo.add(name + "-alone", base, "dora", "by hand", spell({A + "attn2.to_k": ({"dora_scale": members[A + "attn2.to_k"][0]["dora_scale"]},
            None)}, of(base), dtype=torch.float32), {A + "attn2.to_k": ({"dora_scale": members[A + "attn2.to_k"][0]["dora_scale"]}, None)},
            notes="dora_scale without factors: V = W")
    source = "sd15-peft-dora"
    for label, ending in (("-weight", ".lora_magnitude_vector.weight"), ("-default", ".lora_magnitude_vector.default.weight")):
        tensors, infix = {}, ".default" if label == "-default" else ""
        for module, (roles, meta) in zoo.roles[source].items():
            stem = dotted_stem(base, module)
            tensors[f"{stem}.lora_A{infix}.weight"] = roles["down"]
            tensors[f"{stem}.lora_B{infix}.weight"] = roles["up"]
            tensors[stem + ending] = roles["magnitude"]
            tensors[stem + ".alpha"] = torch.tensor(float(meta["alpha"]))
        zoo.add(f"{source}{label}", base, "dora", "by hand: raw state_dict", tensors, goldens=source, notes=ending)


def scraps(zoo: Zoo) -> None:
    base, name = "sd15", "sd15-rank0"
    members = core(base, name, only=FEW[1:2])
    tensors = spell(members, of(base))
    stem = kohya_stem(base, A + "attn2.to_k")
    tensors |= {f"{stem}.lora_down.weight": torch.zeros(0, 32).half(), f"{stem}.lora_up.weight": torch.zeros(8, 0).half(),
                f"{stem}.alpha": torch.tensor(1.0).half()}
    zoo.add(name, base, "lora", "by hand: resized file", tensors, members, lora_forwards(base, members), empty=1,
            notes="one module of rank 0: identity, counted as empty")
    name = "sd15-zero-up"
    members = core(base, name, only=FEW[1:3])
    for roles, _ in members.values():
        roles["up"] = torch.zeros_like(roles["up"])
    zoo.add(name, base, "lora", "by hand: untrained", spell(members, of(base)), members, lora_forwards(base, members), warns=True,
            notes="all up factors zero: no effect, warn once")
    source = zoo.roles["sd15-lyco-lokr-full"]
    tensors = spell(source, of(base), dtype=torch.float32)
    for key in tensors:
        if key.endswith(".alpha"):
            tensors[key] = torch.tensor(1e10)
    zoo.add("sd15-lokr-huge-alpha", base, "lokr", "by hand: LyCORIS full matrix", tensors, goldens="sd15-lyco-lokr-full",
            notes="alpha 1e10 beside two full factors: not applied")

    base, name = "sdxl", "sdxl-te-prefix"
    only = ["text_encoder.text_model.encoder.layers.0.self_attn.q_proj", "text_encoder.text_model.encoder.layers.2.mlp.fc1"]
    members = core(base, name, only=only)
    zoo.add(name, base, "lora", "by hand", {k.replace("lora_te1_", "lora_te_"): v for k, v in spell(members, of(base)).items()},
            members, lora_forwards(base, members), warns=True, notes="lora_te_ on SDXL: the first text encoder, with a warning")
    name = "sdxl-text"
    only += ["text_encoder_2.text_model.encoder.layers.0.self_attn.k_proj", "text_encoder_2.text_projection"]
    members = core(base, name, only=only)
    zoo.add(name, base, "lora", "by hand: kohya grammar", spell(members, of(base)), members, lora_forwards(base, members),
            notes="text encoders alone, with lora_te2_text_projection")
    for label, text in (("te-short", ("te1.", "te2.")),
                        ("ldm-text", ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.transformer."))):
        tensors = spell(members, lambda m: dotted_stem(base, m, text=text))
        zoo.add(f"sdxl-{label}", base, "lora", "by hand: renamed", tensors, goldens=name, optional=True, notes=" ".join(text))

    base, name = "sd2", "sd2-openclip"
    paths = {"text_encoder.text_model.encoder.layers.0.self_attn.out_proj": "transformer.resblocks.0.attn.out_proj",
             "text_encoder.text_model.encoder.layers.1.mlp.fc1": "transformer.resblocks.1.mlp.c_fc",
             "text_encoder.text_model.encoder.layers.2.mlp.fc2": "transformer.resblocks.2.mlp.c_proj"}
    members = core(base, name, only=list(paths))
    zoo.add(name, base, "lora", "by hand: open_clip names", spell(members, lambda m: "cond_stage_model.model." + paths[m]), members,
            lora_forwards(base, members), optional=True, notes="cond_stage_model.model.transformer.resblocks.…")
    name = "sd2-openclip-fused"
    generator, members, tensors = seeded(name), {}, {}
    layer = "text_encoder.text_model.encoder.layers.1.self_attn."
    down, up = torch.randn(2, 24, generator=generator).half(), (0.1 * torch.randn(72, 2, generator=generator)).half()
    stem = "cond_stage_model.model.transformer.resblocks.1.attn.in_proj"
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(3.0).half()}
    for n, leaf in enumerate(("q_proj", "k_proj", "v_proj")):
        members[layer + leaf] = ({"down": down.float(), "up": up[24 * n: 24 * n + 24].float(), "alpha": 3.0}, None)
    zoo.add(name, base, "lora", "by hand: open_clip fused projection", tensors, members, lora_forwards(base, members), optional=True,
            notes="fused in_proj: thirds of up's rows go to q, k, v; the spelling is not known from a real file")


def uniform(zoo: Zoo) -> None:
    """One alpha everywhere: what diffusers itself reads rightly, for the pictures."""
    for base in ("sd15", "sdxl"):
        for n, rank in (("a", 2), ("b", 3)):
            name = f"{base}-uniform-{n}"
            generator, members = seeded(name), {}
            for module, kind in modules(base).items():
                part, path = split_site(module)
                wide = part == "unet" and (".attn" in path or ".ff." in path) and kind == "linear"
                wide |= part != "unet" and kind == "linear" and "text_projection" not in path
                wide |= n == "b" and part == "unet" and ("resnets" in path or "samplers" in path) and kind == "conv"
                lucky = torch.rand((), generator=generator) < (0.25 if base == "sd15" else 0.12)
                # diffusers recognises a text encoder's keys by an out_proj among them
                if wide and (lucky or path.endswith("layers.0.self_attn.out_proj")):
                    members[module] = (lora_roles(base, module, rank, 1.5 * rank, generator, strength=0.7), None)
            tensors = spell(members, lambda m: kohya_stem(base, m, ldm=base == "sdxl" and n == "a"))
            zoo.add(name, base, "lora", "by hand: kohya grammar", tensors, members, sketched=True,
                    metadata=kohya_metadata(base), notes="one rank and one alpha in the whole file; used by pictures.json")


def make(zoo: Zoo) -> None:
    types(zoo)
    pickles(zoo)
    simo(zoo)
    if "sdxl-kohya" in zoo.roles and "sd15-lyco-norm" in zoo.roles and "sd15-peft-dora" in zoo.roles:
        mixtures(zoo)
        magnitudes(zoo)
        scraps(zoo)
    uniform(zoo)
