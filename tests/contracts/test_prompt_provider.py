"""The digest of an item is computed when it is first needed, and no more than once."""

from __future__ import annotations

import pickle

from PIL import Image

from xpsr_sdk.contracts import Item

PICTURE = Image.new("RGB", (2, 2))


class Digest:
    """Gives a digest, and counts how often it was asked."""

    asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return "f00d"


def test_the_digest_is_computed_once_at_the_first_read() -> None:
    digest = Digest()
    item = Item(PICTURE, sha256=digest)
    assert digest.asked == 0
    assert (item.sha256, item.sha256, digest.asked) == ("f00d", "f00d", 1)


def test_an_item_that_is_sent_to_a_worker_has_its_digest() -> None:
    twin = pickle.loads(pickle.dumps(Item(PICTURE, sha256=lambda: "f00d")))
    assert (twin.sha256, twin.image.size, twin.path) == ("f00d", (2, 2), None)


def test_an_item_of_no_file_has_no_digest() -> None:
    assert Item(PICTURE).sha256 is None
