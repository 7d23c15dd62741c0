"""Tokenizer and random-number goldens: tokenizer.json, randn.safetensors.

`tokenizer.json` also holds the ids of the older Python tokenizer (transformers 4) where they differ; give its
interpreter with --old-python, or the entries of the file that is already there are kept.
"""

import argparse
import subprocess
import tempfile

from common import *

LONG = (
    "a highly detailed oil painting of an old lighthouse keeper standing on the edge of a cliff at sunset, "
    "dramatic clouds, golden rim light, seagulls in the distance, waves crashing against black rocks, "
    "thick impasto brush strokes, museum quality, trending on artstation, award winning composition, "
    "muted teal and orange palette, volumetric fog, 8k, intricate texture, by a forgotten master of the 19th century"
)
STRINGS = [
    "", " ", "\n", "\t \r\n", "a", "A", "!", "!!", "!!!", "a photo of a cat", "A Photo Of A CAT", "a photo of a cat!",
    "a photo of a cat !", "wow!! so cool!!!", "!important", "a!b", "hello, world.", "hello,world", "hello   world",
    "  leading and trailing  ", "tab\tseparated\tvalues", "line one\nline two", "line one\r\nline two\n\n\nline three",
    "it's", "It's they're we've I'm you'll he'd don't", "IT'S THEY'RE WE'VE I'M YOU'LL HE'D DON'T", "'s", "'t", "'S 'T",
    "rock 'n' roll", "dogs' 'quoted'", "'tis the season", "it’s a curly apostrophe", "“curly quotes” ‘single’",
    "1", "12", "123", "2024", "3.14159", "1,000,000", "50%", "1st 2nd 3rd", "4k 8K 16bit", "f/1.8 35mm ISO100", "½ ¼ ² ³ Ⅷ",
    "٣٤٥ १२३", "x86_64", "snake_case_words and kebab-case-words", "CamelCaseWords", "email@example.com",
    "https://example.com/path?query=1&other=2#anchor", "C:\\windows\\system32", "a/b\\c|d", "(masterpiece:1.2), ((best quality))",
    "[low quality], {curly}, <angle>", "<lora:name:0.8>", "a AND b", "BREAK", "#hashtag @mention $100 €50 £20 ¥1000",
    "~`^*+=", "...", "…", "a...b", "--", "—", "a—b – c", "?!?!", ";:;:", "^_^ :-) :D", "c++ c# .net", "100% cotton & silk",
    "&amp; &lt;b&gt; &quot;x&quot; &#39;y&#39;", "&amp;amp;", "<br/>", "<|endoftext|>", "<|startoftext|>",
    "a cat <|endoftext|> a dog", "<|startoftext|>a cat<|endoftext|>", "<|ENDOFTEXT|>", "<|endoftext", "endoftext|>", "<||>",
    "café", "cafe\u0301", "CAFÉ", "naïve façade über Ærøskøbing", "ÅNGSTRÖM Å \u212b A\u030a", "İstanbul Iı", "ẞ ß SS", "ﬁ ﬂ ﬀ",
    "ΣΊΣΥΦΟΣ Σ ς", "Привет, мир", "ПРИВЕТ", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "안녕하세요 세계", "\u1112\u1161\u11ab\u1100\u1173\u11af",
    "你好世界", "一只猫的照片，高清", "猫の写真、高品質", "ｈｅｌｌｏ ＦＵＬＬＷＩＤＴＨ１２３", "ﾊﾝｶｸｶﾅ", "日本語english混在text",
    "😀", "😀😀😀", "a cat 🐱 and a dog 🐶", "👨‍👩‍👧‍👦", "👍🏽", "🇫🇷🇯🇵", "❤️ ❤", "♥ ★ ☆ → ← ✓", "𝓯𝓪𝓷𝓬𝔂 𝔗𝔢𝔵𝔱", "𠀋 𡃁",
    "zero\u200bwidth", "non\u00a0breaking\u00a0space", "thin\u2009space em\u2003space \u3000ideographic", "soft\u00adhyphen", "\ufeffbom",
    "bell\u0007 escape\u001b null\u0000 end", "\u0001\u0002\u001f", "\u007f\u0085\u009f", "vertical\u000btab form\u000cfeed",
    "line\u2028separator\u2029paragraph", "\ufffd", "\u202eright to left\u202c", "z\u0351\u0363a\u0321\u0353l\u0334g\u0336o\u0321",
    "antidisestablishmentarianism", "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "hahahahahahahaha", "xqzjkvwxqzjkv", "greg rutkowski", "1girl, solo, looking_at_viewer",
    LONG, "cat " * 75, "cat " * 76, "cat " * 74, "cat " * 200, "!" * 100, "! " * 40, "😀" * 40, "x" * 400, "9" * 100,
    LONG + "!", "a photo of sks dog, embedding:name-v1.5", "trailing newline\n", "\u00a0", "日" * 60, "'", "\"", "''", "a'b'c", "d'artagnan's",
]

OLD = """
import json, sys
from transformers import CLIPTokenizer
import transformers
out = {"version": transformers.__version__}
for kind, folder in json.loads(sys.argv[1]).items():
    t = CLIPTokenizer.from_pretrained(folder)
    out[kind] = [t(s, padding="max_length", max_length=77, truncation=True).input_ids for s in json.load(open(sys.argv[2]))]
try:
    import ftfy
    out["ftfy"] = True
except ImportError:
    out["ftfy"] = False
print(json.dumps(out))
"""


def trimmed(ids: list[int], pad: int) -> list[int]:
    """The ids without the padding after the end token."""
    while len(ids) > 1 and ids[-1] == pad and ids[-2] in (pad, 49407):
        ids = ids[:-1]
    return ids


def make_tokenizer(old_python: str | None) -> None:
    from transformers import CLIPTokenizer

    names = {"sd1": "l", "sd2": "h", "sdxl2": "g"}
    known = HERE / "tokenizer.json"
    before = {c["text"]: c for c in read_json(known)["cases"]} if known.exists() else {}
    with tempfile.TemporaryDirectory() as temp:
        folders = {name: f"{temp}/{name}" for name in names}
        for name, kind in names.items():
            write_tokenizer(Path(folders[name]), kind)
        tokenizers = {name: CLIPTokenizer.from_pretrained(folder) for name, folder in folders.items()}
        old = None
        if old_python:
            write_json(Path(temp) / "strings", STRINGS)
            call = [old_python, "-c", OLD, json.dumps(folders), f"{temp}/strings"]
            old = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
            assert not old["ftfy"]
            note("old tokenizer: transformers", old["version"])
    pads = {name: t.pad_token_id for name, t in tokenizers.items()}
    cases, differing = [], 0
    for i, text in enumerate(STRINGS):
        case = {"text": text}
        for name, tokenizer in tokenizers.items():
            ids = tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
            assert len(ids) == 77
            case[name] = trimmed(ids, pads[name])
            if old:
                slow = trimmed(old[name][i], pads[name])
                if slow != case[name]:
                    case["old_" + name] = slow
            elif "old_" + name in before.get(text, {}):
                case["old_" + name] = before[text]["old_" + name]
        differing += any(key.startswith("old_") for key in case)
        cases.append(case)
    note(len(cases), "strings,", differing, "differ from the old tokenizer; pads", pads)
    old_version = f"transformers {old['version']}" if old else read_json(known)["old"] if known.exists() else None
    head = {**VERSIONS, "old": old_version, "length": 77, "pad": pads, "start": 49406, "end": 49407}
    lines = ",\n".join("  " + json.dumps(case, separators=(",", ":")) for case in cases)
    body = json.dumps(head, indent=1)[:-2] + ',\n "cases": [\n' + lines + "\n ]\n}\n"
    known.write_text(body, encoding="utf-8")


def make_randn() -> None:
    seeds = [0, 1, 5, 42, 2**32 - 1, 2**32 + 5, 2**63 - 1]
    shapes = [(1,), (3,), (15,), (16,), (17,), (31,), (64,), (1, 4, 8, 8), (1, 4, 9, 12), (1, 4, 16, 16), (2, 4, 8, 8)]
    tensors = {}
    for seed in seeds:
        for shape in shapes:
            generator = torch.Generator("cpu").manual_seed(seed)
            tensors[f"randn.{seed}.{'x'.join(map(str, shape))}"] = torch.randn(shape, generator=generator)
        # One generator drawn from again and again: what is left over from one draw must not be lost or reused.
        generator = torch.Generator("cpu").manual_seed(seed)
        for i, numel in enumerate([1, 3, 16, 5, 2, 20, 7, 256]):
            tensors[f"chain.{seed}.{i}.{numel}"] = torch.randn(numel, generator=generator)
        generator = torch.Generator("cpu").manual_seed(seed)
        tensors[f"rand.{seed}.24"] = torch.rand(24, generator=generator)
    for name, dtype in {"f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16}.items():
        for numel in (5, 64):
            generator = torch.Generator("cpu").manual_seed(42)
            drawn = torch.randn(numel, generator=generator, dtype=dtype)
            tensors[f"randn_{name}.42.{numel}"] = drawn
    write_tensors(HERE / "randn.safetensors", tensors, cpu=torch.backends.cpu.get_cpu_capability())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old-python", help="an interpreter with transformers 4 and without ftfy")
    options = parser.parse_args()
    make_tokenizer(options.old_python)
    make_randn()
