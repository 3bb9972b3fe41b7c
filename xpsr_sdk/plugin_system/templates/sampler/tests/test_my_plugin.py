"""Tests of the sampler: its contract, and what it converges to."""

from __future__ import annotations

import torch
import xpsr_my_plugin
from xpsr_my_plugin.sampler import MyPluginSampler

from xpsr_sdk import Registry
from xpsr_sdk.testing import GaussianDenoiser, check_distribution, check_sampler


def test_the_contract() -> None:
    check_sampler("my-plugin", Registry([xpsr_my_plugin]))


def test_the_distribution() -> None:
    check_distribution("xpsr-my-plugin")


def test_constant_data_come_out_exactly() -> None:
    denoiser = GaussianDenoiser(mean=0.25, std=1e-6)  # a model of data that are 0.25 everywhere
    latents = denoiser.start(1, 4, 8, 8)
    clean = MyPluginSampler().sample(denoiser, latents, num_inference_steps=5, generators=[torch.Generator()])
    torch.testing.assert_close(clean, torch.full_like(clean, 0.25), rtol=0, atol=1e-3)
