"""What plug-ins offer: broken ones are isolated, and told."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.stubs import HERE, loading, offering, plugin_with, raising, sampler
from xpsr_sdk import BrokenPlugin, ComponentSpec, Options, Registry, hookimpl
from xpsr_sdk.contracts import KINDS
from xpsr_sdk.plugin_system import hookspecs
from xpsr_sdk.plugin_system.discovery import Plugin
from xpsr_sdk.testing import (
    check_degradation_model,
    check_fusion_attention,
    check_loss_term,
    check_metric,
    check_prompt_provider,
    check_sampler,
    check_upscaler,
)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


def generator_that_breaks() -> Any:
    yield sampler("first")
    raise OSError("disk on fire")


def wrapping() -> Any:
    return (yield)


def needs_an_argument(registry: object) -> list[ComponentSpec]:
    return []


BROKEN = {
    "missing dependency": (
        loading(raising(ModuleNotFoundError("No module named 'kornia'", name="kornia"))),
        "ModuleNotFoundError: No module named 'kornia'",
    ),
    "import error": (loading(raising(ValueError("bad\nluck"))), "ValueError: bad luck"),
    "long error": (loading(raising(ValueError("no " * 200))), "ValueError: " + "no " * 99 + "..."),
    "exits": (loading(raising(SystemExit(3))), "SystemExit: 3"),
    "hook raises": (
        plugin_with(xpsr_samplers=hookimpl(lambda: 1 / 0)),
        "ZeroDivisionError: division by zero",
    ),
    "generator raises": (
        plugin_with(xpsr_samplers=hookimpl(generator_that_breaks)),
        "OSError: disk on fire",
    ),
    "misspelt hook": (
        plugin_with(xpsr_sampler=hookimpl(lambda: [])),
        "NameError: There is no hook 'xpsr_sampler'. Did you mean 'xpsr_samplers'? Known: xpsr_backbones, "
        "xpsr_degradation_models, xpsr_fusion_attentions, xpsr_loss_terms, xpsr_metrics, xpsr_prompt_providers, "
        "xpsr_samplers, xpsr_upscalers.",
    ),
    "misspelt prefix": (
        plugin_with(samplers=hookimpl(lambda: [])),
        "NameError: There is no hook 'samplers'. Did you mean 'xpsr_samplers'? Known: xpsr_backbones, "
        "xpsr_degradation_models, xpsr_fusion_attentions, xpsr_loss_terms, xpsr_metrics, xpsr_prompt_providers, "
        "xpsr_samplers, xpsr_upscalers.",
    ),
    "unmarked hook": (
        plugin_with(xpsr_samplers=lambda: []),
        "TypeError: The function 'xpsr_samplers' is not a hook implementation: it must be marked @xpsr_sdk.hookimpl",
    ),
    "no hook": (
        plugin_with(),
        "TypeError: namespace() implements no hook; the hooks are xpsr_prompt_providers, "
        "xpsr_fusion_attentions, xpsr_degradation_models, xpsr_samplers, xpsr_backbones, xpsr_upscalers, xpsr_metrics, "
        "xpsr_loss_terms",
    ),
    "forgets return": (
        plugin_with(xpsr_samplers=hookimpl(lambda: None)),
        "TypeError: xpsr_samplers returned None; it must return an iterable of ComponentSpec",
    ),
    "returns a number": (
        plugin_with(xpsr_samplers=hookimpl(lambda: 7)),
        "TypeError: xpsr_samplers returned 7; it must return an iterable of ComponentSpec",
    ),
    "returns names": (
        offering("restart"),
        "TypeError: xpsr_samplers returned a str, 'restart', where a ComponentSpec must be",
    ),
    "ends the process": (loading(raising(GeneratorExit("enough"))), "GeneratorExit: enough"),
    "has no message": (loading(raising(Unprintable())), "Unprintable: its message cannot be shown"),
    "no name": (
        offering(sampler("")),
        "ValueError: xpsr_samplers returned a ComponentSpec whose name is ''; it must be a word without ':'",
    ),
    **{
        f"the name {name!r}": (
            offering(sampler(name)),
            f"ValueError: xpsr_samplers returned a ComponentSpec whose name is {name!r}; it must be a word without ':'",
        )
        for name in ("two words", " padded ", "two\nlines", "\x1b[31mred", "\ud800")
    },
    "bad target": (
        offering(sampler("stub", "module.Class")),
        "ValueError: xpsr_samplers returned the ComponentSpec 'stub' whose target is 'module.Class'; "
        "it must be 'package.module:Class'",
    ),
    "no summary": (
        offering(ComponentSpec("stub", f"{HERE}:Stub", None)),  # type: ignore[arg-type]
        "TypeError: xpsr_samplers returned the ComponentSpec 'stub' whose summary is None; it must be a line of text",
    ),
    "bad defaults": (
        offering(ComponentSpec("stub", f"{HERE}:Stub", "A stub.", [1])),  # type: ignore[arg-type]
        "TypeError: xpsr_samplers returned the ComponentSpec 'stub' whose defaults are [1]; "
        "they must be a mapping of options",
    ),
    "numbered defaults": (
        offering(ComponentSpec("stub", f"{HERE}:Stub", "A stub.", {1: 2})),  # type: ignore[dict-item]
        "TypeError: xpsr_samplers returned the ComponentSpec 'stub' whose defaults are {1: 2}; "
        "they must be a mapping of options",
    ),
    "unprintable defaults": (
        offering(sampler("stub", steps=Unprintable())),
        "TypeError: xpsr_samplers returned the ComponentSpec 'stub' whose defaults are <dict>; "
        "they must be values that JSON can hold",
    ),
    "two lines of summary": (
        offering(ComponentSpec("stub", f"{HERE}:Stub", "One.\nTwo.")),
        "TypeError: xpsr_samplers returned the ComponentSpec 'stub' whose summary is 'One.\\nTwo.'; "
        "it must be a line of text",
    ),
    "wrapper": (
        plugin_with(xpsr_samplers=hookimpl(wrapper=True)(wrapping)),
        "TypeError: xpsr_samplers is marked as a wrapper; a hook must return specs, and must not wrap another",
    ),
}


@pytest.mark.parametrize(("plugin", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_recorded_and_costs_the_others_nothing(
    plugin: Plugin, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = offering(sampler("good"), distribution="xpsr-good")
    registry = Registry([plugin, good])
    assert [(failure.distribution, failure.version, failure.reason) for failure in registry.failures] == [
        ("xpsr-test", "1.2", reason)
    ]
    assert caplog.messages == [f"The plug-in xpsr-test 1.2 is broken: {reason}"]
    assert reason.partition(":")[0] in registry.failures[0].traceback
    assert registry.create("sampler", "good").config.steps == 3
    assert registry.find("sampler", "unipc").state == "ok"
    with pytest.raises(BrokenPlugin, match=re.escape(f"The plug-in xpsr-test 1.2 is broken: {reason}")) as caught:
        registry.create("sampler", "test-theirs")  # a name that the plug-in is likely to offer
    assert caught.value.__cause__ is registry.failures[0].error


def test_what_a_broken_plugin_did_list_is_shown_as_broken() -> None:
    registry = Registry([plugin_with(xpsr_samplers=hookimpl(generator_that_breaks))])
    (component,) = (component for component in registry.components("sampler") if component.spec.name == "first")
    assert (component.state, str(component.error)) == ("broken", "disk on fire")
    with pytest.raises(BrokenPlugin) as caught:
        registry.find("sampler", "first")
    assert str(caught.value) == (
        "The sampler 'first' of xpsr-test 1.2 cannot be used, because its plug-in is broken: OSError: disk on fire"
    )
    assert isinstance(caught.value.__cause__, OSError)


def test_a_plugin_that_wants_an_argument_which_the_hook_lacks_is_broken() -> None:
    registry = Registry([plugin_with(xpsr_samplers=hookimpl(needs_an_argument))])
    assert "Argument(s) {'registry'} are declared in the hookimpl" in registry.failures[0].reason


# The examples in the docs of the hooks


def blocks(hook: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", getattr(hookspecs, hook).__doc__.replace("\n    ", "\n"), re.DOTALL)


CHECKS: dict[str, Any] = {
    "prompt_provider": check_prompt_provider,
    "fusion_attention": partial(check_fusion_attention, identity_at_start=True),
    "degradation_model": check_degradation_model,
    "sampler": check_sampler,
    "upscaler": check_upscaler,
    "metric": check_metric,
    "loss_term": check_loss_term,
}  # the example of a backbone names a class of the SDK


@pytest.mark.parametrize(("kind", "hook"), KINDS.items())
def test_the_example_of_every_hook_keeps_its_contract(
    kind: str, hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in blocks(hook):
        file = tmp_path / block.partition("\n")[0].removeprefix("# ")
        file.write_text(block)
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    import my_plugin  # type: ignore[import-not-found]

    registry = Registry([my_plugin])
    assert registry.failures == []
    (component,) = (c for c in registry.components(kind) if c.distribution == "my_plugin")
    assert isinstance(registry.config(kind, component.spec.name), Options)
    if kind in CHECKS:
        CHECKS[kind](component.spec.name, registry)
