"""Distributions that break a clause each are caught."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from xpsr_sdk.testing import ContractViolation, check_distribution
from xpsr_sdk.testing.clauses import CLAUSES

PINNED = "Requires-Dist: xpsr-sdk>=0.1,<1\n"
HOOK = """
from xpsr_sdk import ComponentSpec, hookimpl

@hookimpl
def xpsr_samplers():
    return [ComponentSpec({name!r}, {target!r}, "A part.")]
"""
GOOD = HOOK.format(name="of-test", target="xpsr_sdk.builtin.samplers:DiffusersSampler")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, for fresh interpreters, too."""
    monkeypatch.syspath_prepend(tmp_path)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.delenv("XPSR_PLUGINS", raising=False)
    monkeypatch.delitem(sys.modules, "kit_plugin", raising=False)
    return tmp_path


def distribute(site: Path, body: str = GOOD, requires: str = PINNED, group: str = "xpsr_sdk") -> None:
    (site / "kit_plugin.py").write_text(body)
    info = site / "kit_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: Kit_Plugin\nVersion: 1.0\n{requires}")
    (info / "entry_points.txt").write_text(f"[{group}]\nkit = kit_plugin\n")
    importlib.invalidate_caches()


def test_a_good_one_passes(site: Path) -> None:
    distribute(site)
    check_distribution("kit-plugin")


@pytest.mark.parametrize(
    ("clause", "changes", "problem"),
    [
        ("installed", {"group": "console_scripts"}, "it has no entry point in the group xpsr_sdk"),
        ("requirements", {"requires": ""}, "it does not require xpsr-sdk"),
        ("requirements", {"requires": "Requires-Dist: xpsr-sdk\n"}, "it requires xpsr-sdk, without an upper bound"),
        (
            "requirements",
            {"requires": "Requires-Dist: xpsr-sdk>=0.1\n"},
            "it requires xpsr-sdk>=0.1, without an upper bound",
        ),
        ("requirements", {"requires": "Requires-Dist: xpsr-sdk<9\n"}, "it requires xpsr-sdk<9, without a lower bound"),
        ("requirements", {"requires": "Requires-Dist: xpsr-sdk>=99,<100\n"}, "it requires xpsr-sdk<100,>=99, and "),
        ("loading", {"body": "import no_such_module\n"}, "The plug-in Kit_Plugin 1.0 is broken: ModuleNotFoundError"),
        ("loading", {"body": "import os\nos._exit(3)\n"}, "a fresh interpreter ended with exit code 3"),
        ("cheap listing", {"body": f"import numpy\n{GOOD}"}, "listing its components imported numpy"),
        ("components", {"body": GOOD.replace("[C", "[] and [C")}, "it offers no component"),
        (
            "components",
            {"body": HOOK.format(name="of-test", target="no_such_module:Part")},
            "it raised ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("names", {"body": GOOD.replace("of-test", "ddim")}, "has a name that is reserved for a built-in part"),
    ],
)
def test_a_broken_one_is_caught(site: Path, clause: str, changes: dict[str, str], problem: str) -> None:
    distribute(site, **changes)
    with pytest.raises(ContractViolation) as caught:
        check_distribution("kit-plugin")
    assert caught.value.clause == clause, str(caught.value)
    assert problem in caught.value.problem
    assert str(caught.value).startswith("The distribution kit-plugin breaks the clause ")


def test_one_that_is_not_installed_is_caught() -> None:
    with pytest.raises(ContractViolation, match="it is not installed"):
        check_distribution("xpsr-nowhere")


def test_every_clause_has_a_broken_distribution() -> None:
    marks = test_a_broken_one_is_caught.pytestmark  # type: ignore[attr-defined]
    assert {row[0] for row in marks[0].args[1]} == set(CLAUSES["distribution"])
