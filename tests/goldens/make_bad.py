"""Hostile and broken files in bad/, and honest but unusual pickles in pickles/ with their contents beside them."""

import collections
import io
import pickle
import struct
import zipfile

from common import *

BAD = HERE / "bad"
GOOD = HERE / "pickles"


class Call:
    """Unpickles as a call. The commands are harmless; a reader that runs them fails its test all the same."""

    def __init__(self, function, *arguments):
        self.what = (function, arguments)

    def __reduce__(self):
        return self.what


def put(name: str, content: bytes) -> None:
    path = BAD / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def safetensors(header, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str, shape: list, start: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def rezip(content: bytes, change) -> bytes:
    """Writes a torch archive anew; `change(name, bytes)` gives the new bytes, None leaves the entry out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for item in old.infolist():
            data = change(item.filename, old.read(item))
            if data is not None:
                new.writestr(zipfile.ZipInfo(item.filename), data)
    return out.getvalue()


def saved(value, **more) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **more)
    return out.getvalue()


def bad_safetensors() -> None:
    one = {"a": entry("F32", [2], 0, 8)}
    fine = safetensors(one, b"\0" * 8)
    put("empty.safetensors", b"")
    put("seven_bytes.safetensors", b"\1\0\0\0\0\0\0")
    put("zeros.safetensors", b"\0" * 4096)
    put("truncated_data.safetensors", fine[:-3])
    put("truncated_header.safetensors", fine[:20])
    put("header_length_max.safetensors", safetensors(one, b"\0" * 8, 2**64 - 1))
    put("header_length_terabyte.safetensors", safetensors(one, b"\0" * 8, 2**40))
    put("header_not_json.safetensors", safetensors(b"this is no json at all {{{"))
    put("header_not_utf8.safetensors", safetensors(b'{"\xff\xfe":{}}'))
    put("header_list.safetensors", safetensors([1, 2, 3]))
    put("header_deep.safetensors", safetensors(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"))
    put("header_twice.safetensors", safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b"\0" * 8))
    put("offsets_overlap.safetensors", safetensors(
        {"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, b"\0" * 12))
    put("offsets_gap.safetensors", safetensors(
        {"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, b"\0" * 12))
    put("offsets_past_end.safetensors", safetensors({"a": entry("F32", [1000], 0, 4000)}, b"\0" * 8))
    put("offsets_reversed.safetensors", safetensors({"a": entry("F32", [2], 8, 0)}, b"\0" * 8))
    put("offsets_huge.safetensors", safetensors({"a": entry("F32", [2], 2**63, 2**63 + 8)}, b"\0" * 8))
    put("data_left_over.safetensors", fine + b"\0" * 100)
    put("shape_mismatch.safetensors", safetensors({"a": entry("F32", [3], 0, 8)}, b"\0" * 8))
    put("shape_overflow.safetensors", safetensors({"a": entry("F32", [2**40, 2**40], 0, 8)}, b"\0" * 8))
    put("shape_negative.safetensors", safetensors({"a": entry("F32", [-2], 0, 8)}, b"\0" * 8))
    put("dtype_unknown.safetensors", safetensors({"a": entry("Q4_K", [2], 0, 8)}, b"\0" * 8))
    put("no_tensors.safetensors", safetensors({"__metadata__": {"format": "pt"}}))
    put("page.safetensors", b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Not found</body></html>\n")
    put("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4265146304\n")
    put("really_a_zip.safetensors", saved({"a": torch.zeros(2)}))
    half = torch.zeros(2, 2, dtype=torch.float16)
    families = {
        "family_flux": ["double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight", "img_in.weight",
                        "txt_in.weight", "final_layer.linear.weight"],
        "family_sd3": ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
                       "model.diffusion_model.x_embedder.proj.weight"],
        "family_cascade": ["down_blocks.0.0.channelwise.0.weight", "clip_txt_mapper.weight"],
        "only_lora": ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
                      "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"],
        "only_vae": ["encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight"],
        "only_embedding": ["emb_params"],
        "only_controlnet": ["control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"],
        "unknown_keys": ["foo", "bar.baz"],
    }
    for name, keys in families.items():
        write_tensors(BAD / f"{name}.safetensors", {key: half for key in keys})


def bad_pickles() -> None:
    for name, call in {
        "system": Call(os.system, "echo colora-bomb > colora-bomb.txt"),
        "eval": Call(eval, "open('colora-bomb.txt','w').write('x')"),
        "import": Call(__import__, "this_module_does_not_exist"),
    }.items():
        put(f"bomb_{name}_zip.ckpt", saved({"state_dict": {"a": torch.zeros(2), "b": call}}))
        put(f"bomb_{name}_raw.ckpt", pickle.dumps({"state_dict": {"b": call}}, protocol=2))
    tensors = {"state_dict": {"a": torch.arange(64.0), "b": torch.arange(8.0)}}
    archive = saved(tensors)
    put("zip_truncated.ckpt", archive[: len(archive) // 2])
    put("zip_no_pickle.ckpt", rezip(archive, lambda n, d: None if n.endswith("data.pkl") else d))
    put("zip_no_storage.ckpt", rezip(archive, lambda n, d: None if n.endswith("data/0") else d))
    put("zip_short_storage.ckpt", rezip(archive, lambda n, d: d[:16] if n.endswith("data/0") else d))
    put("zip_pickle_garbage.ckpt", rezip(archive, lambda n, d: b"\x80\x02\xff\xff\xff" if n.endswith("data.pkl") else d))
    put("zip_pickle_cut.ckpt", rezip(archive, lambda n, d: d[: len(d) // 2] if n.endswith("data.pkl") else d))
    put("legacy_truncated.ckpt", saved(tensors, _use_new_zipfile_serialization=False)[:-100])
    # A pickle that asks for a terabyte through one length field, and one that nests without end.
    put("pickle_length.ckpt", b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.")
    put("pickle_deep.ckpt", b"\x80\x02" + b"(" * 20000 + b"t" * 20000 + b".")
    put("pickle_memo.ckpt", b"\x80\x02r\xff\xff\xff\x7fj\xff\xff\xff\x7f.")
    deflated = io.BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * 4_000_000 + b"N.")
    put("zip_bomb.ckpt", deflated.getvalue())
    put("not_a_pickle.ckpt", b"just some text\n")
    put("empty.ckpt", b"")


def bad_folders() -> None:
    put("config_garbage/config.json", b"{ this is : not json ]")
    put("config_not_a_model/config.json", b'{"_class_name": "FluxTransformer2DModel", "num_layers": 19}\n')
    index = {"metadata": {"total_size": 8}}
    stem = "diffusion_pytorch_model.safetensors.index.json"
    for name, file in {
        "shards_missing": "diffusion_pytorch_model-00001-of-00002.safetensors",
        "shards_outside": "../truncated_data.safetensors",
    }.items():
        write_json(BAD / name / "config.json", read_json(HERE / "variants" / "tiny-sd" / "config.json"))
        write_json(BAD / name / stem, {**index, "weight_map": {"conv_in.weight": file}})
    # SDXL whose second text tower was not downloaded.
    source = read_json(HERE / "sdxl" / "model_index.json")
    write_json(BAD / "sdxl-no-second" / "model_index.json", source)
    for part in ("unet", "vae", "text_encoder"):
        write_json(BAD / "sdxl-no-second" / part / "config.json", read_json(HERE / "sdxl" / part / "config.json"))
    put("sdxl-no-second/text_encoder_2/readme.txt", b"nothing here\n")
    write_json(BAD / "flux-folder" / "model_index.json", {
        "_class_name": "FluxPipeline", "_diffusers_version": "0.30.0", "transformer": ["diffusers", "FluxTransformer2DModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"]})
    put("empty-folder/.keep", b"")


def odd_pickles() -> None:
    """Every file holds the tensors of pickles/expected.safetensors."""
    GOOD.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(6, 4, generator=generator)
    tensors = {
        "plain": torch.randn(3, 5, generator=generator),
        "half": torch.randn(4, 2, generator=generator).half(),
        "brain": torch.randn(4, 2, generator=generator).bfloat16(),
        "double": torch.randn(2, 2, generator=generator, dtype=torch.float64),
        "whole": torch.arange(77).view(1, 77),
        "scalar": torch.tensor(0.25),
        "nothing": torch.zeros(0, 4),
        "view": base[2:4],  # shares its storage with the next two
        "transposed": base.T,
        "columns": base[:, 1::2],
    }
    write_tensors(GOOD / "expected.safetensors", tensors)
    parameters = collections.OrderedDict((k, torch.nn.Parameter(v, requires_grad=False)) for k, v in tensors.items())
    parameters._metadata = {"": {"version": 1}}
    module = type(sys)("pytorch_lightning.callbacks.model_checkpoint")

    class ModelCheckpoint:
        pass

    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = module.__name__, "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        sys.modules[name] = type(sys)(name)
    sys.modules[module.__name__] = module
    trainer = {
        "epoch": 3, "global_step": 10, "pytorch-lightning_version": "1.4.2", "state_dict": tensors,
        "callbacks": {ModelCheckpoint: {"best_model_score": None, "monitor": "val/loss"}},
        "optimizer_states": [], "lr_schedulers": [{"base_lrs": [1e-4], "last_epoch": 10}], "none": None, "flag": True,
    }
    files = {
        "zip.ckpt": saved({"state_dict": tensors}),
        "zip_bare.bin": saved(tensors),
        "zip_parameters.pt": saved(parameters),
        "zip_trainer.ckpt": saved(trainer),  # names a class that a reader has not and need not have
        "zip_protocol_4.ckpt": saved({"state_dict": tensors}, pickle_protocol=4),
        "legacy.ckpt": saved({"state_dict": tensors}, _use_new_zipfile_serialization=False),
        "legacy_bare.bin": saved(tensors, _use_new_zipfile_serialization=False),
    }
    for name, content in files.items():
        (GOOD / name).write_bytes(content)


if __name__ == "__main__":
    bad_safetensors()
    bad_pickles()
    bad_folders()
    odd_pickles()
    note(sum(1 for f in BAD.rglob("*") if f.is_file()), "bad files,", tensors_on_disk(BAD) >> 10, "KiB;",
         tensors_on_disk(GOOD) >> 10, "KiB of pickles")
