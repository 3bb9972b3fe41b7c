"""The models of the page: each is loaded once, and stays loaded until others are used."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

from xpsr_sdk.build import build_pipeline
from xpsr_sdk.config import PipelineConfig, RestoreConfig
from xpsr_sdk.pipeline import Pipeline
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.web.catalogue import PARTS

MOST_PARTS = 8
"""Parts that are kept, of all kinds together."""


class Models:
    """Pipelines for the settings of visitors. Those of one model share its networks.

    Args:
        registry: Where parts are looked up.
        warm: How many models stay loaded.
    """

    def __init__(self, registry: Registry, warm: int) -> None:
        self._registry, self._warm = registry, warm
        self._loaded: OrderedDict[str, Pipeline] = OrderedDict()
        self._parts: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def is_warm(self, config: PipelineConfig) -> bool:
        """Whether the model is loaded."""
        return _key(config) in self._loaded

    def pipeline(self, config: PipelineConfig) -> Pipeline:
        """The pipeline for these settings, after its model is loaded, if it is not loaded yet.

        Raises:
            XPSRError: See ``build_pipeline``.
        """
        key = _key(config)
        with self._lock:
            if key not in self._loaded:
                while len(self._loaded) >= self._warm:
                    self._loaded.popitem(last=False)
                self._loaded[key] = build_pipeline(_of_networks(config), registry=self._registry)
            self._loaded.move_to_end(key)
            pipeline = self._loaded[key]
            return pipeline.with_parts(
                **{kind: self._part(kind, chosen) for kind in PARTS if (chosen := getattr(config, kind)) is not None}
            )

    def _part(self, kind: str, choice: Any) -> Any:
        key = json.dumps([kind, choice], sort_keys=True, default=str)
        if key not in self._parts:
            if len(self._parts) >= MOST_PARTS:
                self._parts.popitem(last=False)
            self._parts[key] = self._registry.create(kind, choice)
        self._parts.move_to_end(key)
        return self._parts[key]


def _of_networks(config: PipelineConfig) -> PipelineConfig:
    """The settings that decide which networks are loaded, and how. Without a model there are none."""
    fields = PipelineConfig.model_fields.keys() - RestoreConfig.model_fields.keys() - set(PARTS)
    return PipelineConfig(**config.model_dump(include=fields, exclude_unset=True))


def _key(config: PipelineConfig) -> str:
    return _of_networks(config).model_dump_json()
