"""The clauses of the contracts that can be checked, each with the way to fix a part that breaks it."""

from __future__ import annotations

COMMON = {
    "listing": "name it with small letters, digits, dots and hyphens, and give it a summary",
    "options": "derive Config from xpsr_sdk.Options, keep it frozen and let it forbid unknown options, describe each "
    "option with Field(description=...), and give each option that may be None the default None, since TOML has no "
    "null",
    "config round trip": "use types that pydantic can write to JSON and read back, and that can be pickled, and define "
    "Config where it can be imported",
    "exceptions": "fix the code at that place: the contract allows this call",
    "construction": "let Class(config) build it from its options alone, with all members of its contract (numbers in "
    "their range), and do not change the config",
}
"""The clauses that all kinds of parts share. Whole distributions have others."""

_RESTORE = (
    "try it in build_pipeline(...): the result must have the right size, and be the same each time for the same seed"
)

CLAUSES: dict[str, dict[str, str]] = {
    "prompt_provider": COMMON
    | {
        "answers": "return a list with one Prompts for each item, in the order of the items; an empty list for no "
        "items",
        "levels": "return None for levels that were not asked for, and a text (str) or None for the others",
        "sources": "name in Prompts.source the describer of each level that has a text, and no other level",
        "errors": "say in Prompts.errors why a level has no text, and name no level that has one",
        "inputs": "do not change the items or their images: work on copies",
        "determinism": "return the same description for the same image each time, in every process: no sampling, or a "
        "fixed seed; do not depend on the order of a set; keep nothing from another image",
        "batch": "describe each image by itself: its text must not depend on the other images or on their order",
        "any image": "accept images of any size and shape; if there is nothing to say about one, return None for the "
        "level, without an error",
        "failure": "catch what goes wrong with an image and report it in Prompts.errors: a captioner must not stop a "
        "restoration, or prevent the descriptions of other images",
        "unload": "allow unload() at any time and several times, and load again at the next describe()",
        "restoration": _RESTORE,
    },
    "fusion_attention": COMMON
    | {
        "module": "derive it from torch.nn.Module, build it as Class(config, site), and give it weights that can be "
        "trained at once, all of them named parameters of its own",
        "initialisation": "copy initial weights from the site's attention; do not change it or share its tensors",
        "shape": "return features of the shape of x, B C h w, for any h and w",
        "dtype": "return the dtype of x, whatever precision the weights have: cast constants to x.dtype",
        "device": "create tensors on the device of x",
        "memory layout": "do not rely on strides: training passes channels_last tensors, so use reshape or flatten "
        "instead of view",
        "no low-level prompt": "accept low=None, and return features in that case as well",
        "inputs": "do not change x, high or low: no in-place operations on them",
        "determinism": "use no random numbers in eval mode, keep no state between calls, and do not use torch's global "
        "generator",
        "batch": "compute each image from its own features and text alone",
        "data-independent control flow": "do not branch on the values of tensors (no .item(), no bool(tensor)), since "
        "models are compiled",
        "gradients": "let every parameter influence the result, and detach nothing: features, text and weights must "
        "get correct gradients",
        "meta device": "let it be built on the meta device as well, where tensors have no values (models are loaded "
        "that way): do not compute with values in __init__, and set start values in init_from_attention",
        "state dict": "keep everything that the result depends on in parameters and persistent buffers that "
        "safetensors can write: anything else is lost when a model is saved",
        "identity at start": "let the fresh fusion return exactly attend(x, high), for instance by a gate that starts "
        "at zero",
        "training": "try it in xpsr train: the model must take a step and be saved",
        "restoration": _RESTORE,
    },
    "degradation_model": COMMON
    | {
        "scale": "if there is an option scale, set scale to its value",
        "shape": "return B 3 H/s W/s for every H and W that are multiples of s",
        "dtype": "return the dtype of hr, float32 or float64",
        "device": "return the result on the device of hr; the generators stay on the CPU",
        "range": "take hr in [0, 1], clamp the result to [0, 1], and return finite numbers for every image",
        "inputs": "do not change hr: no in-place operations on it",
        "determinism": "draw random numbers from the image's generator alone, not from the global generators of torch, "
        "numpy or Python, or from your own; keep no state between calls",
        "batch": "draw the parameters of image i from generators[i] alone, so that its result does not depend on the "
        "other images",
        "alignment": "do not shift or change the content: in every channel, a degraded photo must resemble its "
        "downscaled original, without an offset (taking every s-th pixel shifts it, and so does align_corners=True)",
        "pickling": "keep only objects that can be pickled: a data loader sends the model to its worker processes",
        "training": "try it in xpsr data prepare and xpsr train: a model must take a step on its pairs",
    },
    "sampler": COMMON
    | {
        "shape": "return latents of the shape of the input, B C h w, for any B, C, h and w",
        "dtype": "use the dtype of the latents for the inputs of the denoiser and of the callback, and for the result: "
        "cast schedules to it",
        "device": "work on the device of the latents; draw noise on the device of the generators, then move it",
        "inputs": "do not change the latents, the list of generators, the denoiser or its scheduler: copy the "
        "scheduler before use, and use no in-place operations",
        "determinism": "draw random numbers from the images' generators alone, not from the global generators of "
        "torch, numpy or Python, and keep no state between calls",
        "batch": "treat each image by itself, and draw the noise of image i from generators[i]",
        "steps": "evaluate the denoiser num_inference_steps times: never more, and at least half as often (fewer only "
        "if there are fewer timesteps left from the start)",
        "start": "begin at the noise level of denoiser.start_timestep, which is the noise level of the latents",
        "questions": "call predict(x_t, t) with timesteps from 0 to start_timestep, denoised(x, sigma) with noise "
        "levels up to that of the start, and both with all of the latents at once",
        "callback": "call callback(step, timestep, latents) after each step, count steps from 0, pass the result after "
        "the last step, continue with the latents that it returns, and also work without a callback",
        "prediction types": "read denoiser.prediction_type to know what predict() returns, or use denoised(), which "
        "always returns the estimate of the clean latents",
        "accuracy": "check the signs and factors of the higher-order terms: they must bring the result closer to the "
        "exact solution than first-order steps at the same noise levels",
        "convergence": "solve the diffusion equation: with many steps the result must follow the data's distribution. "
        "Check the scaling: latents have unit variance, x in denoised(x, sigma) is x_0 + sigma * noise",
        "restoration": _RESTORE,
    },
    "backbone": COMMON
    | {
        "parts": "set tokenizer, text_encoder (a torch.nn.Module, in eval mode), vae (a diffusers ModelMixin) and "
        "scheduler (a diffusers scheduler with alphas_cumprod) in load(), and define latent_channels, stride (a power "
        "of 2) and text_width; load() only reads the folder",
        "precision": "load the text encoder and the autoencoder in the given dtype, and return results in it",
        "from scratch": "with from_scratch=True, make the text encoder from its config, without reading its weights",
        "damage": "raise CheckpointError if a part of the folder is missing or damaged",
        "derived": "compute everything from tokenizer, text_encoder, vae and scheduler (and tokenizer_2, "
        "text_encoder_2): from_pretrained sets those alone and never calls load()",
        "text": "let encode_text return Conditioning(embeddings B T D), D = text_width, one for each text, with finite "
        "numbers; added is empty, or holds text_embeds and time_ids, one row for each text",
        "long text": "cut a text that is too long, with a warning, instead of failing; with long_prompts='chunks', "
        "read all of it in chunks, and concatenate their embeddings",
        "weights": "with weighted=True, read (word:1.2) as the word with that weight, see "
        "xpsr_sdk.prompts.weights; without it, as plain text",
        "shape": "encode B 3 H W to B latent_channels H/stride W/stride, and decode that back, for all H and W",
        "scale": "multiply latents by vae.config.scaling_factor, if there is one, in encode(), and divide by it in "
        "decode()",
        "range": "encode images in [-1, 1] and decode to such images, not to [0, 1], with their channels and pixels in "
        "their places: the autoencoders of diffusers take and return them so already",
        "lossless": "let decode(encode(image, lr), lr) return the image",
        "determinism": "draw random numbers from the images' generators alone, none if there are no generators, and "
        "keep no state between calls: decode() must use the photo that it is given, not the one encoded last",
        "batch": "treat each text and each image by itself, and draw random numbers for image i from generators[i]",
        "inputs": "do not change images or latents: no in-place operations on them",
        "gradients": "let gradients pass through decode() to the latents, without detaching anything on the way: a "
        "perceptual loss needs them",
        "saving": "let a pipeline that is saved and loaded again give the same restored photo",
        "restoration": _RESTORE,
    },
    "upscaler": COMMON
    | {
        "halo": "set halo to how many pixels of the input, in each direction, a pixel of the result depends on. "
        "Tiles overlap by it, and seams are visible if it is too small",
        "shape": "return B 3 s*h s*w for all B, h and w of 1 or more: pad small images, and crop the result",
        "dtype": "return the dtype of image; if a precision harms the result, compute in float32 and cast",
        "device": "compute on the device of the image, and move weights there",
        "range": "clamp the result to [0, 1], and return finite numbers for every image",
        "inputs": "do not change image, and return a new tensor, even if there is nothing to do: clone it",
        "determinism": "draw no random numbers from the global generators of torch, numpy or Python, and keep no state "
        "between calls",
        "batch": "enlarge each image by itself: take no mean, minimum or maximum over the batch",
        "alignment": "do not shift or change the content: in every channel, the result must resemble a bicubic "
        "enlargement, without an offset (use align_corners=False in torch.nn.functional.interpolate)",
        "unload": "allow unload() at any time and several times, and load again at the next upscale()",
        "restoration": _RESTORE,
    },
    "loss_term": COMMON
    | {
        "module": "derive it from torch.nn.Module, build it as Class(config, model), and copy a network of the model "
        "with copy.deepcopy instead of keeping it",
        "answer": "return the mean over the images, a finite tensor without dimensions in float32; or several by name, "
        "in a dict",
        "heads": "give a term that reads step.rgbs or step.head_latents the attribute reads_heads = True: otherwise "
        "they are not computed",
        "no detail": "accept a step in which no estimate is to have detail, so that step.images is empty",
        "mean": "take the mean over the images: all images of the step count, with zero for those that are left out",
        "gradients": "let gradients pass to what the model made (step.prediction, step.clean, step.images): a term "
        "without gradients trains nothing; and leave backward() to the training loop",
        "trained parameters": "freeze what is not trained, with requires_grad_(False), make every other parameter in "
        "__init__, in float32, and let it get a gradient in each step",
        "frozen parameters": "let frozen parameters be the same each time the term is built: they come from a file or "
        "from the model, and checkpoints do not hold them",
        "state": "keep what the term remembers from step to step in parameters and persistent buffers, since "
        "checkpoints hold nothing else",
        "device": "register tensors as parameters or buffers, which move with the term to another device",
        "precision": "work within autocast to bfloat16, where the model's networks compute in half precision",
        "determinism": "draw random numbers from the images' generators alone, not from the global generators of "
        "torch, numpy or Python",
        "inputs": "change nothing of the step: no in-place operations on its tensors, or on the list of generators",
        "training": "try it in xpsr train: the model must take a step, and a run that is resumed must end the same",
    },
    "metric": COMMON
    | {
        "listing": "name it with letters, digits, dots, hyphens, underscores and plus signs, and give it a summary",
        "attributes": "set needs_reference and lower_is_better to True or False, in __init__ if they depend on an "
        "option; storable, if there is one, to True or False, and license to "
        "one line of text",
        "details": "name in details, in one line, everything that changes the figures: the variant, the library with "
        "its version, the SHA-256 of the weights",
        "shape": "return one figure for each photo, a tensor of shape (B,), for every size from min_side on, never "
        "NaN; for a metric of whole folders, the features of each photo, (B, D)",
        "dtype": "take float32 and float64, and cast to what the metric computes in",
        "device": "compute on the device of the images, and move weights there",
        "inputs": "do not change images or references: no in-place operations on them",
        "determinism": "draw no random numbers from the global generators of torch, numpy or Python, and keep no state "
        "between calls: a metric that crops at random uses its own generator with a fixed seed",
        "batch": "measure each photo by itself: take no mean over the batch",
        "direction": "set lower_is_better to what the figures show: a photo with more noise is worse",
        "compare": "return a float from the features of all photos, N D, and of the references, M D (None if the "
        "metric needs none), for any N and M; change neither, draw from no global generator; a folder with more noise "
        "is worse",
    },
    "distribution": {
        "installed": "install it, with an entry point in the group xpsr_sdk",
        "requirements": "require the SDK from the version that you developed with to below the next version that may "
        "break it, for instance xpsr-sdk>=0.1,<0.2",
        "loading": "make sure that the module can be imported and that its hooks return ComponentSpecs, without other "
        "plug-ins",
        "cheap listing": "import torch and other large packages only in the modules that the targets name: listing "
        "components imports the plug-in's own module",
        "components": "let every target be a class that can be imported, with a Config derived from xpsr_sdk.Options",
        "names": "choose names that neither the SDK nor another installed plug-in has taken",
    },
}
"""For each kind, and for whole distributions: the name of each clause, and how to fix a part that breaks it."""
RAISING = {
    "config round trip", "construction", "listing",
    "any image", "failure", "unload",
    "memory layout", "meta device", "no low-level prompt", "data-independent control flow", "state dict",
    "pickling", "scale", "device", "gradients", "callback",
    "parts", "from scratch", "damage", "derived", "long text",
    "training", "restoration", "saving", "heads",
    *CLAUSES["distribution"],
}  # fmt: skip
"""Clauses that an exception breaks by itself. In all others an exception breaks the clause ``exceptions``."""
