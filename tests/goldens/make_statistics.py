"""A picture by diffusers' SDXL pipeline whose VAE says mean and deviation of its latents: statistics.safetensors.

picture u8 [H,W,3] of the case `sdxl.euler`; unscaled and scaled f32 [1,4,h,w], latents before and after the image to
image pipeline scales them; mean and deviation f32 [4].
"""

from types import SimpleNamespace

from common import *
from make_pictures import CASES, image_to_image, load, run

MEAN = [0.31, -0.52, 0.14, -0.27]
DEVIATION = [1.9, 0.7, 1.3, 2.2]


def main() -> None:
    pipe = load("sdxl", torch.float32)
    base = dict(pipe.scheduler.config)
    wanted = next(c for c in CASES if c["name"] == "sdxl.euler")
    plain = run(pipe, base, wanted, {})["picture"]
    pipe.vae.register_to_config(latents_mean=MEAN, latents_std=DEVIATION)
    picture = run(pipe, base, wanted, {})["picture"]
    change = abs(picture.astype(int) - plain.astype(int)).mean()
    note(f"mean and deviation change a pixel by {change:.1f} on average")
    assert change > 5
    unscaled = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    pipe.vae.encode = lambda _image: SimpleNamespace(latents=unscaled)
    scaled = image_to_image(pipe).prepare_latents(
        torch.zeros(1, 3, 48, 40), None, 1, 1, torch.float32, torch.device("cpu"), None, add_noise=False)
    assert not torch.equal(scaled, unscaled)
    write_tensors(HERE / "statistics.safetensors", {
        "picture": torch.from_numpy(picture), "unscaled": unscaled, "scaled": scaled.contiguous(),
        "mean": torch.tensor(MEAN), "deviation": torch.tensor(DEVIATION)})


if __name__ == "__main__":
    main()
