"""What every script here shares: where things lie, how files are written, and the tokenizers."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import diffusers
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
MERGES = HERE.parent.parent / "src" / "conditioning" / "data" / "clip_merges.txt"
VERSIONS = {
    "torch": torch.__version__,
    "diffusers": diffusers.__version__,
    "transformers": transformers.__version__,
}

torch.set_num_threads(1)  # tiny tensors: one is faster, and the same on every machine
torch.set_grad_enabled(False)
diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def write_tensors(path: Path, tensors: dict, **metadata: str) -> None:
    """Writes one safetensors file; the versions of the reference stand in its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.as_tensor(value).contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, str(path), metadata={"format": "pt", **VERSIONS, **metadata})
    path.chmod(0o644)


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, ensure_ascii=True)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def byte_symbols() -> list[str]:
    """CLIP's 256 byte symbols, in the order of its vocabulary."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + n) for n in range(len(moved))]


def write_tokenizer(folder: Path, kind: str, merges: int | None = None) -> None:
    """Writes the files of a CLIP tokenizer as the model repositories have them.

    `kind`: `l` (SD1 and SDXL's first: padded with <|endoftext|>), `h` (SD2: the pad token "!" stands in
    special_tokens_map.json alone), `g` (SDXL's second: "!" in both files and as an added token).
    `merges`: how many merges to keep; None keeps all.
    """
    lines = MERGES.read_text(encoding="utf-8").split("\n")[1:-1]
    assert len(lines) == 48894
    lines = lines[:merges]
    symbols = byte_symbols()
    vocab = symbols + [s + "</w>" for s in symbols] + ["".join(line.split()) for line in lines]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: i for i, token in enumerate(vocab)}
    assert len(ids) == len(vocab)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")

    def special(content: str, **more) -> dict:
        return {**more, "content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    typed = {"__type": "AddedToken"}
    config = {
        "add_prefix_space": False,
        "bos_token": special("<|startoftext|>", **typed),
        "do_lower_case": True,
        "eos_token": special("<|endoftext|>", **typed),
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": special("<|endoftext|>", **typed),
    }
    table = {
        "bos_token": special("<|startoftext|>"),
        "eos_token": special("<|endoftext|>"),
        "pad_token": "<|endoftext|>" if kind == "l" else "!",
        "unk_token": special("<|endoftext|>"),
    }
    if kind == "g":
        config["pad_token"] = "!"
        added = {0: "!", len(vocab) - 2: "<|startoftext|>", len(vocab) - 1: "<|endoftext|>"}
        config["added_tokens_decoder"] = {
            str(i): {**special(token), "normalized": i != 0, "special": True} for i, token in added.items()
        }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", table)


def tensors_on_disk(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def note(*words) -> None:
    print(*words, file=sys.stderr, flush=True)


__all__ = [name for name in dir() if not name.startswith("_")]
_ = np
