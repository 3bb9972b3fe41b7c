"""Plug-ins: found, isolated when broken, and turned into components."""

from __future__ import annotations

import builtins
import re
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from xpsr_sdk import (
    BrokenPlugin,
    ComponentSpec,
    ConfigError,
    DuplicateComponent,
    Options,
    Registry,
    UnknownComponent,
    __version__,
    hookimpl,
    hookspecs,
)
from xpsr_sdk.builtin import CAPTIONERS
from xpsr_sdk.contracts import KINDS
from xpsr_sdk.registry import Plugin, default_registry, installed_plugins
from xpsr_sdk.testing import check_degradation_model, check_fusion_attention, check_prompt_provider, check_sampler


class Stub:
    """A sampler that keeps what it was built from."""

    class Config(Options):
        steps: int = Field(3, ge=1, le=9, description="How many.")
        mode: Literal["fast", "good"] = "good"

    def __init__(self, config: Config, *args: object) -> None:
        if config.steps == 9:
            raise ZeroDivisionError("nine is too many")
        self.config, self.args = config, args

    def sample(self, *args: Any, **kwargs: Any) -> None: ...


class Incomplete:
    """No sampler: it can be built, but has no ``sample``."""

    Config = Stub.Config

    def __init__(self, config: Stub.Config) -> None:
        pass


class NoConfig:
    pass


NOT_A_CLASS = 3
HERE = __name__


def sampler(name: str, target: str = f"{HERE}:Stub", **defaults: Any) -> ComponentSpec:
    return ComponentSpec(name, target, "A stub.", defaults)


def offering(*specs: object, distribution: str = "xpsr-test", version: str = "1.2") -> Plugin:
    """A plug-in that offers samplers."""
    module = types.SimpleNamespace(xpsr_samplers=hookimpl(lambda: iter(specs)))
    return loading(lambda: module, distribution, version)


def loading(load: Any, distribution: str = "xpsr-test", version: str = "1.2") -> Plugin:
    return Plugin(distribution, version, load)


def plugin_with(**functions: Any) -> Plugin:
    return loading(lambda: types.SimpleNamespace(**functions))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets in this file can be imported, whatever pytest imported it as."""
    module = types.ModuleType(HERE)
    module.__dict__.update(globals())
    monkeypatch.setitem(sys.modules, HERE, module)
    monkeypatch.delenv("XPSR_PLUGINS", raising=False)
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


@pytest.mark.parametrize(
    ("kind", "choice", "error", "message"),
    [
        (
            "sampler",
            "stubb",
            UnknownComponent,
            "No plug-in offers the sampler 'stubb'. Did you mean 'stub'? "
            "Known: ddim, dpmpp-2m, euler, half, stub, unipc.",
        ),
        (
            "samplers",
            "stub",
            ConfigError,
            "There is no kind of component 'samplers'. Did you mean 'sampler'? "
            "Known: backbone, degradation_model, fusion_attention, prompt_provider, sampler.",
        ),
        ("sampler", None, ConfigError, "No sampler is chosen. Known: ddim, dpmpp-2m, euler, half, stub, unipc."),
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
            "half",
            BrokenPlugin,
            "The sampler 'half' of xpsr-test 1.2 lacks sample; xpsr_sdk.Sampler says what it must have.",
        ),
    ],
)
def test_a_wrong_choice_is_explained(kind: str, choice: object, error: type[Exception], message: str) -> None:
    registry = Registry([offering(sampler("stub"), sampler("half", f"{HERE}:Incomplete"))])
    with pytest.raises(error) as caught:
        registry.create(kind, choice)
    assert str(caught.value) == message


# Broken plug-ins


def raising(error: BaseException) -> Any:
    def load() -> object:
        raise error

    return load


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError


def generator_that_breaks() -> Any:
    yield sampler("first")
    raise OSError("disk on fire")


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
        "xpsr_degradation_models, xpsr_fusion_attentions, xpsr_prompt_providers, xpsr_samplers.",
    ),
    "misspelt prefix": (
        plugin_with(samplers=hookimpl(lambda: [])),
        "NameError: There is no hook 'samplers'. Did you mean 'xpsr_samplers'? Known: xpsr_backbones, "
        "xpsr_degradation_models, xpsr_fusion_attentions, xpsr_prompt_providers, xpsr_samplers.",
    ),
    "unmarked hook": (
        plugin_with(xpsr_samplers=lambda: []),
        "TypeError: The function 'xpsr_samplers' is not a hook implementation: it must be marked @xpsr_sdk.hookimpl",
    ),
    "no hook": (
        plugin_with(),
        "TypeError: namespace() implements no hook; the hooks are xpsr_prompt_providers, "
        "xpsr_fusion_attentions, xpsr_degradation_models, xpsr_samplers, xpsr_backbones",
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
    "has no message": (loading(raising(Unprintable())), "Unprintable: its message cannot be had"),
    "no name": (
        offering(sampler("")),
        "ValueError: xpsr_samplers returned a ComponentSpec whose name is ''; it must be a word",
    ),
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
        registry.create("sampler", "theirs")
    assert caught.value.__cause__ is registry.failures[0].error


def test_what_a_broken_plugin_did_list_is_shown_as_broken() -> None:
    registry = Registry([plugin_with(xpsr_samplers=hookimpl(generator_that_breaks))])
    (component,) = (component for component in registry.specs("sampler") if component.spec.name == "first")
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


def test_a_built_in_name_cannot_be_taken() -> None:
    registry = Registry([offering(sampler("unipc"))])
    with pytest.raises(DuplicateComponent, match=r"xpsr-sdk .* and xpsr-test 1\.2"):
        registry.find("sampler", "unipc")
    assert registry.find("sampler", "ddim").state == "ok"


# Installed distributions

ONE_SAMPLER = (
    "from xpsr_sdk import ComponentSpec, hookimpl\n\n@hookimpl\ndef xpsr_samplers():\n"
    "    return [ComponentSpec('one', 'xpsr_one:One', 'One.')]\n"
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the distributions ``xpsr-one`` (works) and ``Xpsr.Two`` (fails to import)."""
    distribute(tmp_path, "xpsr-one", "xpsr_one", body=ONE_SAMPLER)
    distribute(tmp_path, "Xpsr.Two", "xpsr_two", body="import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, {"xpsr-one", "Xpsr.Two"}),
        ("", set()),
        ("XPSR_one", {"xpsr-one"}),
        ("xpsr-two, xpsr.one,", {"xpsr-one", "Xpsr.Two"}),
        ("xpsr-three", {"xpsr-three"}),
    ],
)
def test_the_environment_limits_what_loads(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: set[str]
) -> None:
    if limit is not None:
        monkeypatch.setenv("XPSR_PLUGINS", limit)
    first_party = {folder.name for folder in (Path(__file__).parents[1] / "plugins").iterdir()}
    found = {plugin.distribution for plugin in installed_plugins()} - first_party
    assert found == expected
    assert Registry().find("sampler", "unipc").state == "ok"


@pytest.mark.usefixtures("site")
def test_installed_plugins_are_named_by_distribution_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPSR_PLUGINS", "xpsr-one,xpsr-two,xpsr-onne")
    registry = Registry()
    assert registry.find("sampler", "one").distribution == "xpsr-one"
    two, onne = map(str, registry.failures)
    assert two == "The plug-in Xpsr.Two 0.3 is broken: ModuleNotFoundError: No module named 'no_such_dependency'"
    assert onne.startswith(
        "The plug-in xpsr-onne (absent) is broken: ConfigError: "
        "XPSR_PLUGINS lists it, but it is not installed. Did you mean 'xpsr-one'? Known: "
    )


def distribute(folder: Path, name: str, module: str, requires: str = "", body: str = "", version: str = "0.3") -> None:
    """What pip would leave behind of a distribution with a plug-in."""
    (folder / f"{module}.py").write_text(body)
    info = folder / f"{(name or module).replace('-', '_')}-0.3.dist-info"
    info.mkdir()
    named = f"Name: {name}\nVersion: {version}\n" if name else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\n{named}{requires}")
    (info / "entry_points.txt").write_text(f"[xpsr_sdk]\n{module} = {module}\n")


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        (
            "Requires-Dist: xpsr-sdk>=0.0.1,<0.0.9\n",
            f"IncompatiblePlugin: It requires xpsr-sdk<0.0.9,>=0.0.1, but {__version__} is installed; "
            "install a version that fits: pip install --upgrade xpsr-sdk xpsr-old",
        ),
        ("Requires-Dist: Xpsr.SDK (>=999)\n", "IncompatiblePlugin: It requires xpsr-sdk>=999, but"),
        ("Requires-Dist: xpsr-sdk>=?\n", "InvalidRequirement: "),
        (f"Requires-Dist: xpsr-sdk<={__version__}\n", None),
        ('Requires-Dist: xpsr-sdk>=999; python_version < "3"\n', None),
        ("Requires-Dist: torch>=999\n", None),
        ("", None),
    ],
)
def test_a_plugin_for_another_version_of_the_sdk_is_not_even_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requires: str, reason: str | None
) -> None:
    body = "import builtins\nbuiltins.imported = True\n" + ONE_SAMPLER
    distribute(tmp_path, "xpsr-old", "xpsr_old", requires, body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XPSR_PLUGINS", "xpsr-old")
    monkeypatch.setattr("builtins.imported", False, raising=False)
    monkeypatch.delitem(sys.modules, "xpsr_old", raising=False)
    registry = Registry()
    assert builtins.imported is (reason is None)  # type: ignore[attr-defined]
    if reason is None:
        assert registry.find("sampler", "one").state == "ok"
        return
    (failure,) = registry.failures
    assert str(failure).replace("Xpsr.SDK", "xpsr-sdk").startswith(f"The plug-in xpsr-old 0.3 is broken: {reason}")
    with pytest.raises(BrokenPlugin, match=re.escape(str(failure))) as caught:
        registry.find("sampler", "one")
    assert caught.value.__cause__ is failure.error


NEEDS = "Requires-Dist: einops-of-tomorrow\nProvides-Extra: gpu\nRequires-Dist: kornia-of-tomorrow>=1; extra == 'gpu'\n"


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        ("einops_of_tomorrow", "; pip install 'einops-of-tomorrow' may help"),
        ("einops", "; pip install 'einops-of-tomorrow' may help"),
        ("kornia_of_tomorrow.filters", "; pip install 'xpsr-needy[gpu]' may help"),
        ("something_else", ""),
    ],
)
def test_what_to_install_is_named_where_the_metadata_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, hint: str
) -> None:
    distribute(tmp_path, "xpsr-needy", "xpsr_needy", NEEDS, f"import {module}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XPSR_PLUGINS", "xpsr-needy")
    missing = "einops_of_tomorrow" if module == "einops_of_tomorrow" else module.partition(".")[0]
    if module == "einops":  # which may be installed
        monkeypatch.setitem(sys.modules, "einops", None)
        problem = "import of einops halted; None in sys.modules"
    else:
        problem = f"No module named '{missing}'"
    (failure,) = Registry().failures
    assert str(failure) == f"The plug-in xpsr-needy 0.3 is broken: ModuleNotFoundError: {problem}{hint}"


def test_a_part_whose_dependency_is_missing_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribute(tmp_path, "xpsr-needy", "xpsr_needy_later", NEEDS, ONE_SAMPLER.replace("xpsr_one", "xpsr_part"))
    (tmp_path / "xpsr_part.py").write_text("import kornia_of_tomorrow\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XPSR_PLUGINS", "xpsr-needy")
    with pytest.raises(BrokenPlugin) as caught:
        Registry().create("sampler", "one")
    assert str(caught.value) == (
        "The sampler 'one' of xpsr-needy 0.3 cannot be imported: ModuleNotFoundError: No module named "
        "'kornia_of_tomorrow'; pip install 'xpsr-needy[gpu]' may help"
    )


def test_a_damaged_installation_costs_the_others_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribute(tmp_path, "", "xpsr_nameless", body="1 / 0\n")
    distribute(tmp_path, "xpsr-good", "xpsr_good", body=ONE_SAMPLER)
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry()
    assert "The plug-in (unnamed, xpsr_nameless) (unknown) is broken: ZeroDivisionError: division by zero" in map(
        str, registry.failures
    )
    assert registry.find("sampler", "one").distribution == "xpsr-good"


def test_the_default_registry_is_made_once() -> None:
    assert default_registry() is default_registry()


# The examples in the docs of the hooks


def blocks(hook: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", getattr(hookspecs, hook).__doc__.replace("\n    ", "\n"), re.DOTALL)


@pytest.mark.parametrize(("kind", "hook"), KINDS.items())
def test_the_example_of_every_hook_runs(kind: str, hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks(hook):
        (tmp_path / block.partition("\n")[0].removeprefix("# ")).write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("my_plugin", "my_fusion"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    import my_plugin  # type: ignore[import-not-found]

    registry = Registry([my_plugin])
    assert registry.failures == []
    (component,) = (c for c in registry.specs(kind) if c.distribution == "my_plugin")
    assert isinstance(registry.config(kind, component.spec.name), Options)
    checks: dict[str, Any] = {"prompt_provider": check_prompt_provider, "degradation_model": check_degradation_model}
    checks |= {"fusion_attention": partial(check_fusion_attention, identity_at_start=True), "sampler": check_sampler}
    if kind in checks:  # the other one names a class of the SDK
        checks[kind](component.spec.name, registry)
