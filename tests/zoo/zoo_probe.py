"""What a module really computes: its weight and bias, read off its forward."""

import torch


def origin(module):
    """The module below PEFT's wrappers."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def probed(module, double=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight, bias) of the affine map that `module.forward` is, computed in `double`; bias zeros where there is none.

    Linear: the identity goes in. Convolution: one picture for each (channel, row, column) of the kernel, with a border
    so that exactly one output cell sees the whole kernel whatever the stride. Norm: two inputs whose normalised values
    are known. Embedding: all indices.
    """
    inner = origin(module)
    kind = type(inner).__name__
    if kind == "Embedding":
        return module(torch.arange(inner.num_embeddings)).double(), torch.zeros(0)
    if kind in ("GroupNorm", "LayerNorm"):
        return probed_norm(module, inner, double)
    if hasattr(inner, "kernel_size"):
        out, within, (kh, kw) = inner.out_channels, inner.in_channels, inner.kernel_size
        count = within * kh * kw
        size_h, size_w = kh + 2, kw + 2
        inputs = torch.zeros(count, within, size_h, size_w, dtype=double)
        patches = torch.eye(count, dtype=double).reshape(count, within, kh, kw)
        inputs[:, :, 1 : 1 + kh, 1 : 1 + kw] = patches
        inputs = torch.cat([inputs, torch.zeros(1, within, size_h, size_w, dtype=double)])
        y, x = ((1 + p) // s for p, s in zip(inner.padding, inner.stride))
        assert all((1 + p) % s == 0 for p, s in zip(inner.padding, inner.stride))
        outputs = module(inputs)[:, :, y, x]
        bias = outputs[-1]
        return (outputs[:-1] - bias).T.reshape(out, within, kh, kw), bias
    within = inner.in_features
    outputs = module(torch.cat([torch.eye(within, dtype=double), torch.zeros(1, within, dtype=double)]))
    bias = outputs[-1]
    return (outputs[:-1] - bias).T.contiguous(), bias


def probed_norm(module, inner, double):
    generator = torch.Generator("cpu").manual_seed(7)
    groups = type(inner).__name__ == "GroupNorm"
    channels = inner.num_channels if groups else inner.normalized_shape[0]
    shape = (2, channels, 3, 3) if groups else (18, channels)
    x = torch.randn(shape, generator=generator, dtype=double)
    bare = torch.nn.functional.group_norm(x, inner.num_groups, eps=inner.eps) if len(shape) == 4 else \
        torch.nn.functional.layer_norm(x, inner.normalized_shape, eps=inner.eps)
    y = module(x)
    if len(shape) == 4:
        bare, y = (t.permute(0, 2, 3, 1).reshape(-1, channels) for t in (bare, y))
    mean_x, mean_y = bare.mean(0), y.mean(0)
    weight = ((bare - mean_x) * (y - mean_y)).sum(0) / ((bare - mean_x) ** 2).sum(0)
    return weight, mean_y - weight * mean_x
