"""The report of a comparison in a browser: what a reader sees, and what the mouse and the keyboard do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from PIL import ImageFilter

from tests.support import tiny
from tests.support.browser import CHROMIUM, WHY_NOT, browser, opened, violations
from xpsr_sdk import Registry
from xpsr_sdk.evaluation.comparison import compare_folders
from xpsr_sdk.evaluation.page import write_page

pytestmark = pytest.mark.skipif(not (CHROMIUM and find_spec("playwright")), reason=WHY_NOT)
NAMES = ["""quo"ted 'x' &amp;""", "<script>alert(1)", "two\nlines"]
WINDOWS = [(390, "light"), (1440, "dark")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    log = []
    for i, name in enumerate(NAMES):
        photo = tiny.photo(160, 120, i)
        for method, image in {
            "HR": photo,
            "LR": photo.resize((40, 30)),
            "sharp <i>": photo.filter(ImageFilter.GaussianBlur(0.5 + i / 4)),
            "soft_0.2": photo.filter(ImageFilter.GaussianBlur(2)),
        }.items():
            (folder / method).mkdir(exist_ok=True)
            image.save(folder / method / f"{name}.png")
        result = {"status": "restored", "result": str(folder / "soft_0.2" / f"{name}.png"), "peak_memory": 1.25}
        log.append({**result, "width": 1000, "height": 1000, "seconds": 3, "high": "<b>a wall", "low": None})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    found = compare_folders(
        [folder / "sharp <i>", folder / "soft_0.2"],
        reference=folder / "HR",
        input=folder / "LR",
        metrics=["psnr", "ssim", "niqe"],
        logs=[folder / "log.jsonl"],
        registry=Registry([]),
    )
    write_page(found, folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.fixture
def page(chromium: Any, report: str) -> Iterator[Any]:
    with opened(chromium, report, viewport={"width": 1440, "height": 900}) as page:
        yield page


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_the_page_fits_its_window_and_everyone_can_read_it(chromium: Any, report: str, width: int, scheme: str) -> None:
    with opened(chromium, report, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []


def test_names_and_prompts_are_shown_as_they_are(page: Any) -> None:
    text = page.inner_text("main")
    for name in (NAMES[0], NAMES[1], r"two\nlines", "sharp <i>", "<b>a wall"):
        assert name in text
    row = page.locator("tr", has_text="soft_0.2").first
    assert row.inner_text().split()[-2:] == ["3.00", "1.25"], "seconds per megapixel, and GiB"


def test_the_best_and_worst_photos_of_each_method_are_shown(page: Any) -> None:
    shown = page.locator("section", has_text="Best and worst photos").locator("details")
    assert shown.locator("summary").all_inner_texts() == ["sharp <i>", "soft_0.2"]
    assert [shown.nth(i).evaluate("e => e.open") for i in range(2)] == [True, False]
    assert shown.nth(1).locator("img").count() == 6  # the best and the worst of three photos, by three metrics


def test_the_slider_follows_mouse_and_keys(page: Any) -> None:
    slider = page.locator(".slider").first
    stack, control = slider.locator(".stack"), slider.locator("input")
    stack.scroll_into_view_if_needed()
    box = stack.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 9)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 9)
    page.mouse.up()
    assert abs(int(control.input_value()) - 25) <= 1
    before = int(control.input_value())
    page.keyboard.press("ArrowRight")
    assert int(control.input_value()) == before + 1
    page.keyboard.press("Home")
    assert control.input_value() == "0"


def test_the_slider_shows_the_versions_that_are_chosen(page: Any) -> None:
    slider = page.locator(".slider").first
    left, right = slider.locator("select").all()
    assert [left.locator("option").nth(int(left.input_value())).inner_text(), right.input_value()] == ["sharp <i>", "2"]
    right.select_option("reference")
    assert slider.locator(".stack img").first.get_attribute("alt").endswith(", reference")


def test_a_click_on_a_head_sorts_the_table(page: Any) -> None:
    def column(number: int) -> list[str]:
        return page.locator("table").last.locator(f"tbody tr > :nth-child({number})").all_inner_texts()

    button = page.get_by_role("button", name="PSNR")
    for order in (1, -1):
        button.press("Enter")
        figures = [float(text) for text in column(3)]
        assert figures == sorted(figures)[::order]
    page.get_by_role("button", name="method").click()
    assert column(2) == ["sharp <i>"] * 3 + ["soft_0.2"] * 3


def test_on_paper_the_page_has_no_controls_and_is_as_wide_as_the_sheet(page: Any) -> None:
    page.set_viewport_size({"width": 794, "height": 1123})
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator(".slider").first.is_visible()
    assert page.locator(".crops").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    page.pdf()  # for which the page is told that it is printed
    assert page.locator("details:not([open])").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
