"""The page in a real browser: what a visitor does and sees."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support import web_parts
from tests.support.browser import CHROMIUM, WHY_NOT, browser
from tests.support.website import Site, running
from xpsr_sdk.web.server import COOKIE

pytestmark = pytest.mark.skipif(not (CHROMIUM and find_spec("playwright")), reason=WHY_NOT)

PICTURES = Path("docs/images")
"""The screenshots in the docs. With XPSR_PICTURES=1 the tests take them anew, with the model that is shipped."""
TAKE_PICTURES = os.environ.get("XPSR_PICTURES") == "1"
RESTORING = "document.querySelector('#busy-words').textContent.startsWith('Restoring: step')"
"""In JavaScript: the page says that the photo is being restored."""
WIDE, PHONE = {"width": 1440, "height": 1000}, {"width": 390, "height": 844}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture
def visit(site: Site, chromium: Any) -> Iterator[Open]:
    """Opens the page as a new visitor. No request may leave the machine, and no script may fail."""
    opened, wrong = [], []

    def visit(viewport: dict[str, int] = WIDE, address: str = site.address, **options: Any) -> Any:
        context = chromium.new_context(viewport=viewport, **options)
        opened.append(context)
        context.on("request", lambda r: r.url.startswith((address, "blob:", "data:")) or wrong.append(r.url))
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda m: "Content Security Policy" in m.text and wrong.append(m.text))
        page.goto(address)
        page.wait_for_selector("#model")
        return page

    yield visit
    for context in opened:
        context.close()
    assert wrong == []


def until(page: Any, condition: str) -> None:
    """Wait for a condition in JavaScript. (Playwright's own way evaluates it within the page, which forbids that.)"""
    for _ in range(1200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{condition} was never true")


def upload(page: Any, *files: Path | dict[str, Any]) -> None:
    """Choose files, and wait until they are there."""
    before = page.locator(".photo").count()
    page.set_input_files("#files", [as_upload(file) if isinstance(file, Path) else file for file in files])
    until(page, f"document.querySelectorAll('.photo').length >= {before + len(files)}")
    until(page, "![...document.querySelectorAll('.photo .state')].some(s => s.textContent === 'Uploading')")


def as_upload(file: Path) -> dict[str, Any]:
    return {"name": file.name, "mimeType": "image/png", "buffer": file.read_bytes()}


def restore(page: Any) -> None:
    """Press the button, and wait for the result."""
    page.click("#restore")
    page.wait_for_selector("#busy:not([hidden]), #details:not([hidden])")
    page.wait_for_selector("#details:not([hidden])")


def hold(page: Any, photo: Path, scale: str) -> None:
    """Begin a restoration that goes on only when ``web_parts.GO`` is set."""
    web_parts.GO.clear()
    upload(page, photo)
    choose(page, scale=scale, sampler="held")
    page.click("#restore")
    until(page, RESTORING)


def choose(page: Any, **settings: str) -> None:
    """Set dials that are numbers or texts, and the model and the parts."""
    page.evaluate("for (const each of document.querySelectorAll('#form details')) each.open = true")
    for name, value in settings.items():
        place = "#model" if name == "model" else page.locator(f"#dial-{name}, #part-{name}").first
        control = page.locator(place) if isinstance(place, str) else place
        if control.evaluate("e => e.tagName") == "SELECT":
            control.select_option(value)
        else:
            control.fill(value)


def test_a_photo_is_uploaded_restored_compared_and_downloaded(visit: Open, photo: Path, tmp_path: Path) -> None:
    page = visit()
    upload(page, photo)
    choose(page, scale="2", seed="5")
    restore(page)
    assert page.locator("#facts").inner_text().split("\n")[-1].endswith("5")
    assert "--scale 2.0" in page.locator("#command").inner_text()
    assert "build_pipeline(" in page.locator("#python").inner_text()
    cut = page.locator("#after").evaluate("e => e.style.clipPath")
    page.focus("#split")
    page.keyboard.press("End")
    assert page.locator("#after").evaluate("e => e.style.clipPath") != cut
    page.keyboard.press("Home")
    assert page.locator("#after").evaluate("e => e.style.clipPath") == "inset(0px)"
    page.locator("#file-format").select_option("jpeg")
    assert page.locator("#file-quality").is_enabled()
    page.locator("#file-quality").fill("50")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "photo-restored.jpeg"
    download.value.save_as(tmp_path / "got.jpg")
    with Image.open(tmp_path / "got.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (80, 64))


def test_both_photos_zoom_and_move_together_down_to_their_pixels(visit: Open, photo: Path) -> None:
    page = visit()
    upload(page, photo)
    choose(page, scale="2")
    restore(page)

    def where() -> list[str]:
        boxes = page.evaluate(
            "[...document.querySelectorAll('.layer img')].map(i => JSON.stringify(i.getBoundingClientRect()))"
        )
        assert boxes[0] == boxes[1]
        return boxes

    fitted = where()
    page.click("#pixels")
    assert page.locator("#zoom").inner_text() == "100 %"
    assert '"width":80' in where()[0]
    page.focus("#stage")
    for key in ("+", "+", "ArrowLeft", "ArrowDown"):
        before = where()
        page.keyboard.press(key)
        assert where() != before
    assert page.locator("#before").evaluate("e => getComputedStyle(e.firstChild).imageRendering") == "pixelated"
    page.mouse.move(400, 500)
    page.mouse.wheel(0, -300)
    page.keyboard.press("0")
    assert where() == fitted
    box = page.locator("#divider").bounding_box()
    page.mouse.move(box["x"] + 22, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 122, box["y"] + 120)
    page.mouse.up()
    assert int(page.locator("#split").input_value()) > 55
    assert where() == fitted


def test_a_restoration_is_followed_and_cancelled(visit: Open, photo: Path) -> None:
    page = visit()
    hold(page, photo, "1")
    assert page.evaluate("document.querySelector('#busy-bar').getAnimations().length") == 1  # whatever it counts
    page.click("#restore")
    until(page, "document.querySelector('#busy-words').textContent.startsWith('1 before it')")
    until(page, "document.querySelector('#server').textContent === '2 to do'")
    page.get_by_role("button", name="Cancel Version 1").click()
    until(page, RESTORING)
    page.click("#busy-cancel")
    page.wait_for_selector("#busy", state="hidden")
    assert page.locator(".photo .state").inner_text() == "Cancelled"
    web_parts.GO.set()
    restore(page)


def test_prompts_are_shown_as_text_and_edited_without_asking_again(visit: Open, photo: Path) -> None:
    page = visit()
    upload(page, photo)
    choose(page, scale="1")
    restore(page)
    assert page.locator("#said-prompt").input_value() == web_parts.CAPTION
    assert len(web_parts.ASKED) == 1
    page.locator("#said-low_prompt").fill("<img src=x onerror='window.hacked = 1'>")
    page.click("#again")
    until(page, "document.querySelectorAll('#grid img').length === 2")
    assert "onerror" in page.locator("#said-low_prompt").input_value()
    assert "By you." in page.locator("#prompts").inner_text()
    assert "onerror" in page.locator("#command").inner_text()
    assert page.evaluate("window.hacked") is None
    assert len(web_parts.ASKED) == 1


def test_wrong_and_too_large_files_are_told_at_their_place(visit: Open, photo: Path, tmp_path: Path) -> None:
    page = visit()
    name = "<img src=x onerror='window.hacked=1'>.png"
    noise = io.BytesIO()
    Image.effect_noise((1100, 1000), 90).save(noise, "PNG")
    upload(
        page,
        {"name": name, "mimeType": "image/png", "buffer": b"no image"},
        {"name": "large.png", "mimeType": "image/png", "buffer": noise.getvalue()},
        photo,
    )
    said = page.locator("#list").inner_text()
    assert name in said
    assert "is not an image" in said
    assert re.search(r"The file has 1\.\d MB, and 1 MB is the most here", said)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#restore").is_enabled()
    page.get_by_role("button", name="Remove large.png").click()
    assert page.locator(".photo").count() == 2


def test_a_photo_without_its_end_has_no_broken_picture(visit: Open, photo: Path) -> None:
    page = visit()
    Image.effect_noise((60, 60), 90).save(whole := io.BytesIO(), "JPEG")
    upload(page, {"name": "cut.jpg", "mimeType": "image/jpeg", "buffer": whole.getvalue()[:900]})
    until(page, "document.querySelector('.photo img').naturalWidth > 0")
    page.click("#restore")
    until(page, "document.querySelector('.photo .state').textContent.includes('its end is missing')")


def test_a_photo_that_an_older_answer_lacks_stays(visit: Open, photo: Path) -> None:
    page = visit()
    late: list[tuple[Any, Any]] = []  # what the page asked before the upload, and the server's answer

    def keep(route: Any) -> None:
        if route.request.method == "GET" and not late:
            late.append((route, route.fetch()))
        else:
            route.continue_()

    page.route(re.compile("/api/photos($|[?])"), keep)
    while not late:
        page.wait_for_timeout(50)
    upload(page, photo)
    route, answer = late[0]
    with page.expect_response(lambda response: response.url.endswith("/api/photos")):
        route.fulfill(response=answer)
    page.wait_for_timeout(200)
    assert "deleted" not in page.locator(".photo .state").inner_text()
    assert page.locator("#restore").is_enabled()


def test_a_setting_that_is_out_of_range_is_told(visit: Open, photo: Path) -> None:
    page = visit()
    upload(page, photo)
    choose(page, scale="99")
    page.click("#restore")
    assert page.locator("#form-error").inner_text().startswith("Scale: ")
    choose(page, scale="", tile="16")
    page.click("#restore")
    until(page, "document.querySelector('#form-error').textContent.includes('tile_overlap')")


def test_two_visitors_at_once_see_their_own_photos(visit: Open, photo: Path) -> None:
    ann, bob = visit(), visit(PHONE)
    for page, name in ((ann, "ann.png"), (bob, "bob.png")):
        upload(page, {**as_upload(photo), "name": name})
        choose(page, scale="1")
        page.click("#restore")
    for page, name in ((ann, "ann.png"), (bob, "bob.png")):
        page.wait_for_selector("#details:not([hidden])")
        page.reload()
        page.wait_for_selector("#details:not([hidden])")
        assert page.locator(".photo .pick").all_inner_texts() == [name]
    theirs = ann.locator("#after img").get_attribute("src")
    assert ann.evaluate("url => fetch(url).then(r => r.status)", theirs) == 200
    assert bob.evaluate("url => fetch(url).then(r => r.status)", theirs) == 404


def test_a_page_that_is_loaded_anew_in_the_middle_goes_on(visit: Open, photo: Path) -> None:
    page = visit()
    hold(page, photo, "1.5")
    page.reload()
    until(page, RESTORING)
    assert page.locator("#dial-scale").input_value() == "1.5"
    assert page.locator("#part-sampler").input_value() == "held"
    web_parts.GO.set()
    page.wait_for_selector("#details:not([hidden])")


def test_a_server_that_is_gone_and_one_that_comes_back_are_told(visit: Open, photo: Path) -> None:
    page = visit()
    upload(page, photo)
    page.route("**/api/**", lambda route: route.abort())
    page.wait_for_selector("#banner:not([hidden])")
    assert "cannot be reached" in page.locator("#banner").inner_text()
    assert page.locator("#restore").is_disabled()
    page.unroute("**/api/**")
    page.context.clear_cookies(name=COOKIE)  # as after a restart, when nothing is known
    page.wait_for_selector("#banner", state="hidden")
    assert "upload it again" in page.locator(".photo .state").inner_text()


def test_only_what_applies_to_the_model_is_enabled_and_defaults_are_its_own(visit: Open) -> None:
    page = visit()
    assert page.locator("#dial-num_inference_steps").get_attribute("placeholder") == "4"
    choose(page, model="none")
    for name in ("num_inference_steps", "guidance_scale", "seed", "prompt", "tile"):
        assert page.locator(f"#dial-{name}").is_disabled()
    for part in ("sampler", "prompt_provider"):
        assert page.locator(f"#part-{part}").is_disabled()
    for name in ("fidelity", "scale", "color", "upscaler_tile"):
        assert page.locator(f"#dial-{name}").is_enabled()
    assert page.locator("#part-upscaler").is_enabled()
    page.locator("#size-by").select_option("max_side")
    assert page.locator("#dial-max_side").is_visible()
    assert not page.locator("#dial-scale").is_visible()


def test_the_defaults_are_those_of_the_sampler_and_of_the_speed(visit: Open) -> None:
    page = visit()
    steps, guidance = page.locator("#dial-num_inference_steps"), page.locator("#dial-guidance_scale")
    own = [dial.get_attribute("placeholder") for dial in (steps, guidance)]
    choose(page, sampler="one-step")
    assert [dial.get_attribute("placeholder") for dial in (steps, guidance)] == ["1", "1"]
    choose(page, sampler="")
    assert [dial.get_attribute("placeholder") for dial in (steps, guidance)] == own
    assert own != ["1", "1"]
    choose(page, speed="fast")
    assert int(steps.get_attribute("placeholder")) == int(own[0]) / 2


def test_a_plugin_has_a_form_of_its_own(visit: Open, photo: Path) -> None:
    page = visit()
    upload(page, photo)
    choose(page, scale="1", sampler="held")
    page.locator("#option-sampler-strength").fill("0.75")
    restore(page)
    assert "--sampler held --sampler-option strength=0.75" in page.locator("#command").inner_text()


def test_a_sheet_compares_one_setting_with_one_seed(visit: Open, photo: Path) -> None:
    page = visit()
    upload(page, photo)
    choose(page, scale="1")
    assert page.locator("#sheet-dial").input_value() == "fidelity"
    assert page.locator("#sheet-values").input_value() == "0, 0.25, 0.5, 0.75, 1"
    page.click("#sheet-make")
    until(page, "document.querySelectorAll('#grid img').length === 5")
    titles = page.locator("#grid .pick").all_inner_texts()
    assert titles == [f"Fidelity {value}" for value in ("0", "0.25", "0.5", "0.75", "1")]
    commands = []
    for title in titles:
        page.get_by_role("button", name=title, exact=True).click()
        commands.append(page.locator("#command").inner_text())
    assert len({re.search(r"--seed (\d+)", command)[1] for command in commands}) == 1  # type: ignore[index]
    with page.expect_download() as download:
        page.click("#download-all")
    assert download.value.suggested_filename == "restored.zip"


def test_several_photos_are_restored_with_one_click(visit: Open, photo: Path) -> None:
    page = visit()
    upload(page, photo, {**as_upload(photo), "name": "two.png"})
    choose(page, model="none", upscaler="bicubic", scale="1")
    page.click("#restore-all")
    until(page, "[...document.querySelectorAll('.photo .state')].every(s => / in .* s$/.test(s.textContent))")
    assert page.locator("#download-all").is_visible()


def test_the_keyboard_alone_is_enough(visit: Open, photo: Path) -> None:
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    upload(page, photo)
    choose(page, scale="1")
    reached = set()
    page.evaluate("document.activeElement.blur()")
    wanted = {"files", "folder", "pick", "stage", "model", "dial-scale", "restore", "theme", "sheet-make"}
    for _ in range(90):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if wanted <= reached:
            break
    assert wanted <= reached
    page.focus("#restore")
    page.keyboard.press("Enter")
    page.wait_for_selector("#details:not([hidden])")


@pytest.mark.parametrize(("viewport", "scheme"), [(WIDE, "light"), (PHONE, "dark")], ids=["wide", "phone"])
def test_the_page_is_accessible_and_nothing_is_wider_than_it(
    visit: Open, photo: Path, viewport: dict[str, int], scheme: str
) -> None:
    axe = Path(find_spec("axe_playwright_python").submodule_search_locations[0], "axe.min.js")  # type: ignore[union-attr, index]
    page = visit(viewport, color_scheme=scheme, bypass_csp=True)
    upload(page, photo, {"name": "bad.png", "mimeType": "image/png", "buffer": b"no image"})
    choose(page, scale="1", sampler="held")
    page.click("#sheet-make")
    until(page, "document.querySelectorAll('#grid img').length === 5")
    page.get_by_role("button", name="Fidelity 0.5", exact=True).click()
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))")
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_the_page_is_small_and_does_not_jump(visit: Open) -> None:
    page = visit()
    sizes = page.evaluate(
        "performance.getEntriesByType('resource').map(e => [e.name.split('/').at(-1), e.decodedBodySize])"
    )
    before_paint = [name for name, _ in sizes if name.endswith(".css")]
    assert before_paint == ["style.css"]
    assert sum(size for _, size in sizes) < 100_000
    jumps = page.evaluate(
        """new Promise(done => {
            let sum = 0;
            const add = list => { for (const each of list.getEntries()) sum += each.value; };
            new PerformanceObserver(add).observe({type: 'layout-shift', buffered: true});
            setTimeout(() => done(sum), 300);
        })"""
    )
    assert jumps < 0.1


def test_pictures_of_the_page(visit: Open, tmp_path: Path, tiny_model: Path) -> None:
    """Those in the docs are made by this test: see ``PICTURES``."""
    folder, models = (PICTURES, ["nano", "none"]) if TAKE_PICTURES else (tmp_path, [str(tiny_model), "none"])
    with running(models, provider="measured") as site:
        for name, viewport in (("web", WIDE), ("web-phone", PHONE)):
            page = visit(viewport, site.address)
            upload(page, Path("examples/photo.jpg"))
            if not TAKE_PICTURES:
                choose(page, model="none", upscaler="bicubic")
                page.evaluate("for (const each of document.querySelectorAll('#form details')) each.open = false")
            page.click("#restore")
            page.wait_for_selector("#details:not([hidden])", timeout=300_000)
            until(page, "[...document.querySelectorAll('.layer img')].every(i => i.complete)")
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=72)
            assert (folder / f"{name}.jpg").stat().st_size < 150_000
            assert (PICTURES / f"{name}.jpg").is_file()
