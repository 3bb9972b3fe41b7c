"""Conformance checks: what an author calls, from pytest, to learn whether a plug-in keeps its contracts.

```python
import my_plugin
from xpsr_sdk import Registry
from xpsr_sdk.testing import check_sampler


def test_the_contract():
    check_sampler("my-sampler", Registry([my_plugin]))
```

A check returns nothing, or raises a ``ContractViolation`` that names the clause that is broken and how to mend it.
Needs the extra ``testing``: ``pip install 'xpsr-sdk[testing]'``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xpsr_sdk.testing.backbones import check_backbone
    from xpsr_sdk.testing.degradations import check_degradation_model
    from xpsr_sdk.testing.denoiser import GaussianDenoiser
    from xpsr_sdk.testing.distributions import check_distribution
    from xpsr_sdk.testing.fusions import check_fusion_attention
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
    "check_prompt_provider",
    "check_sampler",
    "check_upscaler",
]

_HOME_OF = {
    "ContractViolation": "subject",
    "GaussianDenoiser": "denoiser",
    "check_backbone": "backbones",
    "check_degradation_model": "degradations",
    "check_distribution": "distributions",
    "check_fusion_attention": "fusions",
    "check_prompt_provider": "prompts",
    "check_sampler": "samplers",
    "check_upscaler": "upscalers",
}

if not TYPE_CHECKING:  # type checkers read the imports above; this would make every misspelt name pass

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
