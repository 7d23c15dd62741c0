"""Trains the autoencoder of the starter model.

    python train_vae.py --data work/data.npz --out work/vae --minutes 30

Resumes from --out when it exists. `--decoder-only` refines the decoder and leaves latents as they are.
"""

import argparse
import pathlib
import shutil
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

WIDTHS = (32, 64, 96, 128)


def new_vae():
    return AutoencoderKL(
        block_out_channels=WIDTHS, layers_per_block=1, norm_num_groups=16, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )


def gradient(x):
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def loss_of(x, y, latent):
    l1 = (x - y).abs().mean()
    edges = sum((a - b).abs().mean() for a, b in zip(gradient(x), gradient(y)))
    # Pooled L1 weighs flat colour, which a plain L1 learns last.
    pooled = sum((F.avg_pool2d(x, k) - F.avg_pool2d(y, k)).abs().mean() for k in (4, 16))
    kl = latent.kl().mean() / latent.mean[0].numel()
    return l1 + edges + pooled + 1e-4 * kl, l1


def batches(images, size, count, generator):
    n, side = len(images), images.shape[2]
    while True:
        crops = []
        for i in torch.randint(n, (count,), generator=generator).tolist():
            y, x = torch.randint(side - size + 1, (2,), generator=generator).tolist()
            crop = images[i, :, y:y + size, x:x + size]
            crops.append(crop.flip(-1) if torch.rand((), generator=generator) < 0.5 else crop)
        yield torch.stack(crops).float() / 127.5 - 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decoder-only", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = torch.from_numpy(np.load(args.data)["images"]).permute(0, 3, 1, 2).contiguous()
    out = pathlib.Path(args.out)
    vae = AutoencoderKL.from_pretrained(out) if out.exists() else new_vae()
    vae = vae.to(device, memory_format=torch.channels_last)
    if args.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.98), weight_decay=1e-3)
    start, saved, step = time.time(), time.time(), 0
    for x in batches(images, args.crop, args.batch, torch.Generator().manual_seed(1)):
        done = (time.time() - start) / (60 * args.minutes)
        if done >= 1:
            break
        rate = args.rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * (1 - done) ** 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate
        x = x.to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            with torch.set_grad_enabled(not args.decoder_only):
                latent = vae.encode(x).latent_dist
                z = latent.sample()
            y = vae.decode(z).sample
        loss, l1 = loss_of(x, y.float(), latent)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        if step % 50 == 0:
            print(f"{step} {time.time() - start:.0f}s loss {loss.item():.4f} l1 {l1.item():.4f}", flush=True)
        if time.time() - saved > 180:
            save(vae, out)
            saved = time.time()
    save(vae, out)
    print("steps", step, flush=True)


def save(vae, out):
    """Writes beside and renames, so that a reader never sees half a model."""
    temporary = out.with_name(out.name + ".new")
    vae.save_pretrained(temporary)
    if out.exists():
        old = out.with_name(out.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    temporary.rename(out)


if __name__ == "__main__":
    main()
