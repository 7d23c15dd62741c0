"""Trains the autoencoder of the starter model.

    python train_vae.py --data work/data.npz --out work/vae --minutes 30

Resumes from --out when it exists. `--decoder-only` refines the decoder and leaves latents as they are.
"""

import argparse
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from export import replace, strip_paths

WIDTHS = (32, 64, 96, 128)


def new_vae(widths=WIDTHS):
    vae = AutoencoderKL(
        block_out_channels=widths, layers_per_block=1, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )
    start_as_pooling(vae)
    return vae


@torch.no_grad()
def start_as_pooling(vae, k=8.0):
    """Starts the network as 8x8 average pooling of red, green, blue and nearest upsampling back.

    So colours are right from step 0 and training only adds detail. Each colour travels as a pair
    (v, -v) in channels 0 to 5, since silu(v) - silu(-v) = v; constants k and -k in channels 6 and 7
    make the last norm divide by nearly the same number for every picture. Residual branches start at 0.
    """
    point = torch.zeros(3, 3)
    point[1, 1] = 1
    pool = torch.zeros(3, 3)
    pool[:2, :2] = 0.25

    def row(conv, channel, sources):
        conv.weight[channel] = 0
        conv.bias[channel] = 0
        for source, kernel in sources.items():
            conv.weight[channel, source] = kernel

    for half, blocks, kernel in ((vae.encoder, vae.encoder.down_blocks, pool),
                                 (vae.decoder, vae.decoder.up_blocks, point)):
        for channel in range(6):
            row(half.conv_in, channel, {channel // 2: point if channel % 2 == 0 else -point})
        row(half.conv_in, 6, {})
        row(half.conv_in, 7, {})
        for part in [*blocks, half.mid_block]:
            for resnet in part.resnets:
                resnet.conv2.weight.zero_()
                resnet.conv2.bias.zero_()
                for channel in range(8 if resnet.conv_shortcut is not None else 0):
                    row(resnet.conv_shortcut, channel, {channel: torch.ones(1, 1)} if channel < 6 else {})
            for name in ("downsamplers", "upsamplers"):
                for sampler in getattr(part, name, None) or []:
                    for channel in range(6):
                        row(sampler.conv, channel, {channel: kernel})
        half.mid_block.attentions[0].to_out[0].weight.zero_()
        half.mid_block.attentions[0].to_out[0].bias.zero_()
        last = half.mid_block.resnets[-1] if half is vae.encoder else half.up_blocks[-1].resnets[-1]
        last.conv2.bias[6], last.conv2.bias[7] = k, -k
        norm = half.conv_norm_out
        size = norm.num_channels // norm.num_groups
        norm.weight[:6] = k * (2 / size) ** 0.5
        for colour in range(3):
            row(half.conv_out, colour, {2 * colour: point, 2 * colour + 1: -point})
    for conv, count in ((vae.quant_conv, 8), (vae.post_quant_conv, 4)):
        conv.weight.copy_(torch.eye(count)[:, :, None, None])
        conv.bias.zero_()


def gradient(x):
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def loss_of(x, y, latent):
    l1 = (x - y).abs().mean()
    edges = sum((a - b).abs().mean() for a, b in zip(gradient(x), gradient(y)))
    # Pooled L1 weighs flat colour, which a plain L1 learns last.
    pooled = sum((F.avg_pool2d(x, k) - F.avg_pool2d(y, k)).abs().mean() for k in (4, 16))
    return l1 + edges + pooled + 1e-4 * latent.square().mean(), l1


def batches(images, size, count, generator):
    n, side = len(images), images.shape[2]
    while True:
        crops = []
        for i in torch.randint(n, (count,), generator=generator).tolist():
            y, x = torch.randint(side - size + 1, (2,), generator=generator).tolist()
            crop = images[i, :, y:y + size, x:x + size]
            crops.append(crop.flip(-1) if torch.rand((), generator=generator) < 0.5 else crop)
        yield torch.stack(crops).float() / 127.5 - 1


# A fixed small noise on the latents: a learned variance drowned the colours for the first thousand steps.
NOISE = 0.05


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--widths", type=int, nargs=4, default=WIDTHS)
    parser.add_argument("--decoder-only", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = torch.from_numpy(np.load(args.data)["images"]).permute(0, 3, 1, 2).contiguous()
    out = pathlib.Path(args.out)
    vae = AutoencoderKL.from_pretrained(out) if out.exists() else new_vae(tuple(args.widths))
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
        rate = args.rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * (1 - done))
        for group in optimiser.param_groups:
            group["lr"] = rate
        x = x.to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            with torch.set_grad_enabled(not args.decoder_only):
                latent = vae.encode(x).latent_dist.mean
                z = latent + NOISE * torch.randn_like(latent)
            y = vae.decode(z).sample
        loss, l1 = loss_of(x, y.float(), latent.float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        if step % 20 == 0:
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
    strip_paths(temporary)
    replace(temporary, out)


if __name__ == "__main__":
    main()
