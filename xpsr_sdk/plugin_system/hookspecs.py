"""The hooks: how a distribution offers its components.

A plug-in is a module that implements one or more of these functions, marked ``@hookimpl``, and is named by an
entry point of the group ``xpsr_sdk``:

```toml
[project.entry-points.xpsr_sdk]
my-plugin = "my_plugin"
```

Every hook returns specs, which must be quick to make: the module of a plug-in is imported whenever components are
listed, so it must not import large packages such as torch. The class that a spec's ``target`` names is imported
only when that component is chosen. Components are chosen by name; the order of plug-ins has no meaning.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from xpsr_sdk.contracts import ComponentSpec

PROJECT = "xpsr"

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plug-in as the implementation of the hook of the same name."""

hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def xpsr_prompt_providers() -> Iterable[ComponentSpec]:  # type: ignore[empty-body]
    """Offer prompt providers, which describe the content and the quality of a photo.

    The contract is [PromptProvider][xpsr_sdk.contracts.PromptProvider]. This provider takes the content from the
    file's name:

    ```python
    # my_plugin.py
    from xpsr_sdk import ComponentSpec, Options, Prompts, hookimpl


    class FileNamePrompts:
        class Config(Options):
            pass

        def __init__(self, config=None):
            pass

        def describe(self, items, levels):
            return [self.describe_one(item) if "high" in levels else Prompts() for item in items]

        def describe_one(self, item):
            if item.path is None:
                return Prompts(errors={"high": "The image has no file name."})
            return Prompts(high=item.path.stem.replace("_", " "), source={"high": "file-name"})

        def unload(self):
            pass


    @hookimpl
    def xpsr_prompt_providers():
        return [ComponentSpec("file-name", "my_plugin:FileNamePrompts", "The file's name, as content.")]
    ```
    """


@hookspec
def xpsr_fusion_attentions() -> Iterable[ComponentSpec]:  # type: ignore[empty-body]
    """Offer fusion attentions, which combine the model's attention to the high-level and to the low-level prompt.

    The contract is [FusionAttention][xpsr_sdk.contracts.FusionAttention]. This fusion mixes the attention to both
    prompts with one trained weight. It has a module of its own, since it imports torch:

    ```python
    # my_plugin.py
    from xpsr_sdk import ComponentSpec, hookimpl


    @hookimpl
    def xpsr_fusion_attentions():
        return [ComponentSpec("mix", "my_fusion:MixFusion", "One weight mixes both prompts.")]
    ```

    ```python
    # my_fusion.py
    import torch

    from xpsr_sdk import Options


    class MixFusion(torch.nn.Module):
        class Config(Options):
            pass

        def __init__(self, config, site):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def init_from_attention(self, attention):
            pass

        def forward(self, attend, x, high, low):
            out = attend(x, high)
            return out if low is None else torch.lerp(out, attend(x, low), self.weight)
    ```
    """


@hookspec
def xpsr_degradation_models() -> Iterable[ComponentSpec]:  # type: ignore[empty-body]
    """Offer degradation models, which make the low-resolution photos of the training pairs.

    The contract is [DegradationModel][xpsr_sdk.contracts.DegradationModel]. This one imitates a sensor with larger
    pixels:

    ```python
    # my_plugin.py
    from pydantic import Field

    from xpsr_sdk import ComponentSpec, Options, hookimpl


    class BigPixels:
        class Config(Options):
            scale: int = Field(4, ge=1, le=8, description="How many times smaller the result is.")

        def __init__(self, config=None):
            self.scale = (config or self.Config()).scale

        def __call__(self, hr, generators):
            rows = hr.unflatten(-2, (-1, self.scale)).mean(-2)
            return rows.unflatten(-1, (-1, self.scale)).mean(-1)


    @hookimpl
    def xpsr_degradation_models():
        return [ComponentSpec("big-pixels", "my_plugin:BigPixels", "The mean of s x s pixels.")]
    ```
    """


@hookspec
def xpsr_samplers() -> Iterable[ComponentSpec]:  # type: ignore[empty-body]
    """Offer samplers, which turn noise into latents by diffusion steps.

    The contract is [Sampler][xpsr_sdk.contracts.Sampler]. This one is DDIM (arXiv 2010.02502):

    ```python
    # my_plugin.py
    from xpsr_sdk import ComponentSpec, Options, hookimpl


    class Ddim:
        class Config(Options):
            pass

        def __init__(self, config=None):
            pass

        def sample(self, denoiser, latents, *, num_inference_steps, generators, callback=None):
            last = denoiser.start_timestep
            count = min(num_inference_steps, last + 1)
            alphas = [1.0, *denoiser.alphas_cumprod.tolist()]  # of the clean image, and of every timestep
            x = latents
            for i in range(count):
                t, following = ((last + 1) * (count - k) // count - 1 for k in (i, i + 1))
                now, then = alphas[t + 1], alphas[following + 1]
                clean = denoiser.denoised(x / now**0.5, ((1 - now) / now) ** 0.5)
                noise = (x - now**0.5 * clean) / (1 - now) ** 0.5
                x = then**0.5 * clean + (1 - then) ** 0.5 * noise
                if callback is not None:
                    callback(i, t, x)
            return x


    @hookimpl
    def xpsr_samplers():
        return [ComponentSpec("my-ddim", "my_plugin:Ddim", "DDIM, written out.")]
    ```
    """


@hookspec
def xpsr_backbones() -> Iterable[ComponentSpec]:  # type: ignore[empty-body]
    """Offer backbones: versions of Stable Diffusion.

    The contract is [Backbone][xpsr_sdk.contracts.Backbone]. A spec may name a class of the SDK, and
    set that class's options in ``defaults``, to make a preset:

    ```python
    # my_plugin.py
    from xpsr_sdk import ComponentSpec, hookimpl


    @hookimpl
    def xpsr_backbones():
        return [
            ComponentSpec(
                "house-style",
                "xpsr_sdk.builtin.stable_diffusion:StableDiffusion",
                "Our own fine-tuned Stable Diffusion.",
            )
        ]
    ```
    """


@hookspec
def xpsr_upscalers() -> Iterable[ComponentSpec]:  # type: ignore[empty-body]
    """Offer upscalers, which enlarge the photo to the size at which it is restored.

    The contract is [Upscaler][xpsr_sdk.contracts.Upscaler]. This one repeats each pixel:

    ```python
    # my_plugin.py
    from xpsr_sdk import ComponentSpec, Options, hookimpl


    class Nearest:
        class Config(Options):
            pass

        scale = 4
        halo = 0

        def __init__(self, config=None):
            pass

        def upscale(self, image):
            return image.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)

        def unload(self):
            pass


    @hookimpl
    def xpsr_upscalers():
        return [ComponentSpec("nearest", "my_plugin:Nearest", "Repeats each pixel.")]
    ```
    """


@hookspec
def xpsr_metrics() -> Iterable[ComponentSpec]:  # type: ignore[empty-body]
    """Offer metrics: what measures restored photos.

    The contract is [Metric][xpsr_sdk.contracts.Metric]. The mean absolute error, in gray levels of 255:

    ```python
    # my_plugin.py
    from xpsr_sdk import ComponentSpec, Options, hookimpl


    class MeanAbsoluteError:
        class Config(Options):
            pass

        needs_reference = True
        lower_is_better = True
        min_side = 1
        details = "mean absolute error of RGB, in gray levels of 255"

        def __init__(self, config=None):
            pass

        def measure(self, images, references):
            return 255 * (images - references).abs().mean(dim=(1, 2, 3))


    @hookimpl
    def xpsr_metrics():
        return [ComponentSpec("mae", "my_plugin:MeanAbsoluteError", "Mean absolute error.")]
    ```
    """


@hookspec
def xpsr_loss_terms() -> Iterable[ComponentSpec]:  # type: ignore[empty-body]
    """Offer terms of the training loss.

    The contract is [LossTerm][xpsr_sdk.contracts.LossTerm]. This one compares colours, which it averages over large
    squares. It has a module of its own, since it imports torch:

    ```python
    # my_plugin.py
    from xpsr_sdk import ComponentSpec, hookimpl


    @hookimpl
    def xpsr_loss_terms():
        return [ComponentSpec("colour", "my_loss:ColourLoss", "The difference of mean colours.")]
    ```

    ```python
    # my_loss.py
    import torch
    from pydantic import Field
    from torch.nn.functional import adaptive_avg_pool2d

    from xpsr_sdk import Options


    class ColourLoss(torch.nn.Module):
        class Config(Options):
            squares: int = Field(4, ge=1, description="Squares in each direction.")

        def __init__(self, config, model):
            super().__init__()
            self.squares = config.squares

        def forward(self, step, generators):
            difference = adaptive_avg_pool2d(step.images - step.references, self.squares)
            return difference.abs().mean(dim=(1, 2, 3)).sum() / len(step.hr)
    ```
    """
