"""Specification section 3 in f64: what a module's roles make of its weight, at any multiplier.

Written apart from the producers; `make_zoo.py` checks that both agree at multiplier 1. Where the specification had to
choose (multiplier other than 1 of the kinds that are not linear in it), this file is the reference.
"""

import torch


def num(value) -> float:
    return float(value.reshape(-1)[0]) if torch.is_tensor(value) else float(value)


def flat2(t: torch.Tensor) -> torch.Tensor:
    return t.reshape(t.shape[0], -1)


def file_scale(roles: dict, rank: int, meta: dict | None) -> float:
    meta = meta or {}
    if "scale" in roles:
        return num(roles["scale"])
    if "alpha" in roles:
        alpha = num(roles["alpha"])
        return 1.0 if alpha == 0 else alpha / rank
    if "alpha" in meta:
        return meta["alpha"] / (rank**0.5 if meta.get("rslora") else rank)
    return 1.0


def lora(roles, shape, meta):
    down, up = roles["down"], roles["up"]
    scale = file_scale(roles, down.shape[0], meta)
    if "mid" in roles:
        product = torch.einsum("op,pq...,qi->oi...", flat2(up), roles["mid"], flat2(down))
    elif up.ndim == 4 and up.shape[2] * up.shape[3] > 1:
        product = torch.einsum("orhw,ri->oihw", up, flat2(down))
    else:
        product = flat2(up) @ flat2(down)
    if "bias_values" in roles:
        rows, columns = roles["bias_indices"].long()
        product = flat2(product).index_put((rows, columns), roles["bias_values"], accumulate=True)
    return scale * product.reshape(shape)


def loha(roles, shape, meta):
    scale = file_scale(roles, roles["hada_w1_b"].shape[0], meta)
    halves = []
    for n in "12":
        a, b = roles[f"hada_w{n}_a"], roles[f"hada_w{n}_b"]
        if f"hada_t{n}" in roles:
            halves.append(torch.einsum("ij...,io,jc->oc...", roles[f"hada_t{n}"], a, b))
        else:
            halves.append(a @ flat2(b))
    return scale * (halves[0].reshape(shape) * halves[1].reshape(shape))


def lokr(roles, shape, meta):
    full1, full2 = "lokr_w1" in roles, "lokr_w2" in roles
    w1 = roles["lokr_w1"] if full1 else roles["lokr_w1_a"] @ roles["lokr_w1_b"]
    if full2:
        w2 = flat2(roles["lokr_w2"])
        kernel = roles["lokr_w2"].shape[2:]
    elif "lokr_t2" in roles:
        w2 = torch.einsum("ij...,ip,jc->pc...", roles["lokr_t2"], roles["lokr_w2_a"], roles["lokr_w2_b"])
        kernel, w2 = w2.shape[2:], flat2(w2)
    else:
        w2 = roles["lokr_w2_a"] @ flat2(roles["lokr_w2_b"])
        kernel = roles["lokr_w2_b"].shape[2:]
    if full1 and full2:
        scale = 1.0
    else:
        scale = file_scale(roles, (roles["lokr_w1_b"] if full2 else roles["lokr_w2_b"]).shape[0], meta)
    if (meta or {}).get("tuner") == "LOKR":  # PEFT never leaves the scale out
        scale = meta["alpha"] / meta["r"]
    # The kernel stays the fastest axis of w2, so the plain product is already in the order of the weight.
    _ = kernel
    return scale * torch.kron(w1.contiguous(), w2.contiguous()).reshape(shape)


def glora(roles, weight, meta):
    a1, a2, b1, b2 = (roles[k] for k in ("a1", "a2", "b1", "b2"))
    inner = weight.shape[1]
    if a1.shape[0] == inner and (a1.shape[1] < inner or a1.shape[1] == inner):
        scale = file_scale(roles, a2.shape[0], meta)
        mixed = torch.einsum("oi...,ij->oj...", weight, flat2(a1) @ flat2(a2))
        if "bm" in roles:
            low = torch.einsum("op,pq...,qi->oi...", flat2(b1), roles["bm"], flat2(b2))
        else:
            low = (flat2(b1) @ flat2(b2)).reshape(weight.shape)
        return scale * (mixed + low)
    scale = file_scale(roles, a1.shape[0], meta)
    return scale * (b2 @ b1 + (flat2(weight) @ a2) @ a1).reshape(weight.shape)


def cayley(skew):
    eye = torch.eye(skew.shape[-1], dtype=skew.dtype)
    return torch.linalg.solve(eye - skew, eye + skew, left=False)  # (I+Q)(I-Q)^-1


def skewed(roles, out):
    skew = roles["oft_blocks"] - roles["oft_blocks"].transpose(-1, -2)
    limit = num(roles.get("alpha", 0.0)) * out
    norm = skew.norm()
    return skew * (limit / norm) if limit > 0 and norm > limit else skew


def oft(roles, weight, m):
    out = weight.shape[0]
    blocks = roles["oft_blocks"]
    size = blocks.shape[-1]
    eye = torch.eye(size, dtype=torch.float64)
    turn = eye + m * (cayley(skewed(roles, out)) - eye)
    if blocks.ndim == 3:
        rows = weight.reshape(blocks.shape[0], size, -1)
        turned = torch.einsum("knj,knr->kjr", turn, rows).reshape(weight.shape)
    else:
        turned = flat2(weight)
        rest = turned.shape[1]
        for i in range(blocks.shape[0]):
            reach = 2**i * (size // 2)
            y = turned.reshape(-1, 2, reach, rest).transpose(1, 2).reshape(blocks.shape[1], size, rest)
            y = torch.einsum("kaj,kjr->kar", turn[i], y)
            turned = y.reshape(-1, reach, 2, rest).transpose(1, 2).reshape(out, rest)
        turned = turned.reshape(weight.shape)
    if "rescale" in roles:
        rescale = roles["rescale"].reshape(out, *[1] * (weight.ndim - 1))
        turned = (1 + m * (rescale - 1)) * turned
    return turned


def oft_peft(roles, weight, m, meta):
    packed = roles["oft_R"]
    size = int(round((1 + (1 + 8 * packed.shape[1]) ** 0.5) / 2))
    upper = torch.zeros(packed.shape[0], size, size, dtype=torch.float64)
    i, j = torch.triu_indices(size, size, 1)
    upper[:, i, j] = packed
    q = upper - upper.transpose(1, 2)
    eye = torch.eye(size, dtype=torch.float64)
    wide = flat2(weight)
    count = wide.shape[1] // size
    if meta["use_cayley_neumann"]:
        power = q @ q
        turn = eye + 2 * q + 2 * power
        for _ in range(3, meta.get("terms", 5) - 1):
            power = power @ q
            turn = turn + 2 * power
        turn = turn + power @ q
        law = "kab,okb->oka"
    else:
        turn = cayley(q)
        law = "kba,okb->oka"
    turn = eye + m * (turn - eye)
    if turn.shape[0] == 1 and count > 1:
        turn = turn.expand(count, -1, -1)
    return torch.einsum(law, turn, wide.reshape(-1, count, size)).reshape(weight.shape)


def boft_peft(roles, weight, m):
    """One butterfly factor, as PEFT's forward has it: W' = s * (W Rᵀ), R = (I-S)(I+S)^-1, S = (X - Xᵀ)/2.

    Not in the specification; read off PEFT's code and equal to its forward.
    """
    blocks = roles["boft_R"][0]
    skew = 0.5 * (blocks - blocks.transpose(1, 2))
    turn = cayley(-skew)
    eye = torch.eye(blocks.shape[-1], dtype=torch.float64)
    turn = eye + m * (turn - eye)
    wide = flat2(weight).reshape(weight.shape[0], blocks.shape[0], -1)
    turned = torch.einsum("kab,okb->oka", turn, wide).reshape(weight.shape)
    size = roles["boft_s"].reshape(-1, *[1] * (weight.ndim - 1))
    return (1 + m * (size - 1)) * turned


def ia3(roles, weight, m):
    v = roles["weight"].reshape(-1)
    rest = [1] * (weight.ndim - 2)
    factor = v.reshape(1, -1, *rest) if num(roles["on_input"]) else v.reshape(-1, 1, *rest)
    return weight * (1 + m * factor)


def ia3_peft(roles, weight, m, meta):
    u = roles["ia3_l"].reshape(-1)
    rest = [1] * (weight.ndim - 2)
    factor = u.reshape(1, -1, *rest) if meta["feedforward"] else u.reshape(-1, 1, *rest)
    return weight * (1 + m * (factor - 1))


def dora(weight, changed, roles, m):
    if "magnitude" in roles:  # PEFT: always one number per output
        out_axis, g = True, roles["magnitude"].reshape(-1)
    else:
        g = roles["dora_scale"]
        out_axis = g.ndim == 1 or g.shape[0] == weight.shape[0] and g.numel() == weight.shape[0] and (g.shape[0] != 1)
        g = g.reshape(-1)
    if out_axis:
        norm = flat2(changed).norm(dim=1)
        view = (-1, *[1] * (weight.ndim - 1))
    else:
        norm = flat2(changed.transpose(0, 1)).norm(dim=1)
        view = (1, -1, *[1] * (weight.ndim - 2))
    return weight + m * (changed * (g / norm).reshape(view) - weight)


def kind_of(roles: dict) -> str:
    for role, kind in (
        ("down", "lora"), ("hada_w1_a", "loha"), ("lokr_w1", "lokr"), ("lokr_w1_a", "lokr"), ("a1", "glora"),
        ("oft_blocks", "oft"), ("oft_R", "oft_peft"), ("boft_R", "boft_peft"), ("on_input", "ia3"), ("ia3_l", "ia3_peft"),
        ("set_weight", "set"), ("diff", "full"), ("diff_b", "full"), ("w_norm", "norm"), ("b_norm", "norm"),
        ("embedding_A", "embedding"), ("dora_scale", "dora"),
    ):
        if role in roles:
            return kind
    raise ValueError(sorted(roles))


LINEAR = {"lora", "loha", "lokr", "full", "norm", "set", "embedding", "dora"}


def is_linear(roles: dict) -> bool:
    """Whether W' - W is proportional to the multiplier *by every producer's law* (so that one golden is enough)."""
    return kind_of(roles) in LINEAR and not {"dora_scale", "magnitude"} & set(roles)


def effect(roles: dict, weight, bias, m: float, meta: dict | None = None) -> dict:
    """{"weight": W', "bias": b'}; only what changes."""
    roles = {k: v.double() if torch.is_tensor(v) else v for k, v in roles.items()}
    kind, out = kind_of(roles), {}
    if kind in ("lora", "loha", "lokr"):
        delta = {"lora": lora, "loha": loha, "lokr": lokr}[kind](roles, weight.shape, meta)
        if "dora_scale" in roles or "magnitude" in roles:
            out["weight"] = dora(weight, weight + delta, roles, m)
        else:
            out["weight"] = weight + m * delta
    elif kind == "dora":
        out["weight"] = dora(weight, weight, roles, m)
    elif kind == "embedding":
        scale = file_scale(roles, roles["embedding_A"].shape[0], meta)
        out["weight"] = weight + m * scale * (roles["embedding_B"] @ roles["embedding_A"]).T
    elif kind == "glora":
        out["weight"] = weight + m * glora(roles, weight, meta)
    elif kind == "oft":
        out["weight"] = oft(roles, weight, m)
    elif kind == "oft_peft":
        out["weight"] = oft_peft(roles, weight, m, meta)
    elif kind == "boft_peft":
        out["weight"] = boft_peft(roles, weight, m)
    elif kind == "ia3":
        out["weight"] = ia3(roles, weight, m)
    elif kind == "ia3_peft":
        out["weight"] = ia3_peft(roles, weight, m, meta)
        if bias is not None and not meta["feedforward"]:  # PEFT scales the output, and merges it so
            out["bias"] = bias * (1 + m * (roles["ia3_l"].reshape(-1) - 1))
    elif kind == "set":
        out["weight"] = weight + m * (roles["set_weight"] - weight)
    elif kind == "norm":
        if "w_norm" in roles:
            out["weight"] = weight + m * roles["w_norm"]
        if "b_norm" in roles:
            out["bias"] = bias + m * roles["b_norm"]
    if "diff" in roles:
        out["weight"] = weight + m * roles["diff"]
    if "diff_b" in roles:
        out["bias"] = (0 if bias is None else bias) + m * roles["diff_b"]
    if "up_bias" in roles:
        scale = file_scale(roles, roles["down"].shape[0], meta)
        out["bias"] = (0 if bias is None else bias) + m * scale * roles["up_bias"]
    return out
