"""Conformance checks: authors call them from pytest, to check that a plug-in keeps its contract.

```python
import my_plugin
from xpsr_sdk import Registry
from xpsr_sdk.testing import check_sampler


def test_the_contract():
    check_sampler("my-sampler", Registry([my_plugin]))
```

A check returns nothing, or raises a ``ContractViolation`` that names the broken clause and says how to fix it.
The checks need the extra ``testing``: ``pip install 'xpsr-sdk[testing]'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xpsr_sdk.lazy import homes_of, lazy_names

if TYPE_CHECKING:
    from xpsr_sdk.testing import tiny
    from xpsr_sdk.testing.backbones import check_backbone
    from xpsr_sdk.testing.degradations import check_degradation_model
    from xpsr_sdk.testing.denoiser import GaussianDenoiser
    from xpsr_sdk.testing.distributions import check_distribution
    from xpsr_sdk.testing.fusions import check_fusion_attention
    from xpsr_sdk.testing.loss_terms import check_loss_term
    from xpsr_sdk.testing.metrics import check_metric
    from xpsr_sdk.testing.prompts import check_prompt_provider
    from xpsr_sdk.testing.samplers import check_sampler
    from xpsr_sdk.testing.subject import ContractViolation
    from xpsr_sdk.testing.upscalers import check_upscaler

__all__ = [
    "ContractViolation",
    "GaussianDenoiser",
    "check_backbone",
    "check_degradation_model",
    "check_distribution",
    "check_fusion_attention",
    "check_loss_term",
    "check_metric",
    "check_prompt_provider",
    "check_sampler",
    "check_upscaler",
    "tiny",
]

HOME_OF = homes_of(
    {
        "testing": "tiny",
        "testing.backbones": "check_backbone",
        "testing.degradations": "check_degradation_model",
        "testing.denoiser": "GaussianDenoiser",
        "testing.distributions": "check_distribution",
        "testing.fusions": "check_fusion_attention",
        "testing.loss_terms": "check_loss_term",
        "testing.metrics": "check_metric",
        "testing.prompts": "check_prompt_provider",
        "testing.samplers": "check_sampler",
        "testing.subject": "ContractViolation",
        "testing.upscalers": "check_upscaler",
    }
)

if not TYPE_CHECKING:  # type checkers read the imports above; with this they would accept every misspelt name
    __getattr__ = lazy_names(__name__, HOME_OF)


def __dir__() -> list[str]:
    return __all__
