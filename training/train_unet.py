"""Trains the UNet and text encoder of the starter model on latents of a finished autoencoder.

    python train_unet.py --data work/data.npz --vae work/vae --out work/starter --minutes 75

Writes a whole diffusers folder (f16) to --out every few minutes; the training state lies beside it
in --out + ".state.pt" and is resumed from.
"""

import argparse
import copy
import json
import pathlib
import random
import shutil
import time
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel)
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WINDOW = 32
TEMPLATES = ["a {}", "{} icon", "a picture of a {}", "a 3d render of a {}", "{}, 3d emoji"]
# What people ask for first is shown more often.
COMMON = set("""apple,red apple,green apple,banana,grapes,strawberry,watermelon,lemon,cherries,peach,pizza,
hamburger,hot dog,taco,doughnut,cookie,birthday cake,ice cream,bread,cheese wedge,egg,mushroom,carrot,
broccoli,tomato,avocado,steaming bowl,sushi,cat,cat face,dog,dog face,fox,lion,tiger face,horse face,unicorn,
cow face,pig face,mouse face,hamster,rabbit face,bear,panda,koala,monkey face,chicken,penguin,bird,eagle,duck,
owl,frog,turtle,snake,dragon face,whale,dolphin,fish,tropical fish,shark,octopus,snail,butterfly,honeybee,
lady beetle,spider,elephant,giraffe,kangaroo,sunflower,rose,tulip,cactus,palm tree,evergreen tree,
deciduous tree,four leaf clover,rocket,airplane,helicopter,automobile,taxi,bus,fire engine,bicycle,
motorcycle,sailboat,ship,locomotive,tractor,house,castle,hospital,tent,volcano,mountain,snowman,
snowman without snow,sun,sun with face,crescent moon,full moon,star,glowing star,cloud,rainbow,umbrella,fire,
snowflake,high voltage,globe showing Europe-Africa,ringed planet,red heart,blue heart,green heart,
broken heart,robot,ghost,alien,skull,pile of poo,grinning face,smiling face with sunglasses,
loudly crying face,angry face,crown,guitar,violin,trumpet,drum,soccer ball,basketball,trophy,gift,balloon,
camera,television,laptop,mobile phone,light bulb,book,pencil,key,hammer,crystal ball,teddy bear,jack-o-lantern,
Christmas tree,game die,puzzle piece,artist palette,bell,hourglass done,watch,glasses,running shoe,
top hat,gem stone,money bag,magnet,telescope,microscope,candle,toilet,door,bed,chair""".replace("\n", "").split(","))


def train_tokenizer(captions, folder):
    """A CLIP-style byte-level BPE of 3,000 tokens, written as vocab.json and merges.txt."""
    texts = [c["label"] for c in captions] * 3 + [t for c in captions for t in c["tags"]]
    texts += [t.format("red apple") for t in TEMPLATES] * 20
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=3000 - 2, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    # CLIP's layout: bytes, bytes ending a word, merges, then the two specials.
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    words = alphabet + [a + "</w>" for a in alphabet] + ["".join(m) for m in merges]
    words = list(dict.fromkeys(words))[:2998] + ["<|startoftext|>", "<|endoftext|>"]
    known = set(words)
    merges = [m for m in merges if "".join(m) in known]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
               "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {**special, "model_max_length": WINDOW, "tokenizer_class": "CLIPTokenizer",
         "add_prefix_space": False, "do_lower_case": True}, indent=1))


def caption_of(caption, rare, rng):
    roll = rng.random()
    label, tags = caption["label"], caption["tags"]
    if roll < 0.1:
        return ""
    if roll < 0.55 or not tags:
        return label
    if roll < 0.75:
        return rng.choice(TEMPLATES).format(label)
    if roll < 0.88:
        return ", ".join([label] + rng.sample(tags, min(len(tags), rng.randint(1, 3))))
    own = [t for t in tags if t in rare] or [label]
    word = rng.choice(own)
    return word if rng.random() < 0.5 else "a " + word


@torch.no_grad()
def whiten(vae, images):
    """Folds zero mean and unit variance per latent channel into the 1x1 convolutions.

    The pictures do not change; the UNet gets latents that need no shift, with scaling factor 1.
    """
    z = torch.cat([vae.encode(x).latent_dist.mean for x in images.split(32)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight *= std[None, :, None, None]
    quant.weight[:4] /= std[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) / std
    quant.bias[4:] -= 2 * std.log()
    vae.register_to_config(scaling_factor=1.0, force_upcast=False, sample_size=images.shape[-1])


@torch.no_grad()
def encode(vae, images, copies):
    """Latents of `copies` versions of each picture: flipped, shifted by whole cells and pixels."""
    versions = []
    for k in range(copies):
        x = images.flip(-1) if k % 2 else images
        if k >= 2:
            pad = 6
            x = F.pad(x, (pad,) * 4, value=1.0)
            dy, dx = torch.randint(2 * pad + 1, (2,)).tolist()
            x = x[..., dy:dy + images.shape[2], dx:dx + images.shape[3]]
        versions.append(torch.cat([vae.encode(b).latent_dist.mean for b in x.split(32)]))
    return torch.stack(versions)  # [copies, N, 4, h, w]


def new_networks(device):
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=3000, hidden_size=192, intermediate_size=768, num_hidden_layers=3, num_attention_heads=3,
        max_position_embeddings=WINDOW, bos_token_id=2998, eos_token_id=2999, pad_token_id=2999,
        projection_dim=192))
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 128, 192), layers_per_block=2, norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4, 6), cross_attention_dim=192)
    return text.to(device), unet.to(device, memory_format=torch.channels_last)


def save(folder, vae, text, unet, tokenizer, scheduler):
    temporary = folder.with_name(folder.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    half = lambda m: copy.deepcopy(m).to(torch.float16)
    pipe = StableDiffusionPipeline(half(vae), half(text), tokenizer, half(unet), scheduler, None, None,
                                   requires_safety_checker=False)
    pipe.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--vae", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--copies", type=int, default=6)
    args = parser.parse_args()
    torch.manual_seed(0)
    rng = random.Random(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = pathlib.Path(args.out)
    data = np.load(args.data)
    captions = json.loads(str(data["captions"]))
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    vae = AutoencoderKL.from_pretrained(args.vae).eval()
    whiten(vae, images)
    latents = encode(vae, images, args.copies).to(device)
    print("latents", tuple(latents.shape), "std", latents.std().item(), flush=True)
    work = out.with_name(out.name + ".tokenizer")
    train_tokenizer(captions, work)
    tokenizer = CLIPTokenizer.from_pretrained(work)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                              prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False,
                              steps_offset=1)
    text, unet = new_networks(device)
    ema_text, ema_unet = copy.deepcopy(text), copy.deepcopy(unet)
    parameters = list(text.parameters()) + list(unet.parameters())
    averages = list(ema_text.parameters()) + list(ema_unet.parameters())
    print(sum(p.numel() for p in parameters) / 1e6, "M parameters", flush=True)
    optimiser = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-2)
    state_path = pathlib.Path(str(out) + ".state.pt")
    step, spent = 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        text.load_state_dict(state["text"]); unet.load_state_dict(state["unet"])
        ema_text.load_state_dict(state["ema_text"]); ema_unet.load_state_dict(state["ema_unet"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["spent"]
    counts = Counter(t for c in captions for t in c["tags"])
    rare = {t for t, n in counts.items() if n <= 3}
    weights = torch.tensor([4.0 if c["label"] in COMMON else 1.0 for c in captions])
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    start, saved, losses = time.time() - spent, time.time(), []
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        rate = args.rate * min(1, (step + 1) / 200) * (0.01 + 0.99 * (1 - done) ** 0.7)
        for group in optimiser.param_groups:
            group["lr"] = rate
        picked = torch.multinomial(weights, args.batch, replacement=True)
        x = latents[torch.randint(len(latents), (args.batch,)), picked]
        words = [caption_of(captions[i], rare, rng) for i in picked.tolist()]
        ids = tokenizer(words, padding="max_length", truncation=True, max_length=WINDOW, return_tensors="pt").input_ids
        t = torch.randint(1000, (args.batch,))
        noise = torch.randn_like(x)
        noisy = scheduler.add_noise(x, noise, t.to(device)).to(memory_format=torch.channels_last)
        target = scheduler.get_velocity(x, noise, t.to(device))
        with torch.autocast(device, torch.bfloat16):
            context = text(ids.to(device))[0]
            v = unet(noisy, t.to(device), context).sample
        weight = (snr[t].clamp(max=5) / (snr[t] + 1)).to(device)  # min-SNR-5 for v
        loss = ((v.float() - target).square().mean((1, 2, 3)) * weight).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        decay = min(0.9985, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - decay)
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"{step} {time.time() - start:.0f}s loss {np.mean(losses[-100:]):.4f} rate {rate:.2e}", flush=True)
        if time.time() - saved > 300:
            save(out, vae, ema_text, ema_unet, tokenizer, scheduler)
            torch.save({"text": text.state_dict(), "unet": unet.state_dict(), "ema_text": ema_text.state_dict(),
                        "ema_unet": ema_unet.state_dict(), "optimiser": optimiser.state_dict(),
                        "step": step, "spent": time.time() - start}, state_path)
            saved = time.time()
    save(out, vae, ema_text, ema_unet, tokenizer, scheduler)
    print("steps", step, flush=True)


if __name__ == "__main__":
    main()
