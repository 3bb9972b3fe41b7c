"""The choice of a runner: what is offered, and what is wrong with a choice."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from xpsr_sdk import ConfigError
from xpsr_sdk.config import RunnerConfig
from xpsr_sdk.errors import BrokenPlugin, UnknownComponent
from xpsr_sdk.runners import choice
from xpsr_sdk.runners.choice import find_runner


def test_this_machine_is_the_default() -> None:
    assert find_runner(RunnerConfig()).in_this_process
    assert not find_runner(RunnerConfig(workers=2)).in_this_process


def test_a_worker_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert not find_runner(RunnerConfig(workers="gpus")).in_this_process
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert find_runner(RunnerConfig(workers="gpus")).in_this_process
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match=r"This machine has no GPU .* say how many workers \(--workers 2\)"):
        find_runner(RunnerConfig(workers="gpus"))


def test_what_this_machine_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="The runner 'local' has no address"):
        find_runner(RunnerConfig(address="auto"))
    with pytest.raises(ConfigError, match="has no worker_gpus"):
        find_runner(RunnerConfig(worker_gpus=0.5))


def test_a_runner_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "entry_points", lambda group: [])
    with pytest.raises(UnknownComponent, match=r"'rai'\. Known: local"):
        find_runner(RunnerConfig(runner="rai"))
    with pytest.raises(UnknownComponent, match="pip install xpsr-ray"):
        find_runner(RunnerConfig(runner="ray"))


def test_a_broken_runner_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", "no_such_module:Runner", choice.GROUP)
    monkeypatch.setattr(choice, "entry_points", lambda group: [entry])
    with pytest.raises(BrokenPlugin, match="The runner 'mine' cannot be used: ModuleNotFoundError"):
        find_runner(RunnerConfig(runner="mine"))


def test_an_offered_runner_gets_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(config: RunnerConfig) -> Any:
        return config.address

    monkeypatch.setattr(EntryPoint, "load", lambda self: make)
    monkeypatch.setattr(choice, "entry_points", lambda group: [EntryPoint("mine", "any:thing", choice.GROUP)])
    assert find_runner(RunnerConfig(runner="mine", address="here")) == "here"
