"""How far the restoration of one photo is, for people who wait for it: a share and words."""

from __future__ import annotations

STAGES = {
    "prompts": "Describing the photo",
    "text": "Reading the prompts",
    "upscale": "Enlarging",
    "denoise": "Restoring",
    "decode": "Decoding",
}
"""The stages of a restoration, in words."""
SHARES = {"prompts": 0.0, "text": 0.05, "upscale": 0.1, "decode": 0.9}
"""How much of a region is done when a stage begins, roughly."""
EVALUATIONS_OF_UPSCALER = 2
"""As many evaluations of the model take roughly as long as an upscaler."""
ALMOST_DONE = 0.99
"""The largest share, since the result must still be written."""


class HowFar:
    """How far the restoration of a photo is.

    Args:
        evaluations: How many evaluations of the model there will be at most.
        upscaler_alone: Whether there is no model.

    Attributes:
        share: How much is done, from 0 to ``ALMOST_DONE``. It never falls.
        words: What is being done.
    """

    def __init__(self, evaluations: int, upscaler_alone: bool = False) -> None:
        self.share, self.words = 0.0, ""
        self._evaluations, self._regions = evaluations, (0, 1)
        begun, end = SHARES["upscale"], SHARES["decode"]
        upscaling = EVALUATIONS_OF_UPSCALER / (EVALUATIONS_OF_UPSCALER + evaluations)
        self._shares = SHARES | {"denoise": 1.0 if upscaler_alone else begun + (end - begun) * upscaling}

    def hear(self, stage: str, done: int, total: int) -> None:
        """Take what is told of a restoration: see ``xpsr_sdk.engine.watching``."""
        if stage == "regions":
            self._regions, (stage, done, total) = (done, total), ("upscale", 0, 0)  # with which a region begins
        within, words = self._within(stage, done, total)
        before, regions = self._regions
        place = f"Part {before + 1} of {regions}: " if regions > 1 else ""
        self.words = f"{place}{words[0].lower() if place else words[0]}{words[1:]}"
        self.share = max(self.share, min((before + within) / regions, ALMOST_DONE))

    def _within(self, stage: str, done: int, total: int) -> tuple[float, str]:
        """How much of a region is done, and what is being done."""
        words, begun = STAGES.get(stage, stage), self._shares.get(stage, 0.0)
        if not total:
            return begun, words
        if stage == "denoise":
            step, tile = divmod(done, total)
            words += f": step {min(step + 1, self._evaluations)} of {self._evaluations}"
            words += f", tile {tile + 1} of {total}" if total > 1 else ""
            return begun + (self._shares["decode"] - begun) * min(done / (total * self._evaluations), 1), words
        words += f": tile {min(done + 1, total)} of {total}" if total > 1 else " in one tile"
        return begun + (self._shares["denoise"] - begun) * done / total, words
