"""Plug-ins of installed distributions: found, limited, and isolated when damaged."""

from __future__ import annotations

import builtins
import pickle
import re
import sys
from pathlib import Path

import pytest

from tests.support.stubs import ONE_SAMPLER, distribute
from xpsr_sdk import BrokenPlugin, Registry, __version__
from xpsr_sdk.plugin_system.discovery import damaged_distributions, installed_plugins


@pytest.fixture(autouse=True)
def any_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XPSR_PLUGINS", raising=False)
    monkeypatch.delenv("XPSR_STRICT", raising=False)
    for module in [name for name in sys.modules if name.startswith("xpsr_") and not name.startswith("xpsr_sdk")]:
        monkeypatch.delitem(sys.modules, module)


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
    first_party = {folder.name for folder in (Path(__file__).parents[2] / "plugins").iterdir()}
    found = {plugin.distribution for plugin in installed_plugins()} - first_party
    assert found == expected
    assert Registry().find("sampler", "unipc").state == "ok"


@pytest.mark.usefixtures("site")
def test_a_worker_process_loads_the_same_installed_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPSR_PLUGINS", "xpsr-one,xpsr-two,xpsr-three")
    registry = Registry()
    told = pickle.dumps(registry)
    monkeypatch.setenv("XPSR_PLUGINS", "")
    again = pickle.loads(told)
    assert again.find("sampler", "one").distribution == "xpsr-one"
    assert list(map(str, again.failures)) == list(map(str, registry.failures))


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
        registry.find("sampler", "old")
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
    assert (
        "The plug-in (unnamed, xpsr_nameless-0.3.dist-info) (unknown) is broken: ZeroDivisionError: division by zero"
        in map(str, registry.failures)
    )
    assert registry.find("sampler", "one").distribution == "xpsr-good"


DAMAGED = {
    "no name": (
        b"[xpsr_sdk]\nxpsr_hurt\n",
        r"BrokenPlugin: Its entry_points\.txt cannot be read \(TypeError: .*\); install",
    ),
    "not UTF-8": (
        b"[xpsr_sdk]\nhurt = xpsr_hurt\xff\n",
        r"BrokenPlugin: Its entry_points\.txt cannot be read \(Unicode",
    ),
    "no module": (
        b"[xpsr_sdk]\nhurt = xpsr hurt!\n",
        r"BrokenPlugin: Its entry point must read 'name = package\.module'",
    ),
    "no attribute": (
        b"[xpsr_sdk]\nhurt = xpsr_hurt:gone\n",
        "AttributeError: module 'xpsr_hurt' has no attribute 'gone'",
    ),
}


@pytest.mark.parametrize(("entry_points", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_entry_points_cost_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry_points: bytes, reason: str
) -> None:
    distribute(tmp_path, "xpsr-hurt", "xpsr_hurt", body=ONE_SAMPLER)
    (tmp_path / "xpsr_hurt-0.3.dist-info" / "entry_points.txt").write_bytes(entry_points)
    distribute(tmp_path, "xpsr-good", "xpsr_good", body=ONE_SAMPLER)
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry()
    (failure,) = registry.failures
    assert re.match(f"The plug-in xpsr-hurt 0\\.3 is broken: {reason}", str(failure))
    assert registry.find("sampler", "one").distribution == "xpsr-good"


def test_damaged_metadata_are_told_with_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribute(tmp_path, "xpsr-hurt", "xpsr_hurt", body=ONE_SAMPLER)
    (tmp_path / "xpsr_hurt-0.3.dist-info" / "METADATA").write_bytes(b"Name: \xff\n")
    monkeypatch.syspath_prepend(tmp_path)
    (failure,) = Registry().failures
    assert str(failure).startswith(
        "The plug-in (unnamed, xpsr_hurt-0.3.dist-info) (unknown) is broken: "
        "BrokenPlugin: Its METADATA cannot be read (UnicodeDecodeError: "
    )


@pytest.mark.parametrize("entry_points", [b"[console_scripts]\nno name\n", b"\xff\xfe"])
def test_a_damaged_distribution_without_a_plugin_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry_points: bytes
) -> None:
    distribute(tmp_path, "other", "other")
    (tmp_path / "other-0.3.dist-info" / "entry_points.txt").write_bytes(entry_points)
    monkeypatch.syspath_prepend(tmp_path)
    assert Registry().failures == []
    assert damaged_distributions() == ["other"]


def test_a_module_that_two_entry_points_name_is_one_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribute(tmp_path, "xpsr-one", "xpsr_one", body=ONE_SAMPLER)
    (tmp_path / "xpsr_one-0.3.dist-info" / "entry_points.txt").write_text("[xpsr_sdk]\na = xpsr_one\nb = xpsr_one\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Registry().find("sampler", "one").state == "ok"


def test_of_two_installations_the_first_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, version in (("old", "0.3"), ("new", "0.4")):
        (tmp_path / folder).mkdir()
        distribute(tmp_path / folder, "xpsr-one", "xpsr_one", body=ONE_SAMPLER, version=version)
        monkeypatch.syspath_prepend(tmp_path / folder)
    assert Registry().find("sampler", "one").version == "0.4"


def test_a_plugin_is_gone_with_the_version_that_had_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, version in (("old", "0.3"), ("new", "0.4")):
        (tmp_path / folder).mkdir()
        distribute(tmp_path / folder, "Xpsr.One", "xpsr_one", body=ONE_SAMPLER, version=version)
        monkeypatch.syspath_prepend(tmp_path / folder)
    (tmp_path / "new" / "Xpsr.One-0.3.dist-info" / "entry_points.txt").unlink()
    assert "Xpsr.One" not in [plugin.distribution for plugin in installed_plugins()]


LISTS_PLUGINS = {
    "at import": "from xpsr_sdk import Registry\nRegistry()\n" + ONE_SAMPLER,
    "in a hook": ONE_SAMPLER.replace("    return", "    from xpsr_sdk import Registry\n    Registry()\n    return"),
}


@pytest.mark.parametrize("body", LISTS_PLUGINS.values(), ids=LISTS_PLUGINS)
def test_a_plugin_that_lists_plugins_while_it_loads_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    distribute(tmp_path, "xpsr-curious", "xpsr_curious", body=body)
    distribute(tmp_path, "xpsr-one", "xpsr_one", body=ONE_SAMPLER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "xpsr_curious", raising=False)
    registry = Registry()
    assert [str(failure) for failure in registry.failures] == [
        "The plug-in xpsr-curious 0.3 is broken: PluginError: The installed plug-ins cannot be listed while one of "
        "them is loaded; call default_registry() when a part is built, not when its plug-in is imported."
    ]
    assert registry.find("sampler", "one").distribution == "xpsr-one"
