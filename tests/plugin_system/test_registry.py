"""Plug-ins turned into components: found by name, configured, built."""

from __future__ import annotations

import re
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError, field_validator

from tests.support.stubs import HERE, Stub, loading, offering, raising, sampler
from xpsr_sdk import (
    BrokenPlugin,
    ConfigError,
    DuplicateComponent,
    Options,
    Registry,
    UnknownComponent,
    hookimpl,
)
from xpsr_sdk.builtin import CAPTIONERS
from xpsr_sdk.contracts import KINDS
from xpsr_sdk.plugin_system.registry import config_error, default_registry


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XPSR_STRICT", raising=False)


# Finding and building


def test_the_built_in_components(registry: Registry) -> None:
    names = {kind: [component.spec.name for component in registry.specs(kind)] for kind in KINDS}
    assert names == {
        "prompt_provider": sorted(
            ["ensemble", "fixed", "measured", "openai", "sidecar", "stored", "transformers", *CAPTIONERS]
        ),
        "fusion_attention": ["xpsr"],
        "degradation_model": ["bicubic", "realesrgan"],
        "sampler": ["ddim", "dpmpp-2m", "euler", "unipc"],
        "backbone": ["residual", "stable-diffusion"],
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, component.spec.name) for kind in KINDS for component in Registry([]).specs(kind)],
)
def test_every_built_in_component_can_be_had_with_described_options(registry: Registry, kind: str, name: str) -> None:
    fields = registry.resolve(kind, name).Config.model_fields
    required = {option: "anything" for option, field in fields.items() if field.is_required()}
    config = registry.config(kind, {"name": name, **required})
    assert [option for option, field in type(config).model_fields.items() if not field.description] == []


def test_create_accepts_a_name_a_mapping_an_object_and_none() -> None:
    registry = Registry([offering(sampler("stub"), sampler("quick", steps=1, mode="fast"))])
    assert registry.create("sampler", "stub").config == Stub.Config()
    assert registry.create("sampler", {"name": "stub", "steps": 5}).config.steps == 5
    assert registry.create("sampler", "quick").config == Stub.Config(steps=1, mode="fast")
    assert registry.create("sampler", {"name": "quick", "steps": 2}).config == Stub.Config(steps=2, mode="fast")
    assert registry.create("sampler", None, default="quick").config.steps == 1
    assert registry.create("sampler", "stub", "site").args == ("site",)
    own = Stub(Stub.Config())
    assert registry.create("sampler", own) is own


def test_a_preset_keeps_the_options_in_a_group_that_are_not_given(registry: Registry) -> None:
    config = registry.config("sampler", {"name": "unipc", "options": {"solver_order": 3}})
    assert config.model_dump()["options"] == {"final_sigmas_type": "sigma_min", "solver_order": 3}
    config = registry.config("sampler", {"name": "unipc", "options": {"final_sigmas_type": "zero"}})
    assert config.model_dump()["options"] == {"final_sigmas_type": "zero"}


@given(steps=st.integers(-5, 15))
def test_options_are_checked_whatever_they_are(steps: int) -> None:
    registry = Registry([offering(sampler("stub"))])
    if 1 <= steps <= 9:
        assert registry.config("sampler", {"name": "stub", "steps": steps}) == Stub.Config(steps=steps)
    else:
        with pytest.raises(ConfigError, match=re.escape(f", not {steps}.")):
            registry.config("sampler", {"name": "stub", "steps": steps})


def test_what_an_option_s_own_check_says_is_told(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"\n  \S+: at least one weight must be above 0, not .*0, 0"):
        registry.config("degradation_model", {"name": "realesrgan", "first": {"resize_weights": [0, 0, 0]}})


@pytest.mark.parametrize("size", [-2, 3])
def test_what_a_validator_says_comes_without_pydantic_s_words(size: int) -> None:
    class Sized(Options):
        size: int

        @field_validator("size")
        @classmethod
        def check(cls, size: int) -> int:
            if size < 0:
                raise ValueError("it must be even and positive")
            if size % 2:
                raise AssertionError("it must be even and positive")  # as a plain assert does
            return size

    with pytest.raises(ValidationError) as caught:
        Sized(size=size)
    told = str(config_error("The file a.toml", caught.value, Sized))
    assert told == f"The file a.toml has wrong options:\n  size: it must be even and positive, not {size}."


@given(st.permutations(["a", "b", "c"]))
def test_the_order_of_plugins_has_no_meaning(order: list[str]) -> None:
    plugins = [offering(sampler(name), distribution=f"xpsr-{name}") for name in order]
    expected = ["a", "b", "c", "ddim", "dpmpp-2m", "euler", "unipc"]
    assert [component.spec.name for component in Registry(plugins).specs("sampler")] == expected


def test_a_module_is_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_plugin")
    module.xpsr_samplers = hookimpl(lambda: [sampler("mine")])  # type: ignore[attr-defined]
    assert Registry([module]).find("sampler", "mine").distribution == "my_plugin"


def test_a_target_is_imported_only_when_it_is_chosen() -> None:
    registry = Registry([offering(sampler("far", "no_such_module:Class"))])
    assert registry.find("sampler", "far").state == "ok"
    with pytest.raises(BrokenPlugin) as caught:
        registry.resolve("sampler", "far")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


# Wrong choices


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("kind", "choice", "error", "message"),
    [
        (
            "sampler",
            "stubb",
            UnknownComponent,
            "No plug-in offers the sampler 'stubb'. Did you mean 'stub'? "
            "Known: ddim, dpmpp-2m, euler, half, moody, picky, stub, unipc.",
        ),
        (
            "samplers",
            "stub",
            ConfigError,
            "There is no kind of component 'samplers'. Did you mean 'sampler'? "
            "Known: backbone, degradation_model, fusion_attention, prompt_provider, sampler.",
        ),
        (
            "sampler",
            None,
            ConfigError,
            "No sampler is chosen. Known: ddim, dpmpp-2m, euler, half, moody, picky, stub, unipc.",
        ),
        (
            "sampler",
            {"steps": 2},
            ConfigError,
            'The sampler {\'steps\': 2} has no name; write "name" or {"name": "...", ...}.',
        ),
        (
            "sampler",
            5,
            ConfigError,
            "The sampler that was handed over, 5, lacks sample; xpsr_sdk.Sampler says what it must have.",
        ),
        (
            "prompt_provider",
            5,
            ConfigError,
            "The prompt provider that was handed over, 5, lacks describe, unload; "
            "xpsr_sdk.PromptProvider says what it must have.",
        ),
        (
            "sampler",
            int,
            ConfigError,
            "The sampler that was handed over, <class 'int'>, is a class; hand over a name or an instance.",
        ),
        (
            "sampler",
            {"name": "stub", "steps": 0, "mode": "best", "stepz": 4},
            ConfigError,
            "The sampler 'stub' of xpsr-test 1.2 has wrong options:\n"
            "  steps: Input should be greater than or equal to 1, not 0.\n"
            "  mode: Input should be 'fast' or 'good', not 'best'.\n"
            "  stepz: there is no such option. Did you mean 'steps'? Known: mode, steps.",
        ),
        (
            "sampler",
            {"name": "stub", "steps": 9},
            BrokenPlugin,
            "The sampler 'stub' of xpsr-test 1.2 cannot be built: ZeroDivisionError: nine is too many",
        ),
        (
            "sampler",
            {"name": "stub", "steps": 8},
            BrokenPlugin,
            "The sampler 'stub' of xpsr-test 1.2 cannot be built: SystemExit: eight ends it",
        ),
        (
            "sampler",
            "moody",
            BrokenPlugin,
            "The sampler 'moody' of xpsr-test 1.2 cannot be built: OSError: not today",
        ),
        (
            "sampler",
            "picky",
            BrokenPlugin,
            "The sampler 'picky' of xpsr-test 1.2 cannot be given options: KeyError: 'luck'",
        ),
        (
            "sampler",
            Unprintable(),
            ConfigError,
            "The sampler that was handed over, <Unprintable>, lacks sample; xpsr_sdk.Sampler says what it must have.",
        ),
        (
            "sampler",
            "half",
            BrokenPlugin,
            "The sampler 'half' of xpsr-test 1.2 lacks sample; xpsr_sdk.Sampler says what it must have.",
        ),
    ],
)
def test_a_wrong_choice_is_explained(kind: str, choice: object, error: type[Exception], message: str) -> None:
    parts = [sampler(part.lower(), f"{HERE}:{part}") for part in ("Stub", "Moody", "Picky")]
    registry = Registry([offering(*parts, sampler("half", f"{HERE}:Incomplete"))])
    with pytest.raises(error) as caught:
        registry.create(kind, choice)
    assert str(caught.value) == message


# Broken components


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module:Class", "ModuleNotFoundError: No module named 'no_such_module'"),
        (f"{HERE}:Stubb", f"AttributeError: module '{HERE}' has no attribute 'Stubb'"),
        (f"{HERE}:NOT_A_CLASS", f"TypeError: {HERE}:NOT_A_CLASS is 3; it must be a class"),
        (f"{HERE}:NoConfig", f"TypeError: {HERE}:NoConfig has no class Config derived from xpsr_sdk.Options"),
    ],
)
def test_a_target_that_cannot_be_imported(target: str, reason: str) -> None:
    registry = Registry([offering(sampler("stub", target))])
    with pytest.raises(BrokenPlugin) as caught:
        registry.create("sampler", "stub")
    assert str(caught.value) == f"The sampler 'stub' of xpsr-test 1.2 cannot be imported: {reason}"


def test_strict_turns_failures_into_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPSR_STRICT", "1")
    Registry([offering(sampler("stub"))])
    with pytest.raises(BrokenPlugin, match=r"The plug-in xpsr-test 1\.2 is broken: ValueError: oh") as caught:
        Registry([loading(raising(ValueError("oh")))])
    assert isinstance(caught.value.__cause__, ValueError)


def test_strict_turns_duplicates_into_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPSR_STRICT", "1")
    with pytest.raises(DuplicateComponent) as caught:
        Registry([offering(sampler("stub")), offering(sampler("stub"), distribution="xpsr-other")])
    assert str(caught.value) == (
        f"The sampler 'stub' is offered by xpsr-test 1.2 ({HERE}:Stub) and xpsr-other 1.2 ({HERE}:Stub); "
        "uninstall one, or list those to load in XPSR_PLUGINS."
    )


# Duplicates


def test_a_duplicate_is_listed_and_an_error_when_it_is_asked_for() -> None:
    plugins = [offering(sampler("stub"), distribution=f"xpsr-{name}") for name in "ab"]
    registry = Registry(plugins)
    states = {(c.distribution, c.state) for c in registry.specs("sampler") if c.spec.name == "stub"}
    assert states == {("xpsr-a", "duplicate"), ("xpsr-b", "duplicate")}
    with pytest.raises(DuplicateComponent) as caught:
        registry.create("sampler", "stub")
    assert str(caught.value) == (
        f"The sampler 'stub' is offered by xpsr-a 1.2 ({HERE}:Stub) and xpsr-b 1.2 ({HERE}:Stub); "
        "uninstall one, or list those to load in XPSR_PLUGINS."
    )
    assert registry.failures == []


def test_a_plugin_that_offers_a_name_twice_is_told_of_as_such() -> None:
    registry = Registry([offering(sampler("stub"), sampler("stub", f"{HERE}:Other"))])
    with pytest.raises(DuplicateComponent) as caught:
        registry.create("sampler", "stub")
    assert str(caught.value) == (
        f"The sampler 'stub' is offered more than once by xpsr-test 1.2 ({HERE}:Stub and {HERE}:Other); "
        "its names must differ: tell its author."
    )


def test_a_built_in_name_cannot_be_taken() -> None:
    registry = Registry([offering(sampler("unipc"))])
    with pytest.raises(DuplicateComponent, match=r"xpsr-sdk .* and xpsr-test 1\.2"):
        registry.find("sampler", "unipc")
    assert registry.find("sampler", "ddim").state == "ok"


def test_the_default_registry_is_made_once() -> None:
    assert default_registry() is default_registry()
