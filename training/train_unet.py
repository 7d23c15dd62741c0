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
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from export import write_model

WINDOW = 32
PRESETS = {
    "small": {"widths": (64, 128, 160), "layers": 1, "text": 192, "text_layers": 3},
    "large": {"widths": (192, 384, 512), "layers": 2, "text": 384, "text_layers": 6},
}
TEMPLATES = ["a {}", "{} icon", "a picture of a {}", "a 3d render of a {}", "{}, 3d emoji"]
# What people ask for first is shown more often.
COMMON = set("""red apple,green apple,banana,grapes,strawberry,watermelon,lemon,cherries,peach,pizza,
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
loudly crying face,angry face,crown,guitar,violin,trumpet,drum,soccer ball,basketball,trophy,wrapped gift,balloon,
camera,television,laptop,mobile phone,light bulb,closed book,pencil,key,hammer,crystal ball,teddy bear,jack-o-lantern,
Christmas tree,game die,puzzle piece,artist palette,bell,hourglass done,watch,glasses,running shoe,
top hat,gem stone,money bag,magnet,telescope,microscope,candle,toilet,door,bed,chair""".replace("\n", "").split(","))
# The captions of the bar (sheet.py), shown most often.
BAR = {"red apple", "cat face", "rocket", "octopus", "pizza", "red heart", "robot", "sunflower", "house",
       "automobile", "penguin", "mushroom", "crown", "guitar", "snowman", "grinning face"}
# Plain words for pictures whose label is another.
PLAIN = {
    "red apple": ["apple"], "red heart": ["heart"], "automobile": ["car", "red car"], "grinning face": ["smiley"],
    "snowman without snow": ["snow man"], "wrapped gift": ["gift", "present"], "closed book": ["book"],
    "soccer ball": ["football"], "deciduous tree": ["tree"], "evergreen tree": ["pine tree"],
    "high voltage": ["lightning"], "locomotive": ["steam train"], "jack-o-lantern": ["pumpkin"],
    "globe showing Europe-Africa": ["earth", "globe"], "ringed planet": ["planet", "saturn"],
    "airplane": ["plane"], "sailboat": ["boat"], "mobile phone": ["phone"], "television": ["tv"],
    "doughnut": ["donut"], "hamburger": ["burger"], "rabbit face": ["bunny"], "honeybee": ["bee"],
    "lady beetle": ["ladybug"], "gem stone": ["diamond"], "game die": ["dice"], "crescent moon": ["moon"],
    "steaming bowl": ["noodles"], "fire engine": ["fire truck"], "locked": ["padlock"], "light bulb": ["lamp"],
    "smiling face with sunglasses": ["cool face"], "loudly crying face": ["sad face"], "cheese wedge": ["cheese"],
    "birthday cake": ["cake"], "skull": ["human skull"], "bicycle": ["bike"], "running shoe": ["shoe"],
}


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
    name = rng.choice(PLAIN[label]) if label in PLAIN and rng.random() < 0.5 else label
    if roll < 0.1:
        return ""
    if roll < 0.6 or not tags:
        return name
    if roll < 0.8:
        return rng.choice(TEMPLATES).format(name)
    if roll < 0.9:
        return ", ".join([name] + rng.sample(tags, min(len(tags), rng.randint(1, 3))))
    own = [t for t in tags if t in rare] or [name]
    word = rng.choice(own)
    return word if rng.random() < 0.5 else "a " + word


@torch.no_grad()
def whiten(vae, latents, noise=0.05):
    """Folds a whitening of the latents [copies, N, 4, h, w] into the autoencoder's two 1x1 convolutions.

    The pictures do not change; the UNet gets the returned latents of zero mean and unit covariance, so
    that the scaling factor is 1 and hue weighs as much as brightness.
    """
    flat = latents.movedim(2, 0).reshape(4, -1)
    mean = flat.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    forward = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    back = vectors @ torch.diag(values.sqrt()) @ vectors.T
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] = torch.einsum("oi,ihwk->ohwk", forward, quant.weight[:4])
    quant.bias[:4] = forward @ (quant.bias[:4] - mean)
    quant.weight[4:] = 0
    quant.bias[4:] = 2 * (noise * forward.norm(dim=1)).log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight.copy_((post.weight[:, :, 0, 0] @ back)[:, :, None, None])
    vae.register_to_config(scaling_factor=1.0, force_upcast=False)
    return torch.einsum("oi,knihw->knohw", forward, latents - mean[:, None, None])


@torch.no_grad()
def encode(vae, images, copies):
    """Latents of `copies` versions of each picture: as it is, flipped, then also shifted."""
    versions = []
    for k in range(copies):
        x = images.flip(-1) if k % 2 else images
        if k >= 2:
            pad = 4
            x = F.pad(x, (pad,) * 4, value=1.0)
            dy, dx = torch.randint(2 * pad + 1, (2,)).tolist()
            x = x[..., dy:dy + images.shape[2], dx:dx + images.shape[3]]
        versions.append(torch.cat([vae.encode(b).latent_dist.mean.float() for b in x.split(32)]))
    return torch.stack(versions)  # [copies, N, 4, h, w]


def new_networks(preset, side, device):
    size = PRESETS[preset]
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=3000, hidden_size=size["text"], intermediate_size=4 * size["text"],
        num_hidden_layers=size["text_layers"], num_attention_heads=size["text"] // 64,
        max_position_embeddings=WINDOW, bos_token_id=2998, eos_token_id=2999, pad_token_id=2999,
        projection_dim=size["text"]))
    unet = UNet2DConditionModel(
        sample_size=side, block_out_channels=size["widths"], layers_per_block=size["layers"], norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=[w // 32 for w in size["widths"]],  # heads, in spite of its name
        cross_attention_dim=size["text"])
    if device == "cpu":
        # Half the time of torch's fused attention, whose backward pass is slow for such short sequences.
        unet.set_attn_processor(AttnProcessor())
        text.set_attn_implementation("eager")
    return text.to(device), unet.to(device)


def share(text, unet):
    """Networks of their own gradients with the same weights, for a second thread."""
    networks = copy.deepcopy(text), copy.deepcopy(unet)
    parameters = [p for n in networks for p in n.parameters()]
    for own, p in zip(parameters, [p for n in (text, unet) for p in n.parameters()], strict=True):
        own.data = p.data
    return networks, parameters


def gradient(replica, ids, noisy, t, target, weight):
    """Adds the gradient of one part of the batch and returns its loss."""
    (text, unet), _ = replica
    with torch.autocast(noisy.device.type, torch.bfloat16):
        v = unet(noisy, t, text(ids)[0]).sample
    loss = ((v.float() - target).square().mean((1, 2, 3)) * weight).sum()
    loss.backward()
    return loss.item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--vae", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1, help="threads that take a part of each batch each")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--copies", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    rng = random.Random(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = pathlib.Path(args.out)
    data = np.load(args.data)
    captions = json.loads(str(data["captions"]))
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    cache, own_vae = pathlib.Path(f"{out}.latents.pt"), pathlib.Path(f"{out}.vae")
    if not cache.exists():
        white = own_vae.exists()
        vae = AutoencoderKL.from_pretrained(own_vae if white else args.vae).eval()
        vae = vae.to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            latents = encode(vae, images.to(device), args.copies)
        if not white:
            latents = whiten(vae, latents)
            vae.register_to_config(sample_size=images.shape[-1])
            vae.save_pretrained(own_vae)
        torch.save(latents.cpu(), cache)
    vae, latents = AutoencoderKL.from_pretrained(own_vae), torch.load(cache).to(device)
    print("latents", tuple(latents.shape), "std", latents.std((0, 1, 3, 4)).tolist(), flush=True)
    work = out.with_name(out.name + ".tokenizer")
    train_tokenizer(captions, work)
    tokenizer = CLIPTokenizer.from_pretrained(work)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                              prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False,
                              steps_offset=1)
    text, unet = new_networks(args.preset, latents.shape[-1], device)
    ema_text, ema_unet = copy.deepcopy(text), copy.deepcopy(unet)
    parameters = list(text.parameters()) + list(unet.parameters())
    averages = list(ema_text.parameters()) + list(ema_unet.parameters())
    print(sum(p.numel() for p in parameters) / 1e6, "M parameters", flush=True)
    optimiser = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    state_path = pathlib.Path(str(out) + ".state.pt")
    parts = {"text": text, "unet": unet, "ema_text": ema_text, "ema_unet": ema_unet, "optimiser": optimiser}
    step, spent = 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        optimiser.param_groups[0].update(fused=True, foreach=None)
        step, spent = state["step"], state["spent"]
    counts = Counter(t for c in captions for t in c["tags"])
    rare = {t for t, n in counts.items() if n <= 3}
    weights = torch.tensor([8.0 if c["label"] in BAR else 3.5 if c["label"] in COMMON | PLAIN.keys() else 0.15
                            for c in captions])
    replicas = [((text, unet), parameters)] + [share(text, unet) for _ in range(args.workers - 1)]
    pool = ThreadPoolExecutor(args.workers)
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    start, saved, losses = time.time() - spent, time.time(), []
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        rate = args.rate * min(1, (step + 1) / 200) * (0.01 + 0.99 * (1 - done) ** 0.7)
        for group in optimiser.param_groups:
            group["lr"] = rate
        picked = torch.multinomial(weights, args.batch, replacement=True)
        # Mostly the picture as it is; its other versions now and then.
        version = torch.randint(len(latents), (args.batch,)) * (torch.rand(args.batch) < 0.2)
        x = latents[version, picked]
        words = [caption_of(captions[i], rare, rng) for i in picked.tolist()]
        ids = tokenizer(words, padding="max_length", truncation=True, max_length=WINDOW, return_tensors="pt").input_ids
        t = ((torch.arange(args.batch) + torch.rand(args.batch)) * 1000 / args.batch).long()  # evenly spread
        noise = torch.randn_like(x)
        noisy = scheduler.add_noise(x, noise, t.to(device))
        target = scheduler.get_velocity(x, noise, t.to(device))
        # Whole weight while the caption decides (much noise), min-SNR-5 for v where only detail is left.
        weight = (5 / (snr[t] + 1)).clamp(max=1).to(device) / args.batch
        optimiser.zero_grad(set_to_none=True)
        parts_of = (u.chunk(args.workers) for u in (ids.to(device), noisy, t.to(device), target, weight))
        loss = sum(pool.map(gradient, replicas, *parts_of))
        for _, other in replicas[1:]:
            torch._foreach_add_([p.grad for p in parameters], [p.grad for p in other])
            for p in other:
                p.grad = None
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        if step % 4 == 0:
            decay = min(0.994, (10 + step) / (50 + step))
            with torch.no_grad():
                torch._foreach_lerp_(averages, parameters, 1 - decay)
        losses.append(loss)
        if step % 50 == 0:
            print(f"{step} {time.time() - start:.0f}s loss {np.mean(losses[-50:]):.4f} rate {rate:.2e}", flush=True)
        if time.time() - saved > 300:
            write_model(out, vae, ema_text, ema_unet, tokenizer, work, scheduler)
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "step": step, "spent": time.time() - start}, state_path)
            saved = time.time()
    write_model(out, vae, ema_text, ema_unet, tokenizer, work, scheduler)
    print("steps", step, flush=True)


if __name__ == "__main__":
    main()
