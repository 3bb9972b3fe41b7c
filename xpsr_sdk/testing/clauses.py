"""The clauses of the contracts that can be checked, each with how to mend a part that breaks it."""

from __future__ import annotations

COMMON = {
    "listing": "name it with small letters, digits, dots and hyphens, and give it a summary",
    "options": "derive Config from xpsr_sdk.Options, leave it frozen and closed to unknown options, describe each "
    "option with Field(description=...), and let an option that may be None have the default None, since TOML has no "
    "null",
    "config round trip": "use types that pydantic writes to JSON and reads back, and that pickle, and define the "
    "Config where it can be imported",
    "construction": "build it as Class(config) from its options alone, with all members of its contract, and leave the "
    "config as it is",
}
"""Of every kind but whole distributions."""

_RESTORE = "try it in build_pipeline(...): a photo must come out at its size, and the same for the same seed"

CLAUSES: dict[str, dict[str, str]] = {
    "prompt_provider": COMMON
    | {
        "answers": "return a list with one Prompts an item, in the order of the items; no items, no answers",
        "levels": "leave levels that were not asked for None, and give text (str) or None for the others",
        "sources": "name in Prompts.source who described each level that has a text, and no other",
        "errors": "give in Prompts.errors, as a text, the reason why a level has no text, and name no level that has "
        "one",
        "inputs": "leave the items and their images as they are: work on copies",
        "determinism": "give the same description for the same image each time: no sampling, or a fixed seed",
        "batch": "describe each image by itself: its text must not depend on the others, nor on the order",
        "any image": "take images of any size, however small or long; if there is nothing to say about one, leave the "
        "level None, without an error",
        "failure": "catch what goes wrong with an image and report it in Prompts.errors: a captioner must not stop a "
        "restoration, nor cost other images their texts",
        "unload": "let unload() be called at any time, several times, and load again at the next describe()",
        "restoration": _RESTORE,
    },
    "fusion_attention": COMMON
    | {
        "module": "derive it from torch.nn.Module, build it as Class(config, site), and give it weights that can be "
        "trained at once, all of them named parameters of its own",
        "initialisation": "copy start values out of the site's attention: neither change it nor share its tensors",
        "shape": "return features of the shape of x, B C h w, for any h and w",
        "dtype": "return the dtype of x, whatever precision the weights have: cast constants to x.dtype",
        "device": "create tensors on the device of x",
        "memory layout": "make no assumption on strides: training hands over channels_last, so use reshape or flatten "
        "instead of view",
        "no low-level prompt": "take low=None, and give features then, too",
        "inputs": "leave x, high and low as they are: no operation in place",
        "determinism": "draw nothing in eval mode, keep nothing from one call to the next, and leave torch's global "
        "generator alone",
        "batch": "compute each image from its own features and text alone",
        "data-independent control flow": "branch on no tensor's value (no .item(), no bool(tensor)): models are "
        "compiled",
        "gradients": "let every parameter take part in the result, and detach nothing: features, text and weights must "
        "get the gradients of what is computed",
        "state dict": "keep all that the result depends on in parameters and persistent buffers that safetensors can "
        "write: the rest is lost when a model is saved",
        "identity at start": "let the fresh fusion add exactly nothing to attend(x, high), for instance through a gate "
        "that starts at zero",
        "training": "try it in xpsr train: the model must take a step and be saved",
        "restoration": _RESTORE,
    },
    "degradation_model": COMMON
    | {
        "scale": "set scale to a whole number from 1 on, that of the option if there is one",
        "shape": "return B 3 H/s W/s for every H and W that are multiples of s",
        "dtype": "return the dtype of hr, float32 or float64",
        "device": "return the result on the device of hr; the generators stay on the CPU",
        "range": "clamp the result to [0, 1], and let it be finite for every image",
        "inputs": "leave hr as it is: no operation in place",
        "determinism": "draw from the image's generator alone: not from torch's, numpy's or Python's global ones, nor "
        "from a generator of your own; keep nothing from one call to the next",
        "batch": "draw the parameters of image i from generators[i] and nothing else, so that its result does not "
        "depend on the rest of the batch",
        "alignment": "neither move nor change the content: a degraded photo must resemble its original, made "
        "smaller, channel by channel and without a shift",
        "pickling": "keep nothing in the object that does not pickle: a data loader that holds it sends it to its "
        "worker processes",
        "training": "try it in xpsr data prepare and xpsr train: a model must take a step on its pairs",
    },
    "sampler": COMMON
    | {
        "shape": "return latents of the shape that came in, B C h w, for any B, C, h and w",
        "dtype": "keep the dtype of the latents in what the denoiser is asked, in what the callback is handed and in "
        "the result: cast schedules to it",
        "device": "work on the device of the latents; noise is drawn on the device of the generators and moved",
        "inputs": "leave the latents, the generators' list, the denoiser and its scheduler as they are: copy the "
        "scheduler before use, and write nothing in place",
        "determinism": "draw from the images' generators alone, not from torch's, numpy's or Python's global ones, and "
        "keep nothing from one call to the next",
        "batch": "treat each image by itself, and draw the noise of image i from generators[i]",
        "steps": "spend num_inference_steps evaluations of the denoiser: no more, and at least half of them (no more "
        "than there are timesteps from the start on)",
        "start": "begin at the noise level of denoiser.start_timestep, which is what the latents carry",
        "questions": "ask predict(x_t, t) at timesteps from 0 to start_timestep, and denoised(x, sigma) at noise "
        "levels up to that of the start, with all of the latents at once",
        "callback": "call callback(step, timestep, latents) after each step, counting from 0, with the result after "
        "the last one, and work without a callback, too",
        "prediction types": "ask denoiser.prediction_type what predict() means, or use denoised(), which always gives "
        "the estimate of the clean latents",
        "convergence": "solve the diffusion equation: with many steps the result must follow the data's distribution. "
        "Mind the scaling: latents have unit variance, x in denoised(x, sigma) is x_0 + sigma * noise",
        "restoration": _RESTORE,
    },
    "backbone": COMMON
    | {
        "parts": "set tokenizer, text_encoder (a torch.nn.Module, in eval mode), vae (a diffusers ModelMixin) and "
        "scheduler (a diffusers scheduler with alphas_cumprod) in load(), and give latent_channels, stride (a power of "
        "2) and text_width",
        "precision": "load text encoder and autoencoder in the dtype that is asked for, and give results in it",
        "from scratch": "with from_scratch=True, make the text encoder from its config, without reading its weights",
        "damage": "raise CheckpointError where a part of the folder is missing or damaged",
        "derived": "derive everything from tokenizer, text_encoder, vae and scheduler: from_pretrained sets those four "
        "and never calls load()",
        "text": "encode_text gives Conditioning(embeddings B T D), D = text_width, one an entry, of finite numbers",
        "long text": "cut a text that is too long, with a warning, instead of failing; with long_prompts='chunks', "
        "read all of it, in parts whose embeddings follow one another",
        "weights": "with weighted=True, read (word:1.2) as the word with that weight, see "
        "xpsr_sdk.prompts.weights; without it, as text",
        "shape": "encode B 3 H W to B latent_channels H/stride W/stride, and decode that back, whatever H and W",
        "scale": "multiply latents by vae.config.scaling_factor, where there is one, in encode(), and divide by it in "
        "decode()",
        "lossless": "let decode(encode(image, lr), lr) be the image",
        "determinism": "draw from the images' generators alone, and nothing without them; no state between calls",
        "batch": "treat each text and each image by itself, and draw for image i from generators[i]",
        "inputs": "leave images and latents as they are: no operation in place",
        "gradients": "let gradients pass through decode() to the latents: a perceptual loss needs them",
        "saving": "a pipeline that is saved and loaded again must restore the same photo",
        "restoration": _RESTORE,
    },
    "upscaler": COMMON
    | {
        "scale": "set scale to a whole number from 1 on, in __init__ if it depends on an option or a file",
        "halo": "set halo to a whole number from 0 on, as many pixels of the input as a result's pixel looks in each "
        "direction: tiles overlap by it, and seams show where it is too small",
        "shape": "return B 3 s*h s*w for any B, h and w from 1 on: pad small images, and cut the result",
        "dtype": "return the dtype of image; where a precision harms the result, compute in float32 and cast",
        "device": "compute on the device of the image, and move weights there",
        "range": "clamp the result to [0, 1], and let it be finite for every image",
        "inputs": "leave image as it is and return a new tensor, even where there is nothing to do: clone it",
        "determinism": "draw nothing from torch's, numpy's or Python's global generators, and keep nothing from one "
        "call to the next",
        "batch": "enlarge each image by itself: take no mean, minimum or maximum over the batch",
        "alignment": "neither move nor change the content: the result must resemble a bicubic enlargement, channel "
        "by channel and without a shift (in torch.nn.functional.interpolate, align_corners=False)",
        "unload": "let unload() be called at any time, several times, and load again at the next upscale()",
        "restoration": _RESTORE,
    },
    "distribution": {
        "installed": "install it, with an entry point in the group xpsr_sdk",
        "requirements": "pin the SDK from the version that it was made with up to the next that may break it, for "
        "instance xpsr-sdk>=0.1,<0.2",
        "loading": "let the module import and its hooks return ComponentSpecs, without help from other plug-ins",
        "cheap listing": "import torch and the like only in the modules that targets name: listing components imports "
        "the plug-in's module",
        "components": "let every target be a class that can be imported, with a Config derived from xpsr_sdk.Options",
        "names": "choose names that neither the SDK nor another installed plug-in has taken",
    },
}
"""Of each kind, and of whole distributions: name and remedy."""
