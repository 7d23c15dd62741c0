#!/usr/bin/env python3
"""Takes prompts.json and prompts.safetensors from the full vectors of what other programs make of prompts.

take_prompts.py FOLDER   (with prompt_vectors.json and prompt_embeddings.safetensors; needs numpy and safetensors)

The vectors are what the programs' own code gives: AUTOMATIC1111's modules 1.8.0 (lark 1.3.1) and ComfyUI v0.3.64 over
transformers 5.24.0 and torch 2.15.0. The text encoders of the features are deterministic towers, whose weights follow from
their names: tests/prompts.rs has the formula. Names: I.TOOL.WHAT, I of "embedded" in prompts.json; batch.K and batch3.K are
the texts of one schedule.
"""
import json
import os
import sys

from safetensors.numpy import load_file, save_file

folder, here = sys.argv[1], os.path.dirname(os.path.abspath(__file__))
vectors = json.load(open(os.path.join(folder, "prompt_vectors.json")))
features = load_file(os.path.join(folder, "prompt_embeddings.safetensors"))


def embedded():
    """The prompts whose features are stored, in their order."""
    sys.argv = sys.argv[:1]
    sys.path.insert(0, folder)
    source = open(os.path.join(folder, "make_prompt_vectors.py")).read()
    scope = {}
    begin, end = source.index("LONG_TAGS ="), source.index("GROUPS = {")
    exec(source[begin:end], scope)
    begin = source.index("EMBEDDED = [")
    exec(source[begin:source.index("]\n", begin) + 1], scope)
    return scope["EMBEDDED"]


WHOLE = ["attention", "chunks", "token_count", "schedule", "and"]
rows = []
for row in vectors["prompts"]:
    a1111 = {key: row["a1111"][key] for key in WHOLE if key in row["a1111"]}
    # As text, which every reader of JSON takes to the last bit.
    a1111["attention"] = [[text, repr(float(weight))] for text, weight in a1111["attention"]]
    row["comfy"]["segments"] = [[text, repr(float(weight))] for text, weight in row["comfy"]["segments"]]
    rows.append({"text": row["text"], "group": row["group"], "a1111": a1111, "comfy": row["comfy"]})
texts = embedded()
with open(os.path.join(here, "prompts.json"), "w") as file:
    head = {"versions": vectors["about"]["versions"], "steps": vectors["about"]["steps"]}
    head["embedded"] = {str(i): texts[i] for i in (3, 4, 5, 8, 11, 12)}
    file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "prompts": [\n')
    file.write(",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows) + "\n]}\n")
WHAT = ["a1111.sd1.original", "a1111.xl_l.original", "a1111.xl_g.original", "a1111.xl_pooled",
        "comfy.sd1", "comfy.xl_l", "comfy.xl_g", "comfy.xl_pooled"]
keys = [f"{i}.{what}" for i in (4, 8, 12) for what in WHAT]
keys += ["3.a1111.sd2.original", "5.a1111.sd2.original"]
keys += ["4.a1111.sd1.no_norm", "8.a1111.sd1.no_norm", "3.a1111.sd1.ignore"]
keys += sorted(key for key in features if key.startswith(("batch.", "batch3.")))
save_file({key: features[key] for key in keys}, os.path.join(here, "prompts.safetensors"))
