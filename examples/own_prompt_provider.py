"""Describes photos with a prompt provider of your own. This one reads the file name; others ask a captioner.

python examples/own_prompt_provider.py [OUTPUT_FOLDER]      (default: demo)
"""

import sys
from dataclasses import replace
from pathlib import Path

from xpsr_sdk import Prompts, build_pipeline, default_registry

HERE = Path(__file__).parent


class NamesAndMeasures:
    """The file name says what the photo shows, and the default provider says how good it is."""

    def __init__(self):
        self.measured = default_registry().create("prompt_provider", "measured")

    def describe(self, items, levels):
        said = self.measured.describe(items, levels)
        return [self.add_name(item, prompts) for item, prompts in zip(items, said, strict=True)]

    def add_name(self, item, prompts: Prompts) -> Prompts:
        name = item.path.stem.replace("-", " ") if item.path else None
        return replace(prompts, high=name, source={**prompts.source, "high": "file name"}) if name else prompts

    def unload(self):
        self.measured.unload()


output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo")
result = build_pipeline(prompt_provider=NamesAndMeasures())(HERE / "photo.jpg", seed=1)
result.save(output / "own-prompts.png")
print(f"high ({result.prompts.source['high']}): {result.prompts.high}")
print(f"low ({result.prompts.source['low']}): {result.prompts.low}")
