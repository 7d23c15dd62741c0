#!/usr/bin/env python3
"""Writes wildcards.json: what dynamicprompts 0.31.0 (PyPI; needs pyparsing, PyYAML) makes of templates."""
import json, os, random, sys, tempfile, warnings
from pathlib import Path

warnings.filterwarnings("ignore")
from dynamicprompts.generators import CombinatorialPromptGenerator, RandomPromptGenerator
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.wildcards import WildcardManager

FILES = {
    "colours.txt": "red\n# a comment\n\n  green  \nblue\nred\n",
    "colours-cold.txt": "ice blue\nteal\n",
    "animals/cats.txt": "siamese\nmaine coon\n",
    "animals/dogs.txt": "poodle\n{old|young} beagle\n",
    "animals/wild/big.txt": "lion\n__colours__ tiger\n",
    "weights.txt": "2::often\nrarely\n",
    "crlf.txt": "one\r\ntwo\r\n",
    "pantry.yaml": "clothes:\n  hats:\n    - cap\n    - top hat\n  shoes: boots\nmood:\n  - 3::calm\n  - wild\n  - text: odd\n    weight: 2\n",
    "list.json": "[\"x\", \"y\", \"z\"]",
    "deep/more.json": "{\"stars\": {\"near\": [\"sun\"], \"far\": [\"vega\", \"deneb\"]}}",
}
COMBINATORIAL = [
    "plain text", "{a|b|c}", "x {a|b} y {c|d}", "{a|{b|c}} d", "{2$$a|b|c}", "{1-2$$a|b|c}", "{2-$$a|b|c}", "{-2$$a|b|c}", "{0-1$$a|b}", "{2$$ and $$a|b|c}", "{2$$ | $$a|b|c}", "{2$$, $$a|b}", "{3$$a|b}", "{a|a|b}", "{2$$a|a|b}",
    "{2::a|b}", "{0.5::a|b}", "{a|}", "{|a}", "{}", "{a}", "{ a | b }", "a{b|c}d", "{a|b", "a}b", "a|b", "{a|b}}", "$5 and #6", "a # comment", "a // b", "a /* b */ c",
    "__colours__", "a __colours__ __colours-cold__", "__colours*__", "__animals/*__", "__animals/**__", "__*/cats__", "__cats__", "__big__", "__nothing__", "__crlf__", "__weights__", "__pantry__", "__clothes/hats__", "__clothes/*__", "__mood__", "__list__", "__deep/stars/far__", "__COLOURS__",
    "{2$$__colours__}", "{2$$__colours__|x}", "{__colours__|__cats__}", "{~a|b}", "{!a|b} {~c|d}", "{@a|b} {c|d}", "__~colours__ {a|b}", "__@colours__ {a|b|c|d}", "{@1-2$$a|b}",
    "${x={a|b}} ${x} and ${x}", "${x=!{a|b}} ${x} and ${x}", "${x=red}a ${x} ${x:blue}", "${x:blue} thing", "${x}", "${x=a}${x?=b}${x}", "${c=colours}__${c}__", "__${c:cats}__", "a ${x=__colours__} ${x}",
    "%{...(a)$${b|c}}", "%{before ... after$$x}", "(a:{1.1|1.2})", "[a|b]", "{[a|b]|c}", "<lora:x:{0.5|1}>", "{a,b|c}", "a_b__c", "____", "__a b__", "{1$$a|b}", "{1-1-1$$a|b}", "{2$$a}", "\\{a|b\\}", "{a\\|b|c}", "{a:b|c}", "line\n{a|b}", "{\n  a\n  |\n  b\n}",
]
RANDOM = ["{a|b|c|d|e}", "{2$$a|b|c|d}", "{1-3$$, $$a|b|c|d}", "{5::a|1::b}", "__colours__ __animals/*__", "{3::__cats__|{x|y|z}} {p|q}", "${x=!{a|b|c}} ${x} ${x}", "${x={a|b|c}} ${x} ${x}", "__mood__", "a {~b|c|d} {e|f}"]
SEEDS = [0, 1, 2, 3, 42, 12345, 4294967295]


def main(out):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        manager = WildcardManager(Path(folder))
        result = {"made_by": "make_wildcards.py with dynamicprompts 0.31.0", "files": FILES, "collections": sorted(manager.get_collection_names()), "limit": 40, "combinatorial": [], "random": []}
        for t in COMBINATORIAL:
            random.seed(0)
            from dynamicprompts import constants
            try:
                constants.DEFAULT_RANDOM.seed(0)
            except AttributeError:
                pass
            try:
                result["combinatorial"].append({"template": t, "prompts": CombinatorialPromptGenerator(manager).generate(t, max_prompts=40)})
            except Exception as e:
                result["combinatorial"].append({"template": t, "error": type(e).__name__})
        for t in RANDOM:
            for s in SEEDS:
                result["random"].append({"template": t, "seed": s, "prompts": RandomPromptGenerator(manager, seed=s).generate(t, num_images=4)})
            result["random"].append({"template": t, "seeds": [7, 8, 9], "prompts": RandomPromptGenerator(manager).generate(t, num_images=3, seeds=[7, 8, 9])})
        r = random.Random(42)
        result["python_random"] = {"seed": 42, "random": [r.random() for _ in range(4)], "randint_1_6": [random.Random(42).randint(1, 6) for _ in range(1)] + [x.randint(1, 6) for x in [random.Random(43)] for _ in range(5)], "note": "randint_1_6: first of seed 42, then five of seed 43"}
    rows = json.dumps(result, ensure_ascii=False, indent=None, separators=(",", ":"))
    Path(out, "wildcards.json").write_text(rows.replace('{"template"', '\n{"template"'))
    for x in result["combinatorial"]:
        print(x["template"].replace("\n", "\\n"), "->", x.get("error") or x["prompts"][:8], len(x.get("prompts", [])))
    print(result["collections"], [x for x in result["random"]][:6])


main(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__)))
