"""Trains a LoRA for the starter model and writes it as a kohya file with its card.

    python train_lora.py --data work/lora.npz --model models/starter --set flat --kind style \
        --trigger "flat style" --title "Flat" --description "Flat colours." --out loras/flat.safetensors

A style takes every picture of its set with the starter's own captions and the trigger behind them. A
subject takes its few pictures with the trigger as caption for one half of each batch; the other half are
the starter's own pictures, so that everything else stays as it is. Adapters (PEFT) sit on attention,
feed-forward and residual convolutions of the UNet, and with --text also on the text encoder.
"""

import argparse
import hashlib
import json
import pathlib
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from train_unet import BAR, COMMON, PLAIN, TEMPLATES, WINDOW, caption_of, gradient, share

UNET_LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
UNET_CONV = ["conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
CARD = """file = "{file}"
sha256 = "{sha256}"
title = {title}
description = {description}
trigger_words = {trigger}
weight = {weight}
family = "sd1"
licence = "MIT"
source = {source}
created = "{created}"
"""


def style_caption(caption, trigger, rare, rng):
    """The trigger mostly stands behind the words; now and then before them, alone, or not at all."""
    words = caption_of(caption, rare, rng)
    roll = rng.random()
    if not words:
        return trigger if roll < 0.3 else ""
    if roll < 0.75:
        return f"{words}, {trigger}"
    return f"{words} in {trigger}" if roll < 0.85 else f"{trigger}, {words}" if roll < 0.93 else words


def subject_caption(trigger, tags, rng):
    """Any other words may stand behind the trigger: a longer prompt must not drown the subject."""
    roll = rng.random()
    if roll < 0.05:
        return ""
    words = trigger if roll < 0.35 else rng.choice(TEMPLATES).format(trigger)
    return f"{words}, {' '.join(rng.sample(tags, rng.randint(1, 2)))}" if rng.random() < 0.4 else words


@torch.no_grad()
def latents_of(data, name, vae_folder, cache):
    """Latents of one set, kept in a file."""
    path = pathlib.Path(f"{cache}.{name}.pt")
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32).eval()
        vae = vae.to(memory_format=torch.channels_last)
        images = torch.from_numpy(data[name]).permute(0, 3, 1, 2)
        parts = [vae.encode(part.float() / 127.5 - 1).latent_dist.mean for part in images.split(32)]
        torch.save(torch.cat(parts) * vae.config.scaling_factor, path)
    return torch.load(path)


def adapters(network, linear, conv, rank, conv_rank):
    """Freezes the network and adds trainable adapters of strength 1 (alpha = rank)."""
    network.requires_grad_(False)
    own = dict.fromkeys(conv, conv_rank)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=linear + conv, rank_pattern=own, alpha_pattern=own)
    inject_adapter_in_model(config, network)
    return network


def kohya(prefix, network):
    """The adapters under kohya's names: the module's path with underscores."""
    tensors = {}
    for name, module in network.named_modules():
        if not hasattr(module, "lora_A") or "default" not in module.lora_A:
            continue
        key = prefix + name.replace(".", "_")
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        tensors[f"{key}.lora_down.weight"] = down.detach().half().contiguous()
        tensors[f"{key}.lora_up.weight"] = up.detach().half().contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(module.scaling["default"] * len(down), dtype=torch.float16)
    return tensors


def write(args, unet, text, pictures, steps):
    tensors = kohya("lora_unet_", unet)
    if args.text:
        # Newer transformers leave out the outer name.
        outer = any(n.startswith("text_model.") for n, _ in text.named_modules())
        tensors |= kohya("lora_te_" if outer else "lora_te_text_model_", text)
    out = pathlib.Path(args.out)
    metadata = {
        "format": "pt", "ss_network_module": "networks.lora", "ss_network_dim": str(args.rank),
        "ss_network_alpha": str(float(args.rank)), "ss_output_name": out.stem,
        "ss_network_args": json.dumps({"conv_dim": str(args.conv_rank), "conv_alpha": str(float(args.conv_rank))}),
        "ss_base_model_version": "sd_v1", "ss_sd_model_name": "colora starter", "ss_v_parameterization": "True",
        "ss_resolution": "(128, 128)", "ss_learning_rate": str(args.rate), "ss_steps": str(steps),
        "ss_num_train_images": str(pictures), "ss_batch_size_per_device": str(args.batch), "ss_seed": str(args.seed),
        "ss_tag_frequency": json.dumps({out.stem: {trigger: pictures for trigger in args.trigger}}),
        "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers", "modelspec.title": args.title,
        "modelspec.description": args.description, "modelspec.trigger_phrase": ", ".join(args.trigger),
        "modelspec.license": "MIT", "modelspec.author": "colora", "modelspec.date": args.created,
        "modelspec.resolution": "128x128", "modelspec.prediction_type": "v",
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, metadata)
    out.chmod(0o644)
    text_of = {k: json.dumps(v, ensure_ascii=False) for k, v in {
        "title": args.title, "description": args.description, "trigger": args.trigger,
        "source": f"trained by training/train_lora.py on {args.source}"}.items()}
    out.with_suffix(".toml").write_text(CARD.format(
        file=out.name, sha256=hashlib.sha256(out.read_bytes()).hexdigest(), weight=args.weight,
        created=args.created, **text_of))
    print(out.name, len(tensors) // 3, "modules,", out.stat().st_size, "bytes", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--set", required=True)
    parser.add_argument("--kind", choices=["style", "subject"], required=True)
    parser.add_argument("--trigger", required=True, nargs="+", help="the first one is trained most")
    parser.add_argument("--out", required=True)
    parser.add_argument("--title", required=True)
    parser.add_argument("--description", required=True)
    parser.add_argument("--source", default="pictures of Microsoft's Fluent Emoji (MIT)")
    parser.add_argument("--created", default="2026-11-24")
    parser.add_argument("--weight", type=float, default=1.0, help="recommended strength")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--conv-rank", type=int, default=8)
    parser.add_argument("--text", action="store_true", help="also train the text encoder")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=60, help="end early, with the rate falling in time")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1, help="threads that take a part of each batch each")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    data = np.load(args.data)
    captions = json.loads(str(data["captions"]))
    own = latents_of(data, args.set, args.model / "vae", args.data)
    prior = latents_of(data, "base", args.model / "vae", args.data) if args.kind == "subject" else None
    tokenizer = CLIPTokenizer.from_pretrained(args.model / "tokenizer")
    scheduler = DDIMScheduler.from_pretrained(args.model / "scheduler")
    unet = UNet2DConditionModel.from_pretrained(args.model / "unet", torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(args.model / "text_encoder", torch_dtype=torch.float32)
    unet.set_attn_processor(AttnProcessor())  # fast backward pass, see train_unet.py
    text.set_attn_implementation("eager")
    adapters(unet, UNET_LINEAR, UNET_CONV, args.rank, args.conv_rank)
    if args.text:
        adapters(text, TEXT, [], args.rank, args.rank)
    else:
        text.requires_grad_(False)
    replicas = [((text, unet), [*text.parameters(), *unet.parameters()])]
    replicas += [share(text, unet) for _ in range(args.workers - 1)]
    trained = [[p for p in parameters if p.requires_grad] for _, parameters in replicas]
    parameters = trained[0]
    averages = [p.detach().clone() for p in parameters]
    print(sum(p.numel() for p in parameters) / 1e6, "M parameters", flush=True)
    optimiser = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    counts = Counter(t for c in captions for t in c["tags"])
    rare, tags = {t for t, n in counts.items() if n <= 3}, sorted(counts)
    # What the starter model knows best shows a style best.
    known = torch.tensor([3.0 if c["label"] in BAR else 2.0 if c["label"] in COMMON | PLAIN.keys() else 0.3
                          for c in captions])
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    pool = ThreadPoolExecutor(args.workers)
    start, losses, step, done = time.time(), [], 0, 0.0
    while done < 1:
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1, (step + 1) / 50) * (0.02 + 0.98 * (1 - done) ** 0.8)
        others = args.batch if args.kind == "style" else args.batch // 2
        picked = torch.multinomial(known, others, replacement=True)
        if args.kind == "style":
            x = own[picked]
            words = [style_caption(captions[i], args.trigger[0], rare, rng) for i in picked.tolist()]
        else:
            x = torch.cat([own[torch.randint(len(own), (args.batch - others,))], prior[picked]])
            words = [subject_caption(args.trigger[0] if rng.random() < 0.7 else rng.choice(args.trigger), tags, rng)
                     for _ in range(args.batch - others)]
            words += [caption_of(captions[i], rare, rng) for i in picked.tolist()]
        ids = tokenizer(words, padding="max_length", truncation=True, max_length=WINDOW, return_tensors="pt").input_ids
        t = (torch.arange(args.batch) + torch.rand(args.batch)) * 1000 / args.batch  # evenly spread
        t = t.long()[torch.randperm(args.batch)]
        noise = torch.randn_like(x)
        noisy, target = scheduler.add_noise(x, noise, t), scheduler.get_velocity(x, noise, t)
        weight = (5 / (snr[t] + 1)).clamp(max=1) / args.batch  # as train_unet.py
        optimiser.zero_grad(set_to_none=True)
        parts_of = (u.chunk(args.workers) for u in (ids, noisy, t, target, weight))
        losses.append(sum(pool.map(gradient, replicas, *parts_of)))
        for other in trained[1:]:
            torch._foreach_add_([p.grad for p in parameters], [p.grad for p in other])
            for p in other:
                p.grad = None
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - min(0.99, (1 + step) / (10 + step)))
        done = max(step / args.steps, (time.time() - start) / (60 * args.minutes))
        if step % 50 == 0:
            print(f"{step} {time.time() - start:.0f}s loss {np.mean(losses[-50:]):.4f}", flush=True)
    with torch.no_grad():
        for p, average in zip(parameters, averages, strict=True):
            p.copy_(average)
    write(args, unet, text, len(own), step)


if __name__ == "__main__":
    main()
