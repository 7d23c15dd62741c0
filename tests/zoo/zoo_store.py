"""The collector: writes adapter files, checks laws against forwards, keeps goldens and the list."""

import json
import shutil
from pathlib import Path

import peft
from importlib.metadata import version
from safetensors.torch import save_file

import zoo_laws as laws
from zoo_bases import *

VERSIONS = {
    "torch": torch.__version__.split("+")[0],
    "diffusers": diffusers.__version__,
    "transformers": transformers.__version__,
    "peft": peft.__version__,
    "lycoris-lora": version("lycoris-lora"),
    "safetensors": version("safetensors"),
}
TOLERANCE = 3e-6  # of the largest entry of the change: some producers work in f32 inside
PARTIAL = 0.7


def dense(tensors: dict) -> dict:
    return {key: value.detach().contiguous().clone() for key, value in tensors.items()}


def write(path: Path, tensors: dict, metadata: dict | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dense(tensors), str(path), metadata=metadata or {"format": "pt"})
    path.chmod(0o644)


def sketch(delta: torch.Tensor) -> list[float]:
    """Three numbers that tell one change from another: sum, sum weighted with cos(index), Euclidean norm."""
    x = delta.double().flatten()
    return [float(x.sum()), float(x @ torch.cos(torch.arange(len(x), dtype=torch.float64))), float(x.norm())]


class Zoo:
    def __init__(self):
        self.entries, self.goldens, self.bad, self.information = [], {}, [], {}
        self.roles = {}  # name -> {module id: (roles, meta)}, for the derived files
        self.worst = {}

    # ------------------------------------------------------------ goldens

    def learn(self, name, base, modules, forwards=None, partials=None, sketched=False, check=TOLERANCE) -> int:
        """Goldens of one file. `modules`: {module id: (roles, meta)}; `forwards`, `partials`: {module id: (W', b')}."""
        known, rows, count, worst = weights(base), {}, 0, 0.0
        for module, (roles, meta) in modules.items():
            weight = known.get(f"{module}.weight")
            bias = known.get(f"{module}.bias")
            values = {"weight": weight, "bias": bias}
            whole = laws.effect(roles, weight, bias, 1.0, meta)
            straight = laws.is_linear(roles)
            part = {} if straight else laws.effect(roles, weight, bias, PARTIAL, meta)
            for got, want, label in ((forwards, whole, "1"), (partials, part, "0.7")):
                if got is None or not want:
                    continue
                seen = dict(zip(("weight", "bias"), got[module]))
                for leaf, value in seen.items():
                    before = values[leaf]
                    if before is None and leaf not in want:
                        continue
                    target = want.get(leaf, before)
                    size = (target - (0 if before is None else before)).abs().max().clamp(min=1e-3)
                    error = float((value.double() - target).abs().max() / size)
                    worst = max(worst, error)
                    assert error <= check, f"{name} {module}.{leaf} at {label}: law and producer differ by {error:.2e}"
                    if label == "1" and leaf in want:
                        whole[leaf] = value.double()
            for leaf, value in whole.items():
                before = values[leaf] if values[leaf] is not None else torch.zeros_like(value)
                assert value.shape == before.shape, (name, module, value.shape, before.shape)
                assert value.isfinite().all()
                site, delta = f"{module}.{leaf}", value - before
                count += 1
                if sketched:
                    rows[site] = sketch(delta)
                else:
                    self.goldens[f"{name}/{site}"] = delta.float()
                    if not straight:
                        self.goldens[f"{name}/{site}@{PARTIAL}"] = (part[leaf] - before).float()
        if sketched:
            self.goldens[f"{name}/#sketch"] = torch.tensor([rows[s] for s in sorted(rows)], dtype=torch.float64)
        self.worst[name] = worst
        return count

    # ------------------------------------------------------------ files

    def add(self, name, base, kind, producer, tensors=None, modules=None, forwards=None, partials=None, goldens=None,
            metadata=None, file=None, sketched=False, unmatched=(), notes="", check=TOLERANCE, **more):
        """One good file. Without `goldens` the file has its own; with it, those of the file of that name."""
        file = file or f"good/{name}.safetensors"
        if tensors is not None:
            write(HERE / file, tensors, metadata)
        if goldens is None:
            sites = self.learn(name, base, modules, forwards, partials, sketched, check)
            self.roles[name] = modules
        else:
            whole = next(e for e in self.entries if e["name"] == goldens)
            sites, modules, sketched = whole["sites"], self.roles[goldens], whole["sketch"]
            self.roles[name] = modules
        straight = all(laws.is_linear(roles) for roles, _ in modules.values())
        self.entries.append({
            "name": name, "file": file, "base": base, "kind": kind, "producer": producer,
            "modules": len(modules), "sites": sites, "goldens": goldens or name,
            "multipliers": [1.0] if straight else [1.0, PARTIAL], "linear": straight, "sketch": sketched,
            "unmatched": sorted(unmatched), "notes": notes, **more,
        })
        return name

    def refuse(self, name, base, error, row, notes="", file=None, **more):
        """A file that must not be applied; `error`: what the message must contain, whatever its case."""
        self.bad.append({"name": name, "file": file or f"bad/{name}.safetensors", "base": base,
                         "error": error, "row": row, "notes": notes, **more})

    def clear(self):
        for folder in ("good", "bad"):
            shutil.rmtree(HERE / folder, ignore_errors=True)
            (HERE / folder).mkdir()

    def finish(self) -> None:
        hashed = bases_summary()
        write(HERE / "goldens.safetensors", self.goldens, {"format": "pt", **VERSIONS})
        names = [e["name"] for e in self.entries + self.bad]
        assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)
        head = {
            "about": "see README.md", "versions": VERSIONS, "bases": hashed, "information": self.information,
        }
        lists = {"files": self.entries, "bad": self.bad}
        text = json.dumps(head, indent=1)[:-2]
        for key, items in lists.items():
            text += f',\n "{key}": [\n  ' + ",\n  ".join(json.dumps(i) for i in items) + "\n ]"
        (HERE / "zoo.json").write_text(text + "\n}\n", encoding="utf-8")


# ---------------------------------------------------------------- random factors

FILL = {  # role -> size of a random entry, before the last factor is scaled
    "oft_blocks": 0.15, "oft_R": 0.15, "boft_R": 0.3, "weight": 0.3, "w_norm": 0.2, "b_norm": 0.1, "diff_b": 0.1, "up_bias": 0.1,
}
HANDLE = {"lora": ["up"], "loha": ["hada_w1_a"], "lokr": ["lokr_w1", "lokr_w1_a"], "glora": ["a1", "b1"],
          "full": ["diff"], "embedding": ["embedding_B"]}
STRENGTH = 0.4  # ‖ΔW‖ / ‖W‖


def fill(roles: dict, weight, bias, generator, dtype=torch.float32, meta=None, strength=STRENGTH) -> dict:
    """Random values for the given shapes (or `None`-valued scalars are kept), scaled to a sensible change, rounded."""
    out = {}
    for role, value in sorted(roles.items()):
        if role in ("alpha", "scale", "on_input") or not torch.is_tensor(value) or not value.is_floating_point():
            out[role] = value
            continue
        noise = torch.randn(value.shape, generator=generator)
        if role in ("rescale", "boft_s"):
            out[role] = 1 + 0.2 * noise
        elif role == "ia3_l":
            out[role] = 1 + 0.3 * noise
        elif role in ("dora_scale", "magnitude"):
            numbers = value.numel()
            rows = numbers == weight.shape[0] and (role == "magnitude" or value.shape[0] == numbers)
            norm = laws.flat2(weight if rows else weight.transpose(0, 1)).norm(dim=1)
            out[role] = norm.float().reshape(value.shape) * (1 + 0.2 * noise)
        elif role == "set_weight":
            out[role] = weight.float() + noise * 0.3 * weight.std().float()
        else:
            out[role] = noise * FILL.get(role, 1.0)
    out = rounded(out, dtype)
    kind = laws.kind_of(out)
    if kind in HANDLE and weight is not None:
        bare = {k: v for k, v in out.items() if k not in ("dora_scale", "magnitude", "diff_b", "up_bias")}
        if kind == "full" and "diff" not in bare:
            return out
        change = laws.effect(bare, weight, bias, 1.0, meta)["weight"] - weight
        factor = float(strength * weight.norm() / change.norm())
        for role in HANDLE[kind]:
            if role in out:
                out[role] = out[role] * factor
    return rounded(out, dtype)


def rounded(roles: dict, dtype) -> dict:
    """To what the file's type can hold, kept in f32 for the arithmetic."""
    return {
        k: v.to(dtype).float() if torch.is_tensor(v) and v.is_floating_point() and k not in ("alpha", "scale") else v
        for k, v in roles.items()
    }


def stored(tensors: dict, dtype) -> dict:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
