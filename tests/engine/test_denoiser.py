"""The model as a sampler sees it: guidance, tiles and batches change nothing that they should not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from tests.support import tiny
from xpsr_sdk.contracts import Denoiser
from xpsr_sdk.engine.denoiser import GuidedDenoiser
from xpsr_sdk.engine.execution import Optimizations
from xpsr_sdk.engine.tiling import Tile, plan_tiles

HEIGHT, WIDTH = 9, 12
WHOLE = plan_tiles(HEIGHT, WIDTH, None, 0)


@pytest.fixture(scope="module")
def networks() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return tiny.networks()


def text(groups: int, seed: int = 0) -> Tensor:
    return torch.randn(groups, 1, 7, 16, generator=torch.Generator().manual_seed(seed))


def denoiser(
    networks: tuple[Any, Any],
    tiles: Sequence[Tile] = WHOLE,
    high: Tensor | None = None,
    low: Tensor | None = None,
    guidance_scale: float = 1,
    prediction_type: str = "epsilon",
    zero_snr: bool = False,
    **options: Any,
) -> GuidedDenoiser:
    unet, controlnet = networks
    settings = {"start_timestep": 999, "conditioning_scale": 1.0, "tile_batch": 1} | options
    return GuidedDenoiser(
        unet,
        controlnet,
        high=text(1) if high is None else high,
        low=low,
        condition=torch.rand(1, 3, HEIGHT * 4, WIDTH * 4, generator=torch.Generator().manual_seed(1)),
        scheduler=DDIMScheduler(prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr),
        tiles=tiles,
        guidance_scale=guidance_scale,
        **settings,
    )


@torch.no_grad()
def predict(denoiser: Denoiser, t: int = 500) -> Tensor:
    return denoiser.predict(torch.randn(1, 48, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2)), t)


@pytest.mark.parametrize("tile", [12, 30])
def test_a_tile_that_holds_the_photo_changes_nothing(networks: tuple[Any, Any], tile: int) -> None:
    tiled = denoiser(networks, plan_tiles(HEIGHT, WIDTH, tile, 2))
    assert torch.equal(predict(tiled), predict(denoiser(networks)))


def test_tiles_are_blended_to_a_whole_prediction(networks: tuple[Any, Any]) -> None:
    tiled = predict(denoiser(networks, plan_tiles(HEIGHT, WIDTH, 6, 2)))
    assert tiled.shape == (1, 48, HEIGHT, WIDTH)
    assert tiled.isfinite().all()
    whole = predict(denoiser(networks))
    assert not torch.equal(tiled, whole)
    assert torch.nn.functional.cosine_similarity(tiled.flatten(), whole.flatten(), dim=0) > 0.8


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("tile_batch", [2, 5, 100])
def test_tiles_may_share_a_batch(networks: tuple[Any, Any], tile_batch: int, groups: int) -> None:
    tiles = plan_tiles(HEIGHT, WIDTH, 6, 2)
    high, low = text(groups), text(groups, seed=3)
    one = predict(denoiser(networks, tiles, high, low, guidance_scale=3))
    several = predict(denoiser(networks, tiles, high, low, guidance_scale=3, tile_batch=tile_batch))
    torch.testing.assert_close(several, one, atol=1e-4, rtol=1e-4)


def test_guidance_goes_from_negative_to_positive_and_beyond(networks: tuple[Any, Any]) -> None:
    high, low = text(2), text(2, seed=3)
    negative, positive = (predict(denoiser(networks, high=high[i : i + 1], low=low[i : i + 1])) for i in (0, 1))
    for scale, expected in {0: negative, 1: positive, 2.5: negative + 2.5 * (positive - negative)}.items():
        guided = predict(denoiser(networks, high=high, low=low, guidance_scale=scale))
        torch.testing.assert_close(guided, expected, atol=1e-4, rtol=1e-4)


def test_without_conditioning_the_low_level_prompt_is_idle(networks: tuple[Any, Any]) -> None:
    first, second = (predict(denoiser(networks, low=text(1, seed), conditioning_scale=0)) for seed in (3, 4))
    assert torch.equal(first, second)
    first, second = (predict(denoiser(networks, low=text(1, seed))) for seed in (3, 4))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@torch.no_grad()
def test_the_clean_estimate_agrees_with_diffusers(networks: tuple[Any, Any], kind: str) -> None:
    model = denoiser(networks, prediction_type=kind)
    x_t, t = torch.randn(1, 48, HEIGHT, WIDTH), 300
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(1000)
    expected = scheduler.step(model.predict(x_t, t), t, x_t).pred_original_sample
    torch.testing.assert_close(model.clean(x_t, t), expected, atol=1e-4, rtol=1e-4)
    alpha = model.alphas_cumprod[t]
    sigma = ((1 - alpha) / alpha).sqrt()
    torch.testing.assert_close(model.denoised(x_t / alpha.sqrt(), sigma), expected, atol=1e-4, rtol=1e-4)


# Exact gains


def test_pure_noise_is_estimated_at_the_last_timestep(networks: tuple[Any, Any]) -> None:
    from_noise = denoiser(networks, prediction_type="v_prediction", zero_snr=True)
    x = torch.randn(1, 48, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        estimate = from_noise.denoised(x * 4096, 4096.0)  # the highest sigma of diffusers' schedulers
        torch.testing.assert_close(estimate, -from_noise.predict(x, 999), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "off",
    [{"cache_condition": False}, {"cache_text": False}, {"skip_training_heads": False}, {"channels_last": False}],
    ids=lambda off: next(iter(off)),
)
@torch.no_grad()
def test_what_is_saved_changes_nothing(networks: tuple[Any, Any], off: dict[str, Any]) -> None:
    tiles = plan_tiles(HEIGHT, WIDTH, 6, 2)
    texts: dict[str, Any] = {"high": text(2), "low": text(2, seed=3), "guidance_scale": 3, "tile_batch": 2}
    predictions = []
    for optimizations in (Optimizations(), Optimizations(**off)):
        chosen = denoiser(networks, tiles, **texts, optimizations=optimizations)
        with chosen.caching():
            predictions.append([predict(chosen, t) for t in (900, 500)])
    torch.testing.assert_close(predictions[0], predictions[1], atol=1e-5, rtol=1e-5)


# Approximations


def test_guidance_may_hold_in_an_interval(networks: tuple[Any, Any]) -> None:
    high, low = text(2), text(2, seed=3)
    alone = denoiser(networks, high=high[1:], low=low[1:])
    guided = denoiser(networks, high=high, low=low, guidance_scale=4)
    between = denoiser(networks, high=high, low=low, guidance_scale=4, guidance_interval=(0.4, 0.8))
    assert torch.equal(predict(between, 900), predict(alone, 900))
    assert torch.equal(predict(between, 500), predict(guided, 500))
    assert torch.equal(predict(between, 100), predict(alone, 100))


@pytest.mark.parametrize("tiles", [WHOLE, plan_tiles(HEIGHT, WIDTH, 6, 2)], ids=["whole", "tiled"])
def test_deep_features_of_the_same_latents_give_the_same_prediction(networks: tuple[Any, Any], tiles: Any) -> None:
    chosen = denoiser(networks, tiles, text(2), text(2, seed=3), guidance_scale=3, reuse_interval=2, tile_batch=2)
    first, again = predict(chosen), predict(chosen)
    torch.testing.assert_close(again, first, atol=1e-5, rtol=1e-5)


def test_deep_features_are_renewed_as_often_as_asked(networks: tuple[Any, Any]) -> None:
    exact = denoiser(networks)
    shared = denoiser(networks, reuse_interval=3)
    same = [torch.equal(predict(shared, t), predict(exact, t)) for t in (900, 700, 500, 300, 100)]
    assert same == [True, False, False, True, False]
    shared.restart()
    assert torch.equal(predict(shared, 50), predict(exact, 50))


def test_deep_features_outlive_guidance_but_do_not_precede_it(networks: tuple[Any, Any]) -> None:
    high, low = text(2), text(2, seed=3)
    options: dict[str, Any] = {"high": high, "low": low, "guidance_scale": 4}
    shared = denoiser(networks, **options, guidance_interval=(0.4, 0.8), reuse_interval=2)
    alone = denoiser(networks, high=high[1:], low=low[1:])
    guided = denoiser(networks, **options)
    assert torch.equal(predict(shared, 900), predict(alone, 900))
    assert torch.equal(predict(shared, 790), predict(guided, 790))  # there are no features for the negative prompt
    shared.restart()
    predict(shared, 410)
    after = predict(shared, 390)
    assert after.shape == (1, 48, HEIGHT, WIDTH)
    assert not torch.equal(after, predict(alone, 390))
