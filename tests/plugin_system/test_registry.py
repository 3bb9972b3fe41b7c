"""Plug-ins turned into components: found by name, configured, built."""

from __future__ import annotations

import pickle
import re
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError, field_validator

from tests.support import one_degradation
from tests.support.registries import registry_with
from tests.support.stubs import HERE, Stub, loading, offering, raising, sampler
from xpsr_sdk import (
    BrokenPlugin,
    ConfigError,
    DuplicateComponent,
    Options,
    PluginError,
    Registry,
    UnknownComponent,
    hookimpl,
)
from xpsr_sdk.builtin import CAPTIONERS
from xpsr_sdk.contracts import KINDS
from xpsr_sdk.errors import config_error
from xpsr_sdk.plugin_system.discovery import Plugin
from xpsr_sdk.plugin_system.registry import default_registry
from xpsr_sdk.plugin_system.scope import create_part


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XPSR_STRICT", raising=False)


FEW_STEPS = ["hyper-sd", "lcm", "lightning", "one-step", "tcd", "turbo"]


# Finding and building


def test_the_built_in_components(registry: Registry) -> None:
    names = {kind: [component.spec.name for component in registry.components(kind)] for kind in KINDS}
    assert names == {
        "prompt_provider": sorted(
            ["ensemble", "fixed", "measured", "openai", "sidecar", "stored", "transformers", *CAPTIONERS]
        ),
        "fusion_attention": ["xpsr"],
        "degradation_model": ["bicubic", "camera", "realesrgan"],
        "sampler": ["ddim", "diffusers", "dpmpp-2m", "euler", *FEW_STEPS, "unipc"],
        "backbone": ["residual", "stable-diffusion", "stable-diffusion-xl"],
        "upscaler": ["bicubic", "realesrgan-x4plus", "spandrel"],
        "metric": ["niqe", "niqe-basicsr", "psnr", "ssim", "ssim-pyiqa"],
        "loss_term": ["constraint", "diffusion", "perceptual", "pixel", "score-distillation"],
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, component.spec.name) for kind in KINDS for component in Registry([]).components(kind)],
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
    expected = ["a", "b", "c", "ddim", "diffusers", "dpmpp-2m", "euler", *FEW_STEPS, "unipc"]
    assert [component.spec.name for component in Registry(plugins).components("sampler")] == expected


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


class Enlarging:
    scale, halo = 2.5, 0

    def upscale(self, image: object) -> object: ...

    def unload(self) -> None: ...

    def __repr__(self) -> str:
        return "<Enlarging>"


class Haloless(Enlarging):
    Config = Options
    scale, halo = 2, None  # type: ignore[assignment]

    def __init__(self, config: Options) -> None: ...


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError


def test_numbers_of_a_part_that_are_none_are_told_when_it_is_built() -> None:
    with pytest.raises(BrokenPlugin, match=r"The upscaler 'part' of xpsr-test .* has halo None: it must be a whole"):
        registry_with("upscaler", Haloless).create("upscaler", "part")


@pytest.mark.parametrize(
    ("kind", "choice", "error", "message"),
    [
        (
            "sampler",
            "stubb",
            UnknownComponent,
            "No plug-in offers the sampler 'stubb'. Did you mean 'stub'? "
            "Known: ddim, diffusers, dpmpp-2m, euler, half, hyper-sd, lcm, lightning, moody, one-step, picky, stub, "
            "tcd, turbo, unipc.",
        ),
        (
            "samplers",
            "stub",
            ConfigError,
            "There is no kind of component 'samplers'. Did you mean 'sampler'? "
            "Known: backbone, degradation_model, fusion_attention, loss_term, metric, prompt_provider, sampler, "
            "upscaler.",
        ),
        (
            "sampler",
            None,
            ConfigError,
            "No sampler is chosen. Known: ddim, diffusers, dpmpp-2m, euler, half, hyper-sd, lcm, lightning, moody, "
            "one-step, picky, stub, tcd, turbo, unipc.",
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
            "The sampler that was passed, 5, lacks sample; xpsr_sdk.Sampler says what it must have.",
        ),
        (
            "prompt_provider",
            5,
            ConfigError,
            "The prompt provider that was passed, 5, lacks describe, unload; "
            "xpsr_sdk.PromptProvider says what it must have.",
        ),
        (
            "sampler",
            int,
            ConfigError,
            "The sampler that was passed, <class 'int'>, is a class; pass a name or an instance.",
        ),
        (
            "sampler",
            {"name": "stub", "steps": 0, "mode": "best", "stepz": 4},
            ConfigError,
            "The sampler 'stub' of xpsr-test 1.2 has wrong options:\n"
            "  steps: must be at least 1, not 0.\n"
            "  mode: must be 'fast' or 'good', not 'best'.\n"
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
            "The sampler that was passed, <Unprintable>, lacks sample; xpsr_sdk.Sampler says what it must have.",
        ),
        (
            "upscaler",
            Enlarging(),
            ConfigError,
            "The upscaler that was passed, <Enlarging>, has scale 2.5: it must be a whole number of at least 1.",
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
        "choose one as 'xpsr-test:stub', uninstall one, or list those to load in XPSR_PLUGINS."
    )


# Duplicates


def test_a_duplicate_is_listed_and_an_error_when_it_is_asked_for() -> None:
    plugins = [offering(sampler("stub"), distribution=f"xpsr-{name}") for name in "ab"]
    registry = Registry(plugins)
    states = {(c.distribution, c.state) for c in registry.components("sampler") if c.spec.name == "stub"}
    assert states == {("xpsr-a", "duplicate"), ("xpsr-b", "duplicate")}
    with pytest.raises(DuplicateComponent) as caught:
        registry.create("sampler", "stub")
    assert str(caught.value) == (
        f"The sampler 'stub' is offered by xpsr-a 1.2 ({HERE}:Stub) and xpsr-b 1.2 ({HERE}:Stub); "
        "choose one as 'xpsr-a:stub', uninstall one, or list those to load in XPSR_PLUGINS."
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


def test_two_components_of_one_name_are_told_apart_by_their_distribution() -> None:
    registry = Registry([offering(sampler("stub", steps=n), distribution=f"Xpsr_{n}") for n in (1, 2)])
    assert registry.create("sampler", "xpsr-2:stub").config.steps == 2
    config = registry.config("sampler", {"name": "Xpsr_1:stub", "mode": "fast"})
    assert config == Stub.Config(steps=1, mode="fast")
    assert registry.find("sampler", "xpsr-sdk:ddim") == registry.find("sampler", "ddim")
    with pytest.raises(UnknownComponent, match=r"sampler 'xpsr-2:stubb'\. Did you mean 'Xpsr_2:stub'\?"):
        registry.find("sampler", "xpsr-2:stubb")


def test_a_plugin_that_takes_a_built_in_name_is_the_one_that_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(
        [offering(sampler("unipc"), sampler("mine")), offering(sampler("other"), distribution="xpsr-b")]
    )
    assert registry.find("sampler", "unipc").distribution == "xpsr-sdk"
    assert registry.find("sampler", "unipc").state == "ok"
    told = (
        "The sampler 'unipc' of xpsr-test 1.2 has a name that is reserved for a built-in part; choose it as "
        "'xpsr-test:unipc', and tell its author."
    )
    assert [(failure.distribution, str(failure.error)) for failure in registry.failures] == [("xpsr-test", told)]
    taken = next(c for c in registry.components("sampler") if c.full_name == "xpsr-test:unipc")
    assert (taken.state, str(taken.error)) == ("duplicate", told)
    assert type(registry.create("sampler", "xpsr-test:unipc")) is Stub
    assert type(registry.create("sampler", "mine")) is Stub
    assert type(registry.create("sampler", "other")) is Stub
    assert caplog.messages == []


def test_strict_turns_reserved_names_into_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPSR_STRICT", "1")
    with pytest.raises(DuplicateComponent, match="a name that is reserved for a built-in part"):
        Registry([offering(sampler("unipc"))])


# Names that are not there, beside plug-ins that are broken

NO_TORCH = raising(ImportError("no torch"))


def test_a_misspelt_name_is_unknown_whatever_else_is_broken() -> None:
    registry = Registry([loading(NO_TORCH, "xpsr-film-grain")])
    with pytest.raises(UnknownComponent) as caught:
        registry.find("sampler", "unipcc")
    assert str(caught.value) == (
        "No plug-in offers the sampler 'unipcc'. Did you mean 'unipc'? Known: ddim, diffusers, dpmpp-2m, euler, "
        "hyper-sd, lcm, lightning, one-step, tcd, turbo, unipc. "
        "Note: The plug-in xpsr-film-grain 1.2 is broken: ImportError: no torch"
    )


@pytest.mark.parametrize(
    ("distribution", "entry_point", "name", "likely"),
    [
        ("xpsr-film-grain", "", "film-grain", True),
        ("xpsr-film-grain", "", "grain-2", True),
        ("xpsr-film-grain", "", "xpsr-film-grain:noise", True),
        ("xpsr-film-grain", "", "xpsr-plugin", False),
        ("acme-parts", "night = acme.parts", "night", True),
        ("acme-parts", "", "night", False),
        ("acme-parts", "night = acme.parts", "xpsr-film-grain:night", False),
    ],
)
def test_a_name_that_a_broken_plugin_is_likely_to_offer(
    distribution: str, entry_point: str, name: str, likely: bool
) -> None:
    registry = Registry([Plugin(distribution, "1.2", NO_TORCH, entry_point)])
    with pytest.raises(
        BrokenPlugin if likely else UnknownComponent, match=f"{distribution} 1.2 is broken: ImportError"
    ):
        registry.find("sampler", name)


# Wrong defaults of a ComponentSpec

TYPO = (
    "The sampler 'typo' of xpsr-test 1.2 cannot be used, because its plug-in is broken: ConfigError: The defaults of "
    "its ComponentSpec are wrong: stepz: there is no such option. Did you mean 'steps'? Known: mode, steps."
)


def test_wrong_defaults_are_listed_where_the_class_is_loaded_already() -> None:
    registry = Registry([offering(sampler("typo", stepz=4), sampler("right", steps=4))])
    states = {c.spec.name: c.state for c in registry.components("sampler") if c.distribution == "xpsr-test"}
    assert states == {"typo": "broken", "right": "ok"}
    with pytest.raises(BrokenPlugin) as caught:
        registry.create("sampler", "typo")
    assert str(caught.value) == TYPO


def test_wrong_defaults_of_a_class_that_is_not_loaded_are_told_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_part.py").write_text("from tests.support.stubs import Stub\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry([offering(sampler("typo", "heavy_part:Stub", stepz=4))])
    assert "heavy_part" not in sys.modules
    assert registry.find("sampler", "typo").state == "ok"
    for ask in (registry.resolve, registry.config, registry.create):
        with pytest.raises(BrokenPlugin) as caught:
            ask("sampler", "typo")
        assert str(caught.value) == TYPO
    monkeypatch.delitem(sys.modules, "heavy_part")


def test_misspelt_defaults_are_listed_though_the_class_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_typo.py").write_text(
        "import xpsr_sdk\nraise SystemExit('it is not to be imported')\n"
        "class Part:\n    class Config(xpsr_sdk.Options):\n        steps: int = 3\n"
        "class Other:\n    class Config(Part.Config):\n        mode: int = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    specs = [sampler(name, f"heavy_typo:{part}", **{option: 4}) for name, part, option in (
        ("typo", "Part", "stepz"), ("right", "Part", "steps"), ("who-knows", "Other", "steps"))]  # fmt: skip
    found = {c.spec.name: c for c in Registry([offering(*specs)]).components("sampler")}
    assert [found[name].state for name in ("typo", "right", "who-knows")] == ["broken", "ok", "ok"]
    assert found["typo"].reason == (
        "ConfigError: The defaults of its ComponentSpec are wrong: stepz: there is no such option. Did you mean "
        "'steps'? Known: steps."
    )


def test_an_option_that_defaults_leave_to_be_given_is_no_mistake() -> None:
    registry = Registry([offering(sampler("needy", f"{HERE}:Needy", steps=4))])
    assert registry.config("sampler", {"name": "needy", "must": 1}).model_dump() == {
        "steps": 4,
        "mode": "good",
        "must": 1,
    }
    with pytest.raises(ConfigError, match="must: is required"):
        registry.config("sampler", "needy")


def test_strict_turns_wrong_defaults_into_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPSR_STRICT", "1")
    with pytest.raises(BrokenPlugin, match=r"The sampler 'typo' of xpsr-test 1\.2 cannot be used"):
        Registry([offering(sampler("typo", stepz=4))])


# The registry in force


def test_a_part_gets_the_parts_that_it_needs_from_the_registry_that_builds_it() -> None:
    registry = Registry([offering(sampler("inner", steps=5), sampler("outer", f"{HERE}:Outer"))])
    assert registry.create("sampler", "outer").inner.config.steps == 5
    with pytest.raises(PluginError, match="No registry is in force where the sampler 'inner' is looked up"):
        create_part("sampler", "inner")
    with registry.in_force(), Registry([]).in_force(), pytest.raises(UnknownComponent):
        create_part("sampler", "inner")


def test_a_worker_process_makes_a_registry_of_the_same_plugins() -> None:
    registry = Registry([one_degradation])
    again = pickle.loads(pickle.dumps(registry))
    assert again.find("degradation_model", "one").distribution == "tests.support.one_degradation"
    for kind in KINDS:
        assert list(map(str, again.components(kind))) == list(map(str, registry.components(kind)))


def test_a_worker_process_cannot_be_told_of_an_object_in_memory() -> None:
    told = "A worker process cannot import the plug-in xpsr-test, which is an object in memory: pass its module"
    with pytest.raises(PluginError, match=told):
        pickle.dumps(Registry([offering(sampler("stub"))]))


def test_the_default_registry_is_made_once() -> None:
    assert default_registry() is default_registry()
