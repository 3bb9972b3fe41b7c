"""What the text alone determines is computed once, whichever layers read it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.support import tiny
from xpsr_sdk.engine.text_cache import cached_text


class Reader(nn.Module):
    """Some layers that read a text, as a fusion of anybody's may have them, and count it."""

    def __init__(self) -> None:
        super().__init__()
        self.to_key = nn.Linear(8, 4)
        self.from_features = nn.Linear(8, 4)
        self.count = 0
        for layer in (self.to_key, self.from_features):
            layer.register_forward_hook(self._counted)
        self.computed: list[Tensor] = []
        compute = self.to_key.forward

        def counting(x: Tensor) -> Tensor:
            self.computed.append(x)
            return compute(x)

        self.to_key.forward = counting  # type: ignore[method-assign]

    def _counted(self, *_: object) -> None:
        self.count += 1

    def forward(self, text: Tensor, features: Tensor) -> Tensor:
        return self.to_key(text) + self.from_features(features)


@torch.no_grad()
def test_a_text_is_read_once_and_features_each_time() -> None:
    model, text, other = Reader(), torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    features = [torch.randn(1, 3, 8) for _ in range(3)]
    expected = [model(text, x) for x in features]
    model.computed.clear()
    with cached_text([model], {id(text), id(other)}, width=8):
        found = [model(text, x) for x in features]
        assert len(model.computed) == 1
        model(other, features[0])
        model(other, features[1])
        assert len(model.computed) == 2
        model(text.clone(), features[0])  # not the text that was named
        assert len(model.computed) == 3
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_trace_is_left() -> None:
    unet, _ = tiny.networks()
    before = {name for name, module in unet.named_modules() if "forward" in vars(module)}
    model = Reader()
    forward = model.to_key.forward
    with cached_text([unet, model], set(), width=16):
        assert any("forward" in vars(module) for module in unet.modules())
    assert {name for name, module in unet.named_modules() if "forward" in vars(module)} == before
    with cached_text([model], set(), width=8):
        assert model.to_key.forward is not forward
    assert model.to_key.forward is forward
