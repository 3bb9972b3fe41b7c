"""Restores a photo with three samplers: two chosen by name, and one passed as an object.

python examples/swap_sampler.py [OUTPUT_FOLDER]     (default: demo)
"""

import sys
from pathlib import Path

from xpsr_sdk import build_pipeline

HERE = Path(__file__).parent


class OneStep:
    """A sampler of your own: it returns the model's first estimate, in a single step."""

    distilled = True  # made for models of one step

    def sample(self, denoiser, latents, *, num_inference_steps, generators, callback=None):
        t = denoiser.start_timestep
        alpha = denoiser.alphas_cumprod[t]
        clean = denoiser.denoised(latents / alpha**0.5, ((1 - alpha) / alpha) ** 0.5)
        return callback(0, t, clean) if callback else clean


output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo")
samplers = {"ddim": "ddim", "dpmpp-2m": {"name": "dpmpp-2m"}, "one-step": OneStep()}
for name, sampler in samplers.items():
    result = build_pipeline(sampler=sampler)(HERE / "photo.jpg", seed=1)
    result.save(output / f"sampler-{name}.png")
    print(f"{name}: {result.timings['denoise']:.2f} s, {output / f'sampler-{name}.png'}")
