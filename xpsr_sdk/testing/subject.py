"""The part that a check examines, and how a broken clause is reported."""

from __future__ import annotations

import json
import pickle
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import FlakyFailure

from xpsr_sdk.contracts import Options
from xpsr_sdk.errors import BrokenPlugin, NonFiniteResult, one_line
from xpsr_sdk.plugin_system.registered import RegisteredComponent
from xpsr_sdk.plugin_system.registry import Registry, default_registry
from xpsr_sdk.testing.clauses import CLAUSES, RAISING

NOT_OF_PARTS = {
    "xpsr_sdk", "contextlib", "hypothesis", "pluggy", "pydantic", "numpy", "torch", "diffusers", "transformers", "PIL",
}  # fmt: skip
"""Packages whose code lies between a check and a part, or below a part."""
Choice = str | Mapping[str, Any]
"""A name, or ``{"name": ..., <options>}``."""


class ContractViolation(AssertionError):
    """A part breaks a clause of its contract.

    Attributes:
        clause: The name of the clause, a key of ``xpsr_sdk.testing.clauses.CLAUSES[kind]``.
        problem: What the part did wrong.
        remedy: How to fix it.
    """

    def __init__(self, who: str, clause: str, problem: str, remedy: str) -> None:
        super().__init__(f"{who} breaks the clause {clause!r} of its contract: {problem}.\nTo fix it: {remedy}.")
        self.clause, self.problem, self.remedy = clause, problem, remedy


class _Problem(Exception):
    """A problem that ``require`` found. ``clause_of`` turns it into a ``ContractViolation``."""


def require(condition: bool, problem: str) -> None:
    """Report ``problem`` as a violation of the clause that is being checked, unless ``condition`` holds."""
    if not condition:
        raise _Problem(problem)


@contextmanager
def clause_of(who: str, kind: str, clause: str) -> Iterator[None]:
    """Turn any error in the block into a violation of that clause."""
    remedy = CLAUSES[kind][clause]
    try:
        yield
    except ContractViolation:
        raise
    except _Problem as problem:
        raise ContractViolation(who, clause, str(problem), remedy) from None
    except (Exception, SystemExit) as error:  # whatever the part raises
        raise _violation(who, kind, clause, error) from error


def _violation(who: str, kind: str, clause: str, error: BaseException) -> ContractViolation:
    """What an exception is reported as."""
    remedies = CLAUSES[kind]
    if isinstance(error, BrokenPlugin | NonFiniteResult) and not error.__cause__:  # a wrong answer, in a pipeline
        return ContractViolation(who, clause, str(error).removesuffix("."), remedies[clause])
    cause = error.__cause__ if isinstance(error, BrokenPlugin) and error.__cause__ else error
    seen = f"it raised {one_line(cause).removesuffix('.')}{_place(cause)}"
    if clause in RAISING or clause == "exceptions" or "exceptions" not in remedies:
        return ContractViolation(who, clause, seen, remedies[clause])
    remedy = f"{remedies['exceptions']} ({clause}: {remedies[clause]})"
    return ContractViolation(who, "exceptions", f"{seen}, while the clause {clause!r} was checked", remedy)


def _place(error: BaseException) -> str:
    """Where an exception was raised: the last line of the part's own code, as far as it can be told."""
    frames = [(frame, line) for frame, line in walk_tb(error.__traceback__)]
    own = [(f, line) for f, line in frames if str(f.f_globals.get("__name__")).partition(".")[0] not in NOT_OF_PARTS]
    for frame, line in reversed(own or frames):
        return f" ({frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name})"
    return ""


def for_all(test: Callable[..., None], *, examples: int = 6, **strategies: Any) -> None:
    """Run a property test now, with the same examples each time. The simplest example that fails is reported.

    A failure that does not come again with the same example, since the part draws numbers, is reported like any other.
    """
    quiet = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
    )
    try:
        quiet(given(**strategies)(test))()
    except FlakyFailure as error:
        raise error.exceptions[0] from None


@dataclass(frozen=True)
class Subject:
    """A part under test.

    Attributes:
        kind: A key of ``xpsr_sdk.contracts.KINDS``.
        choice: A name, or a mapping with ``"name"`` and options.
        registry: The registry that holds it.
    """

    kind: str
    choice: Choice
    registry: Registry

    @classmethod
    def of(cls, kind: str, choice: Choice, registry: Registry | None) -> Subject:
        """The chosen part, after the checks that are common to all kinds."""
        subject = cls(kind, choice, registry or default_registry())
        subject.component  # noqa: B018  # raises for an unknown name, which is the test's own mistake
        check_common(subject)
        return subject

    @property
    def name(self) -> str:
        """The part's name."""
        return self.choice if isinstance(self.choice, str) else str(self.choice.get("name"))

    @property
    def options(self) -> dict[str, Any]:
        """The options that were given."""
        return {} if isinstance(self.choice, str) else {k: v for k, v in self.choice.items() if k != "name"}

    @property
    def component(self) -> RegisteredComponent:
        """Its entry in the registry.

        Raises:
            PluginError: There is no such part, or more than one.
        """
        return self.registry.find(self.kind, self.name)

    def build(self, *args: Any, **options: Any) -> Any:
        """A fresh instance; ``options`` override those of the choice."""
        return self.registry.create(self.kind, {"name": self.name, **self.options, **options}, *args)

    @contextmanager
    def clause(self, name: str) -> Iterator[None]:
        """Turn any error in the block into a violation of the clause ``name``."""
        with clause_of(f"The {self.component}", self.kind, name):
            yield


def check_common(subject: Subject) -> None:
    """Check the name, the summary and the options, which all kinds have in common."""
    spec = subject.component.spec
    with subject.clause("listing"):
        # Metrics keep the names by which papers know them, for instance clipiqa+_vitL14_512.
        pattern = r"[A-Za-z0-9][A-Za-z0-9._+-]*" if subject.kind == "metric" else r"[a-z0-9]+([.-][a-z0-9]+)*"
        fits = re.fullmatch(pattern, spec.name)
        require(bool(fits), f"the name {spec.name!r} is hard to write on a command line")
        require(bool(spec.summary.strip()), "the summary is empty")
    with subject.clause("options"):
        schema = subject.registry.resolve(subject.kind, subject.name).Config
        _check_schema(schema)
        config = subject.registry.config(subject.kind, subject.choice)
    with subject.clause("config round trip"):
        text = config.model_dump_json()
        again = schema.model_validate_json(text)
        require(again == config, f"after writing to JSON and reading again, {config!r} is {again!r}")
        of_json = schema.model_validate(json.loads(text))
        require(of_json == config, f"after writing to JSON and reading as a table, {config!r} is {of_json!r}")
        require(pickle.loads(pickle.dumps(config)) == config, f"pickling changes {config!r}")


def check_construction(subject: Subject, *args: Any) -> None:
    """Check that it can be built, with all members of its contract. ``args`` go to its class after the config."""
    with subject.clause("construction"):
        subject.build(*args)
        config = subject.registry.config(subject.kind, subject.choice)
        before = config.model_dump()
        with subject.registry.in_force():
            subject.registry.resolve(subject.kind, subject.name)(config, *args)
        require(config.model_dump() == before, "it changed its config")


def _check_schema(schema: type[Options], prefix: str = "") -> None:
    name = prefix or "Config"
    require(schema.model_config.get("extra") == "forbid", f"{name} accepts unknown options")
    require(schema.model_config.get("frozen") is True, f"{name} is not frozen")
    for option, field in schema.model_fields.items():
        require(bool(field.description), f"the option {prefix}{option} has no description")
        if _takes_none(field.annotation) and not field.is_required():
            default = field.get_default(call_default_factory=True, validated_data={})
            require(default is None, f"the option {prefix}{option} may be None, but its default is {default!r}")
        default = field.default
        if isinstance(default, Options):
            _check_schema(type(default), f"{prefix}{option}.")


def _takes_none(annotation: Any) -> bool:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return union and type(None) in typing.get_args(annotation)
