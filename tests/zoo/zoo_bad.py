"""Files that must not be applied (specification 5 and 2.14), each with words that the refusal has to contain.

`error`: any one of these, whatever the case. Files are as small as the evidence allows.
"""

import pickle
import struct
import zipfile

from zoo_derived import simo_order, simo_text
from zoo_kohya import *

U, A = "unet.down_blocks.0.", "unet.down_blocks.0.attentions.0.transformer_blocks.0."
Q, K = A + "attn1.to_q", A + "attn2.to_k"


def raw(name: str, data: bytes, ending="safetensors") -> str:
    path = HERE / f"bad/{name}.{ending}"
    path.write_bytes(data)
    path.chmod(0o644)
    return f"bad/{name}.{ending}"


def container(header, data: bytes, length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, start, end, dtype="F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def pair(module, name, rank=2, alpha=1.0):
    return lora_roles("sd15", module, rank, alpha, seeded(name))


def put(zoo, name, tensors, error, row, base="sd15", metadata=None, **more):
    write(HERE / f"bad/{name}.safetensors", tensors, metadata)
    zoo.refuse(name, base, [error] if isinstance(error, str) else error, row, **more)


# ---------------------------------------------------------------- containers

def containers(zoo: Zoo) -> None:
    members = {Q: (pair(Q, "good"), None), K: (pair(K, "good"), None)}
    write(HERE / "bad/whole.tmp", spell(members, lambda m: kohya_stem("sd15", m)))
    whole = (HERE / "bad/whole.tmp").read_bytes()
    (HERE / "bad/whole.tmp").unlink()
    length = struct.unpack("<Q", whole[:8])[0]
    a, b = "lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in.lora_up.weight"
    good = {a: entry([1, 4], 0, 16), b: entry([4, 1], 16, 32)}
    zeros = bytes(32)

    def bad(name, data, error, row, ending="safetensors", notes="", **more):
        zoo.refuse(name, "sd15", [error] if isinstance(error, str) else error, row, file=raw(name, data, ending), notes=notes, **more)

    row = "truncated safetensors"
    bad("truncated-data", whole[:-10], ["truncated", str(len(whole))], row, notes="ten bytes short: expected and found sizes")
    bad("truncated-header", whole[: 8 + length // 2], ["truncated", "header"], row)
    bad("truncated-length", whole[:5], ["truncated", "header", "8 bytes", "too short", "not a"], row)
    bad("trailing-bytes", whole + bytes(7), ["truncated", str(len(whole)), "trailing", "bytes"], row, notes="seven bytes too many")
    row = "header abuse"
    bad("header-huge", container(good, zeros, length=200_000_000), ["header"], row, notes="claims a header of 200 MB")
    bad("header-overflow", container(good, zeros, length=2**64 - 1), ["header"], row)
    bad("header-not-json", container(b"{not json at all", zeros), ["header", "json"], row)
    bad("header-list", container(b"[1, 2, 3]       ", zeros), ["header", "json"], row)
    bad("header-not-utf8", container(b'{"\xff\xfe": 1}', zeros), ["header", "utf", "json"], row)
    bad("offsets-overlap", container({a: entry([1, 4], 0, 16), b: entry([4, 1], 8, 24)}, zeros[:24]), ["offset", "overlap"], row)
    bad("offsets-hole", container({a: entry([1, 4], 0, 16), b: entry([4, 1], 24, 40)}, bytes(40)), ["offset", "hole", "gap"], row)
    bad("offsets-outside", container({a: entry([1, 4], 0, 16), b: entry([4, 200], 16, 3216)}, zeros),
        ["offset", "truncated", "bytes"], row)
    bad("offsets-backwards", container({a: entry([1, 4], 16, 0), b: entry([4, 1], 16, 32)}, zeros), ["offset"], row)
    bad("shape-span", container({a: entry([1, 5], 0, 16), b: entry([4, 1], 16, 32)}, zeros), ["shape", "bytes", "offset"], row,
        notes="20 bytes by its shape, 16 by its offsets")
    bad("shape-overflow", container({a: entry([2**40, 2**40], 0, 16), b: entry([4, 1], 16, 32)}, zeros),
        ["shape", "overflow", "bytes", "offset"], row)
    twice = ("{" + f'"{a}": {json.dumps(good[a])}, "{b}": {json.dumps(good[b])}, "{a}": {json.dumps(good[a])}' + "}").encode()
    bad("keys-twice", container(twice, zeros), ["duplicate", "twice"], row, notes="one key two times in the header")
    bad("negative-shape", container({a: entry([-1, -4], 0, 16), b: entry([4, 1], 16, 32)}, zeros), ["shape", "header", "json"], row)
    row = "dtypes"
    bad("dtype-unknown", container({a: entry([1, 4], 0, 16, "Q9"), b: entry([4, 1], 16, 32)}, zeros), ["Q9", "dtype", "type"], row)
    bad("dtype-complex", container({a: entry([1, 4], 0, 32, "C64"), b: entry([4, 1], 32, 48)}, bytes(48)), ["C64", "dtype", "type"], row)
    row = "not safetensors"
    bad("gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 0), ["GGUF"], row, ending="gguf")
    bad("gguf-named-safetensors", b"GGUF" + struct.pack("<IQQ", 3, 0, 0), ["GGUF"], row)
    bad("json", b'{"unet": [[0.1, 0.2]]}\n', ["json", "not a"], row, ending="json")
    noise = bytes((i * 167 + 13) % 251 for i in range(64))
    bad("noise", noise, ["header", "not a", "safetensors"], row)
    row = "HTML / git-lfs pointer / 0 bytes"
    bad("html", b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n", ["download page", "html"], row)
    bad("lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 144000000\n", ["lfs"], row)
    bad("nothing", b"", ["empty", "0 bytes"], row)
    pickles(zoo, bad)


def torch_zip(data_pkl: bytes, storages: dict) -> bytes:
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as z:
        for name, data in (("data.pkl", data_pkl), ("byteorder", b"little"), ("version", b"3\n"),
                           *((f"data/{k}", v) for k, v in storages.items())):
            z.writestr(zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


def pickles(zoo: Zoo, bad) -> None:
    row = "pickled .pt/.ckpt/.bin"
    # GLOBAL posix getpid, an empty tuple, REDUCE: harmless if somebody does run it, and nobody must.
    evil = b"\x80\x02cposix\ngetpid\n)R."
    bad("pickle-call", torch_zip(evil, {}), ["getpid", "posix"], row, ending="pt", notes="a call of an unknown global: never executed")
    bad("pickle-call-legacy", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(
        {"little_endian": True}, 2) + evil, ["getpid", "posix"], row, ending="pt")
    bad("pickle-stack-global", torch_zip(b"\x80\x04\x8c\x08builtins\x8c\x03len\x93\x8c\x01a\x85R.", {}), ["builtins", "len"], row,
        ending="pt", notes="protocol 4, STACK_GLOBAL")
    bad("pickle-load-from-bytes", torch_zip(b"\x80\x02ctorch.storage\n_load_from_bytes\nU\x00\x85R.", {}), ["_load_from_bytes"], row, ending="pt")
    bad("pickle-instance", torch_zip(b"\x80\x02cpathlib\nPurePath\n)\x81}b.", {}), ["PurePath", "pathlib", "no tensor"], row, ending="pt",
        notes="NEWOBJ and BUILD of a class that is not on the list")
    bad("pickle-truncated", torch_zip(b"\x80\x02}q\x00(X\x05\x00\x00\x00ab", {}), ["pickle", "truncated", "end"], row, ending="pt")
    bad("zip-other", torch_zip(b"", {}).replace(b"data.pkl", b"data.txt"), ["data.pkl", "zip", "torch"], row, ending="pt",
        notes="a zip without data.pkl")
    # A tensor that reaches beyond its storage: 4 numbers there, 8 asked for.
    keyed = (b"\x80\x02}q\x00X\x22\x00\x00\x00lora_unet_conv_in.lora_down.weight"
             b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
             b"X\x03\x00\x00\x00cpuK\x04tQK\x00K\x02K\x04\x86K\x04K\x01\x86\x89ccollections\nOrderedDict\n)RtRs.")
    bad("pickle-beyond-storage", torch_zip(keyed, {"0": bytes(16)}), ["storage", "beyond", "outside", "bounds", "range"], row, ending="pt")


# ---------------------------------------------------------------- groups and values

def groups(zoo: Zoo) -> None:
    stem = kohya_stem("sd15", K)
    half = spell({K: (pair(K, "half"), None)}, lambda m: kohya_stem("sd15", m))
    fine = spell({Q: (pair(Q, "fine"), None)}, lambda m: kohya_stem("sd15", m))
    row = "up without down (or a/b halves, t1 without t2, oft without blocks)"
    put(zoo, "no-up", {**fine, **{k: v for k, v in half.items() if "lora_up" not in k}}, [stem, "lora_up"], row)
    put(zoo, "no-down", {**fine, **{k: v for k, v in half.items() if "lora_down" not in k}}, [stem, "lora_down"], row)
    put(zoo, "mid-alone", {**fine, f"{stem}.lora_mid.weight": torch.zeros(2, 2, 3, 3)}, [stem, "lora_mid"], row)
    hada = {f"{stem}.hada_w{n}_{h}": torch.ones(8, 2) if h == "a" else torch.ones(2, 32) for n in "12" for h in "ab"}
    put(zoo, "hada-half", {k: v for k, v in hada.items() if not k.endswith("w2_b")}, [stem, "hada_w2_b"], row)
    conv = kohya_stem("sd15", U + "resnets.0.conv1")
    tucker = {f"{conv}.hada_w{n}_{h}": torch.ones(2, 8) for n in "12" for h in "ab"}
    put(zoo, "hada-t1-alone", {**tucker, f"{conv}.hada_t1": torch.ones(2, 2, 3, 3)}, [conv, "hada_t2"], row)
    put(zoo, "lokr-half", {f"{stem}.lokr_w1": torch.ones(2, 4), f"{stem}.lokr_w2_a": torch.ones(4, 1)}, [stem, "lokr_w2_b"], row)
    put(zoo, "lokr-w1-alone", {f"{stem}.lokr_w1": torch.ones(2, 4)}, [stem, "lokr_w2"], row)
    put(zoo, "glora-half", {f"{stem}.a1.weight": torch.ones(32, 2), f"{stem}.a2.weight": torch.ones(2, 32),
                            f"{stem}.b1.weight": torch.ones(8, 2)}, [stem, "b2"], row)
    put(zoo, "rescale-alone", {f"{stem}.rescale": torch.ones(8, 1)}, [stem, "oft_blocks"], row)
    put(zoo, "on-input-alone", {f"{stem}.on_input": torch.tensor(1)}, [stem, "weight"], row)

    row = "shape mismatch"
    wide = dict(half)
    wide[f"{stem}.lora_up.weight"] = torch.ones(9, 2).half()
    put(zoo, "shape-up", {**fine, **wide}, ["shape", "9"], row, notes="9 outputs for a module with 8")
    deep = dict(half)
    deep[f"{stem}.lora_up.weight"] = torch.ones(8, 3).half()
    put(zoo, "shape-ranks", {**fine, **deep}, ["rank", "shape", "3"], row, notes="down has rank 2, up rank 3")
    put(zoo, "shape-diff", {f"{stem}.diff": torch.ones(8, 31)}, ["shape", "31"], row)
    put(zoo, "shape-broadcast", {f"{stem}.diff": torch.ones(8, 1)}, ["shape"], row, notes="must not be broadcast")
    put(zoo, "shape-norm", {"lora_unet_down_blocks_0_resnets_0_norm1.w_norm": torch.ones(7)}, ["shape", "7"], row)
    put(zoo, "shape-oft", {f"{stem}.oft_blocks": torch.zeros(3, 4, 4), f"{stem}.alpha": torch.tensor(0.0)}, ["shape", "12", "block"], row,
        notes="3 blocks of 4 for 8 outputs")
    put(zoo, "shape-oft-not-square", {f"{stem}.oft_blocks": torch.zeros(2, 4, 3)}, ["shape", "square"], row)
    put(zoo, "shape-lokr", {f"{stem}.lokr_w1": torch.ones(2, 4), f"{stem}.lokr_w2": torch.ones(3, 8)}, ["shape"], row)
    put(zoo, "shape-dora", {**half, f"{stem}.dora_scale": torch.ones(5, 1)}, ["shape", "dora", "5"], row)
    put(zoo, "dimensions", {f"{stem}.lora_down.weight": torch.ones(2), f"{stem}.lora_up.weight": torch.ones(8, 2, 1, 1, 1)}, ["shape", "dimension"], row)

    row = "NaN / Inf"
    for label, value in (("nan", float("nan")), ("inf", float("inf"))):
        sick = {k: v.clone() for k, v in half.items()}
        sick[f"{stem}.lora_up.weight"][3, 1] = value
        put(zoo, f"{label}-up", {**fine, **sick}, [label, "finite"], row, notes=f"{stem}.lora_up.weight; --allow-nan-modules skips it")
    put(zoo, "inf-product", {f"{stem}.lora_down.weight": torch.full((2, 32), 3e38), f"{stem}.lora_up.weight": torch.full((8, 2), 3e38)},
        ["inf", "finite"], row, notes="every factor finite, their product is not")
    put(zoo, "alpha-nan", {**fine, **half, f"{stem}.alpha": torch.tensor(float("nan"))}, ["alpha"], "alpha missing / 0 / NaN / >1e6")
    put(zoo, "alpha-two", {**fine, **half, f"{stem}.alpha": torch.ones(2)}, ["alpha"], "alpha as [1]", notes="two numbers")

    row = "unmatched keys"
    put(zoo, "matches-nothing", {"lora_unet_blok_1_to_q.lora_down.weight": torch.ones(2, 8), "lora_unet_blok_1_to_q.lora_up.weight": torch.ones(8, 2)},
        ["no ", "none", "0 of"], row, notes="not one key fits")
    put(zoo, "only-alphas", {f"{stem}.alpha": torch.tensor(1.0)}, ["no ", "none", "0 of"], row)
    put(zoo, "no-tensors", {}, ["no ", "none", "empty"], row)
    zoo.refuse("strict-unmatched", "sd15", ["unmatched", "no_such_module"], row, file="good/sd15-unmatched.safetensors", options={"strict": True},
               notes="the same file is fine without the strict flag")

    row = "duplicate module under two spellings"
    other = {k: v * 1.5 if "lora_B" in k else v for k, v in spell({K: (pair(K, "half"), None)}, lambda m: dotted_stem("sd15", m), "peft").items()}
    put(zoo, "duplicate", {**half, **other}, ["duplicate", "twice", "two"], row, notes="kohya and PEFT keys for one module, up factors differ")
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    first = spell({text: (pair(text, "te"), None)}, lambda m: kohya_stem("sd15", m))
    second = spell({text: (pair(text, "te2"), None)}, lambda m: kohya_stem("sd15", m, text_model=False))
    put(zoo, "duplicate-te", {**first, **second}, ["duplicate", "twice", "two"], row, notes="with and without text_model, different factors")


# ---------------------------------------------------------------- families

def families(zoo: Zoo) -> None:
    row = "wrong family"
    words = {"sd15": ["SD1", "SD 1", "stable diffusion 1"], "sd2": ["SD2", "SD 2", "stable diffusion 2"], "sdxl": ["SDXL"]}
    widths = {"sd15": "32", "sd2": "24", "sdxl": "40"}
    for file in PART_FILES:
        for base in PART_FILES:
            if file != base:
                zoo.refuse(f"{file}-full-on-{base}", base, words[file] + ["shape", "family", widths[file]], row,
                           file=f"good/{file}-kohya-full.safetensors", notes="tiny widths: 32 (sd15), 24 (sd2), 40 (sdxl) say the family")
    zoo.refuse("sdxl-diffusers-on-sd15", "sd15", ["SDXL"], row, file="good/sdxl-kohya-diffusers.safetensors",
               notes="many of its names exist in SD1; te2 and transformer_blocks_1 tell")
    zoo.refuse("sdxl-peft-on-sd15", "sd15", ["SDXL"], row, file="good/sdxl-peft.safetensors")
    attn = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    for name, width, said, base in (("real-sd15", 768, "SD1", "sdxl"), ("real-sd2", 1024, "SD2", "sd15"), ("real-sdxl", 2048, "SDXL", "sd15"),
                                    ("real-refiner", 1280, "refiner", "sd15")):
        tensors = {f"{attn}.lora_down.weight": torch.ones(1, width).half(), f"{attn}.lora_up.weight": torch.ones(640, 1).half()}
        alike = {"SD1": words["sd15"], "SD2": words["sd2"], "SDXL": ["SDXL"], "refiner": ["refiner"]}[said]
        put(zoo, name, tensors, [*alike, str(width)], row, base=base, notes=f"true cross-attention width {width}")
    stem = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    put(zoo, "te-of-sd2-on-sdxl", {f"{stem}.lora_down.weight": torch.ones(1, 24).half(), f"{stem}.lora_up.weight": torch.ones(24, 1).half()},
        ["shape", "24", "family", "SD2"], "`lora_te_` file on SDXL", base="sdxl", notes="lora_te_ with a width that is not the first encoder's")
    put(zoo, "te2-on-sd15", {f"{stem.replace('te_', 'te2_')}.lora_down.weight": torch.ones(1, 32).half(),
                             f"{stem.replace('te_', 'te2_')}.lora_up.weight": torch.ones(32, 1).half()}, ["SDXL", "te2"], row)

    row = "6. cloneofsimo"
    tensors, meta = zoo.simo_tensors
    swapped = dict(tensors)
    # the feed-forward and attn2.to_q of the first block change places
    for end in ("up", "down"):
        swapped[f"unet:4:{end}"], swapped[f"unet:6:{end}"] = tensors[f"unet:6:{end}"], tensors[f"unet:4:{end}"]
    few = {k: v for k, v in swapped.items() if k.startswith("unet:")}
    few = {k: torch.ones_like(v) for k, v in few.items()}
    put(zoo, "simo-order", few, ["order", "shape"], row, metadata={"unet": meta["unet"]}, notes="two indices exchanged: no known order fits")
    put(zoo, "simo-missing", {k: torch.ones_like(v) for k, v in tensors.items() if k.startswith("unet:") and ":17:" not in k}, ["17", "order", "missing"],
        row, metadata={"unet": meta["unet"]}, notes="index 17 is not there")
    assert len(simo_order("sd15")) == 144 and len(simo_text("sd15")) == 12


OTHERS = [
    ("flux-bfl", ["lora_unet_double_blocks_0_img_attn_proj", "lora_unet_single_blocks_3_linear1"], ["FLUX"]),
    ("flux-diffusers", ["transformer.single_transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.add_k_proj"], ["FLUX"]),
    ("flux-comfy", ["diffusion_model.double_blocks.0.txt_attn.qkv", "diffusion_model.single_blocks.0.linear2"], ["FLUX", "Chroma", "Hunyuan"]),
    ("sd3-kohya", ["lora_unet_joint_blocks_0_context_block_attn_qkv"], ["SD3"]),
    ("sd3-diffusers", ["transformer.transformer_blocks.0.attn.add_q_proj", "transformer.transformer_blocks.23.attn.to_q"], ["SD3"]),
    ("qwen-image", ["transformer.transformer_blocks.59.img_mod.1", "transformer.transformer_blocks.0.txt_mlp.net.2"], ["Qwen"]),
    ("cascade", ["lora_prior_unet_down_blocks_0_1_channelwise_0", "lora_prior_te_text_model_encoder_layers_0_mlp_fc1"], ["Cascade", "Würstchen"]),
    ("wan", ["diffusion_model.blocks.0.self_attn.q", "diffusion_model.blocks.0.cross_attn.k", "diffusion_model.blocks.0.ffn.0"], ["Wan"]),
    ("wan-kohya", ["lora_unet_blocks_0_self_attn_q", "lora_unet_blocks_0_cross_attn_k", "lora_unet_blocks_0_ffn_0"], ["Wan", "Cosmos", "Anima"]),
    ("anima", ["lora_unet__blocks_0_self_attn_q_proj"], ["Wan", "Cosmos", "Anima"]),
    ("lumina2", ["diffusion_model.layers.0.attention.to_q", "diffusion_model.context_refiner.0.attention.to_q", "diffusion_model.noise_refiner.1.attention.to_q"], ["Lumina", "Z-Image"]),
    ("pixart", ["transformer.adaln_single.linear", "transformer.caption_projection.linear_1"], ["PixArt", "LTX"]),
    ("hunyuan-dit", ["hydit.blocks.0.attn1.Wqkv", "lora_te1_encoder_layer_0_attention_self_query_bert"], ["Hunyuan"]),
    ("t5-kohya", ["lora_te3_encoder_block_0_layer_0_SelfAttention_q"], ["T5"]),
    ("t5-comfy", ["text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"], ["T5"]),
    ("animatediff", ["down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q"], ["AnimateDiff", "motion"]),
]


def others(zoo: Zoo) -> None:
    for name, stems, error in OTHERS:
        tensors = {}
        for stem in stems:
            style = ("lora_down", "lora_up") if stem.startswith("lora_") else ("lora_A", "lora_B")
            tensors[f"{stem}.{style[0]}.weight"], tensors[f"{stem}.{style[1]}.weight"] = torch.ones(1, 8).half(), torch.ones(8, 1).half()
        put(zoo, f"family-{name}", tensors, error, "2.14")

    put(zoo, "control-lora", {"lora_controlnet": torch.zeros(0), "input_blocks.0.0.up": torch.ones(8, 1), "input_blocks.0.0.down": torch.ones(1, 36),
                              "zero_convs.0.0.weight": torch.ones(8, 8, 1, 1), "input_blocks.1.0.in_layers.0.norm.weight": torch.ones(8)},
        ["Control-LoRA", "ControlNet", "control"], "2.14")
    put(zoo, "lllite", {"lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.conditioning1.0.weight": torch.ones(4, 3, 4, 4)}, ["LLLite"], "2.14")
    put(zoo, "ip-adapter", {"image_proj.proj.weight": torch.ones(8, 4), "ip_adapter.1.to_k_ip.weight": torch.ones(8, 8)}, ["IP-Adapter"], "2.14")
    put(zoo, "checkpoint", {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(8, 4, 3, 3), "model.diffusion_model.out.2.weight": torch.ones(4, 8, 3, 3)},
        ["checkpoint"], "2.14")
    put(zoo, "checkpoint-diffusers", {"down_blocks.0.resnets.0.conv1.weight": torch.ones(8, 8, 3, 3), "conv_in.weight": torch.ones(8, 4, 3, 3)},
        ["checkpoint", "full"], "`.weight` alone")
    put(zoo, "inversion-a1111", {"string_to_param.*": torch.ones(2, 32), "string_to_token.*": torch.tensor(265)}, ["textual inversion", "embedding"], "2.14")
    put(zoo, "inversion-emb-params", {"emb_params": torch.ones(2, 32)}, ["textual inversion", "embedding"], "2.14")
    put(zoo, "inversion-sdxl", {"clip_l": torch.ones(2, 16), "clip_g": torch.ones(2, 24)}, ["textual inversion", "embedding"], "2.14", base="sdxl")
    k = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor."
    put(zoo, "custom-diffusion", {f"{k}to_k_custom_diffusion.weight": torch.ones(8, 32), f"{k}to_v_custom_diffusion.weight": torch.ones(8, 32)},
        ["Custom Diffusion"], "2.5")
    stem = kohya_stem("sd15", K)
    put(zoo, "tlora", {f"{stem}.q_layer.weight": torch.ones(2, 32), f"{stem}.p_layer.weight": torch.ones(8, 2), f"{stem}.lambda_layer": torch.ones(1, 2),
                       f"{stem}.alpha": torch.tensor(2.0)}, ["T-LoRA"], "3.10")
    put(zoo, "oft-diag", {f"{stem}.oft_diag": torch.ones(2, 4, 4), f"{stem}.alpha": torch.tensor(1.0)}, ["oft_diag"], "3.8")
    put(zoo, "reshape-weight", {f"{stem}.lora_down.weight": torch.ones(2, 32), f"{stem}.lora_up.weight": torch.ones(8, 2),
                                f"{stem}.reshape_weight": torch.tensor([8, 64])}, ["reshape_weight", "Flux"], "2.2", notes="Flux control padding")


def make(zoo: Zoo) -> None:
    containers(zoo)
    groups(zoo)
    families(zoo)
    others(zoo)
