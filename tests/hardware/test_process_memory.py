"""The limits on this process, and what it held."""

from __future__ import annotations

import sys

import numpy as np
import psutil
import pytest
import torch

from xpsr_sdk.hardware.devices import free_memory
from xpsr_sdk.hardware.process_memory import free_address_space, peak_resident_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit, or do not keep it")
def test_a_limit_on_addresses_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    taken = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (taken + 10 * 2**20, resource.RLIM_INFINITY))
    left = free_address_space()
    assert left is not None
    assert abs(left - 10 * 2**20) < 2**22
    assert free_memory(torch.device("cpu")) < 2**24


def test_the_peak_stays_when_the_memory_is_given_back() -> None:
    held = np.ones(2**25)
    expected = psutil.Process().memory_info().rss
    del held
    assert peak_resident_bytes() >= expected * 0.99
