"""Several methods on the same photos: which belong together, what the report, the tables and the page say."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image, ImageFilter

from tests.support import tiny
from tests.support.registries import registry_with
from xpsr_sdk import ConfigError, Options, Registry
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.evaluation.comparison import Comparison, compare_folders
from xpsr_sdk.evaluation.crops import crops_that_differ
from xpsr_sdk.evaluation.matching import match_methods
from xpsr_sdk.evaluation.page import write_page
from xpsr_sdk.evaluation.plots import sweeps, trade_off
from xpsr_sdk.evaluation.scores import FolderScores, ImageScores
from xpsr_sdk.evaluation.tables import csv_table, latex_table, markdown_table

NASTY = """a"b'<script>alert(1)</script>&"""


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """HR, LR, and two methods: one blurs, and the other blurs more."""
    for i, name in enumerate(("one", "two", "three")):
        photo = tiny.photo(64, 48, i)
        for folder, image in {
            "HR": photo,
            "LR": photo.resize((16, 12)),
            "soft": photo.filter(ImageFilter.GaussianBlur(1)),
            "softer_2": photo.filter(ImageFilter.GaussianBlur(3)),
        }.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            image.save(tmp_path / folder / f"{name}{'_x4' if folder == 'soft' else ''}.png")
    return tmp_path


@pytest.fixture
def compare(folders: Path) -> Callable[..., Comparison]:
    def call(*methods: str, **options: Any) -> Comparison:
        settings: dict[str, Any] = {"metrics": ["psnr", "ssim"], "reference": folders / "HR", "registry": Registry([])}
        return compare_folders([folders / method for method in methods], **{**settings, **options})

    return call


def test_the_less_blurred_method_wins_on_every_photo(compare: Callable[..., Comparison]) -> None:
    found = compare("soft", "softer_2")
    psnr, _ = found.metrics
    assert found.best(psnr) == "soft"
    difference = found.difference("softer_2", psnr)
    assert (difference.wins, difference.losses) == (0, 3)
    assert difference.interval.low <= difference.interval.mean <= difference.interval.high < 0
    record = json.loads(found.to_json())["methods"]["softer_2"]
    assert record["differences"]["psnr"]["losses"] == 3
    assert record["means"]["psnr"]["mean"] == pytest.approx(found.mean("softer_2", psnr).mean)


def test_a_photo_that_one_method_lacks_is_told_and_left_out_of_the_pairs(
    folders: Path, compare: Callable[..., Comparison]
) -> None:
    (folders / "softer_2" / "two.png").unlink()
    found = compare("soft", "softer_2")
    assert found.matched.missing == {"softer_2": ("two",)}
    assert "softer_2 lacks two." in found.problems()
    difference = found.difference("softer_2", found.metrics[0])
    assert difference.wins + difference.losses + difference.ties == 2
    assert len(found.methods["soft"].rows) == 3


def test_a_bad_file_is_told_and_costs_nothing_else(folders: Path, compare: Callable[..., Comparison]) -> None:
    (folders / "soft" / "one_x4.png").write_bytes(b"no picture")
    found = compare("soft", "softer_2")
    assert [row.name for row in found.methods["soft"].rows] == ["three", "two"]
    assert any(line.startswith("soft, one: ") for line in found.problems())
    write_page(found, folders / "report.html")


def test_names_with_and_without_a_scale_belong_together(folders: Path) -> None:
    found = match_methods({"soft": folders / "soft"}, folders / "HR", folders / "LR")
    assert {name: path.name for name, path in found.methods["soft"].items()}["one"] == "one_x4.png"
    assert found.inputs["one"] == folders / "LR" / "one.png"
    for name in ("one_x2", "one_x4"):
        (folders / "HR" / f"{name}.png").write_bytes((folders / "HR" / "one.png").read_bytes())
    found = match_methods({"soft": folders / "soft"}, folders / "HR", None)
    assert found.methods["soft"]["one_x4"].name == "one_x4.png"
    assert "one" in found.missing["soft"], "two names differ by their scale alone: not guessed"


def test_without_references_only_metrics_that_need_none_are_measured(
    folders: Path, compare: Callable[..., Comparison]
) -> None:
    for folder in ("soft", "softer_2"):
        for file in (folders / folder).iterdir():
            Image.open(file).resize((256, 192)).save(file)
    found = compare("soft", "softer_2", reference=None, metrics=["psnr", "niqe"])
    assert [chosen.name for chosen in found.metrics] == ["niqe"]
    assert "needs references" in found.skipped["psnr"]
    with pytest.raises(ConfigError, match="Every chosen metric needs references"):
        compare("soft", reference=None, metrics=["psnr"])


def test_without_references_names_with_and_without_a_scale_belong_together(folders: Path) -> None:
    methods = {"soft": folders / "soft", "softer": folders / "softer_2"}
    assert set(match_methods(methods, None, None).methods["softer"]) == {"one_x4", "two_x4", "three_x4"}
    (folders / "soft" / "two_x4.png").unlink()
    found = match_methods(methods, None, None)
    assert found.missing == {"soft": ("two",)}
    assert set(found.methods["softer"]) == {"one_x4", "two", "three_x4"}


def test_mistakes_are_told(folders: Path, compare: Callable[..., Comparison]) -> None:
    with pytest.raises(ConfigError, match="would both be called soft: rename one"):
        compare("soft", "HR/../soft")
    (folders / "other").mkdir()
    tiny.photo(64, 48).save(folders / "other" / "unknown.png")
    with pytest.raises(ConfigError, match=r"None of the photos in .*other has the name of one in .*HR"):
        compare("other")


def test_tables_for_papers(compare: Callable[..., Comparison]) -> None:
    found = compare("soft", "softer_2")
    rows = list(csv.DictReader(StringIO(csv_table(found))))
    assert len(rows) == 6
    assert float(rows[0]["psnr"]) == found.methods["soft"].rows[0].scores["psnr"]
    assert markdown_table(found).splitlines()[0] == "| method | PSNR ↑ | SSIM ↑ |"
    assert markdown_table(found).splitlines()[2].startswith("| soft | **")
    latex = latex_table(found)
    assert r"Method & PSNR $\uparrow$ & SSIM $\uparrow$ \\" in latex
    assert r"softer\_2 & " in latex
    assert latex.count(r"\textbf{") == 2


def test_means_of_different_photos_are_not_ranked(folders: Path, compare: Callable[..., Comparison]) -> None:
    (folders / "softer_2" / "two.png").unlink()
    found = compare("soft", "softer_2")
    assert found.best(found.metrics[0]) is None
    assert "**" not in markdown_table(found)
    assert re.search(r"\| softer_2 \| [\d.]+ \(2 photos\) \|", markdown_table(found))
    assert json.loads(found.to_json())["methods"]["softer_2"]["photos"] == {"psnr": 2, "ssim": 2}
    write_page(found, folders / "report.html")
    page = (folders / "report.html").read_text()
    assert 'class="best"' not in page
    assert "(2 photos)" in page


def test_no_method_is_best_without_a_figure_or_with_an_infinite_one(compare: Callable[..., Comparison]) -> None:
    found = compare("soft", "softer_2")
    psnr = found.metrics[0]
    for figures in ({}, {"psnr": float("inf")}):
        scores = FolderScores((ImageScores("one", figures),), {}, {})
        assert Comparison({"a": scores, "b": scores}, [psnr], found.matched, 0, {}).best(psnr) is None


class Spread:
    """A metric of whole folders, which counts the photos that it is asked for."""

    Config = Options
    needs_reference, lower_is_better, min_side, details = True, True, 1, "difference of means"
    calls: ClassVar[list[int]] = []

    def __init__(self, config: Options) -> None:
        pass

    def measure(self, images: torch.Tensor, references: torch.Tensor | None) -> torch.Tensor:
        self.calls.append(len(images))
        return images.mean(dim=(2, 3))

    def compare(self, features: torch.Tensor, references: torch.Tensor) -> float:
        return float((features.mean() - references.mean()).abs())


def test_features_of_references_are_computed_once_for_all_methods(compare: Callable[..., Comparison]) -> None:
    Spread.calls.clear()
    found = compare("soft", "softer_2", metrics=["part"], registry=registry_with("metric", Spread))
    assert len(Spread.calls) == 9
    assert found.best(found.metrics[0]) in ("soft", "softer_2")
    assert json.loads(found.to_json())["methods"]["soft"]["photos"] == {"part": 3}


def test_a_photo_that_one_of_two_methods_has_is_no_crop(folders: Path) -> None:
    (folders / "softer_2" / "two.png").unlink()
    found = match_methods({"soft": folders / "soft", "softer": folders / "softer_2"}, folders / "HR", None)
    assert {crop.photo for crop in crops_that_differ(found.methods, found.references, 5)} == {"one", "three"}


def test_the_crop_is_where_the_methods_differ(tmp_path: Path) -> None:
    files: dict[str, dict[str, Path]] = {"a": {}, "b": {}}
    for method in files:
        pixels = np.full((400, 600, 3), 90, np.uint8)
        if method == "b":
            pixels[320:336, 480:496] = 250
        files[method]["photo"] = tmp_path / f"{method}.png"
        Image.fromarray(pixels).save(files[method]["photo"])
    (crop,) = crops_that_differ(files, {}, 5, side=128)
    left, top, right, bottom = crop.box
    assert left <= 480 < 496 <= right
    assert top <= 320 < 336 <= bottom
    assert (right - left, bottom - top) == (128, 128)
    assert crops_that_differ({"a": files["a"], "c": files["a"]}, {}, 5) == []


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("folder", [False, True])
def test_the_page_is_complete_without_a_network_and_escaped(
    folders: Path, compare: Callable[..., Comparison], folder: bool
) -> None:
    for where, suffix in (("HR", ""), ("soft", "_x4"), ("softer_2", ""), ("LR", "")):
        (folders / where / f"one{suffix}.png").rename(folders / where / f"{NASTY.replace('/', '_')}{suffix}.png")
    (folders / "soft").rename(folders / "<b>soft")
    lines = [
        {"status": "restored", "result": str(file), "width": 1000, "height": 500, "seconds": 2.5, "high": "<i>sky"}
        for file in (folders / "softer_2").iterdir()
    ]
    (folders / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"status": "resto')
    found = compare("<b>soft", "softer_2", input=folders / "LR", logs=[folders / "log.jsonl"])
    write_page(found, folders / "out" / "report.html", image_folder=folder)
    text = (folders / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "<b>" not in text
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    images = [attributes for tag, attributes in page.elements if tag == "img" and "src" in attributes]
    assert len(images) >= 3 * 4
    assert all(attributes["alt"] for attributes in images)
    for attributes in images:
        source = str(attributes["src"])
        assert (folders / "out" / source).is_file() if folder else source.startswith("data:image/")
    assert sum(tag == "input" and attributes["type"] == "range" for tag, attributes in page.elements) == 3
    words = " ".join(page.texts)
    assert NASTY.replace("/", "_") in words
    assert "peak 255" in words
    assert re.search(r"Prompt of the content: softer_2 +<i>sky", words)
    assert "5.00" in words, "seconds per megapixel"


def test_the_plot_has_a_point_for_each_method_and_a_line_for_a_sweep(compare: Callable[..., Comparison]) -> None:
    pytest.importorskip("matplotlib")
    found = compare("soft")
    assert trade_off(found) is None, "no perceptual metric was measured"
    lpips = ChosenMetric("lpips", found.metrics[1].metric, "")
    scores = {
        name: FolderScores((ImageScores("a", {"psnr": 30 - i, "lpips": 0.3 - 0.1 * i}),), {}, {})
        for i, name in enumerate(("fidelity-1", "fidelity-0.5", "$other$"))
    }
    found = Comparison(scores, [found.metrics[0], lpips], found.matched, 0, {})
    drawn = trade_off(found)
    assert drawn is not None
    assert drawn == trade_off(found)
    assert drawn.count(b'id="line2d_') > compare_lines_without_a_sweep(found)
    assert (trade_off(found, "png") or b"").startswith(b"\x89PNG")


def test_no_name_leaves_the_plot(compare: Callable[..., Comparison], monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = pytest.importorskip("matplotlib.pyplot")
    found, drawn = compare("soft"), []
    lpips = ChosenMetric("lpips", found.metrics[1].metric, "")
    scores = {
        f"a method with quite a long name {i}": FolderScores((ImageScores("a", {"psnr": 30 + i, "lpips": i}),), {}, {})
        for i in range(3)
    }
    with monkeypatch.context() as patched:
        patched.setattr(drawing, "close", drawn.append)
        trade_off(Comparison(scores, [found.metrics[0], lpips], found.matched, 0, {}))
    plot = drawn[0].axes[0]
    frame = plot.get_window_extent()
    extents = [text.get_window_extent() for text in plot.texts]
    drawing.close(drawn[0])
    assert len(extents) == 3
    assert all(frame.x0 <= extent.x0 and extent.x1 <= frame.x1 for extent in extents)


def compare_lines_without_a_sweep(found: Comparison) -> int:
    scores = dict(zip(("a", "b", "c"), found.methods.values(), strict=True))
    drawn = trade_off(Comparison(scores, found.metrics, found.matched, 0, {}))
    return (drawn or b"").count(b'id="line2d_')


def test_methods_that_differ_by_a_number_or_a_speed_alone_are_a_sweep() -> None:
    names = ["nano-fast", "other", "fidelity-0.5", "nano-exact", "fidelity-0.25", "nano-balanced", "steps 4"]
    assert sweeps(names) == [["nano-exact", "nano-balanced", "nano-fast"], ["fidelity-0.25", "fidelity-0.5"]]


def test_the_command_writes_all(folders: Path) -> None:
    outputs = {"--report": "r.html", "--json": "r.json"}
    options = [word for option, name in outputs.items() for word in (option, str(folders / name))]
    options += [word for name in ("t.csv", "t.md", "t.tex") for word in ("--table", str(folders / name))]
    methods = [str(folders / name) for name in ("soft", "softer_2")]
    arguments = ["evaluate", *methods, "--reference", str(folders / "HR"), "--input", str(folders / "LR"), *options]
    result = CliRunner().invoke(xpsr, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"softer_2 +│? *3", result.stdout)
    for name in (*outputs.values(), "t.csv", "t.md", "t.tex"):
        assert (folders / name).stat().st_size > 100
    assert CliRunner().invoke(xpsr, [*arguments, "--table", "t.xls"]).exit_code == 2


def run(folders: Path, *arguments: str) -> Result:
    return CliRunner().invoke(xpsr, ["evaluate", *(str(folders / a) if a[0] != "-" else a for a in arguments)])


def test_a_plot_without_axes_is_refused_before_anything_is_measured(folders: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run(folders, "soft", "softer_2", "--reference", "HR", "--metrics=psnr,ssim", "--plot", "p.svg")
    assert result.exit_code == 2
    assert "for instance --metrics psnr,lpips" in result.stderr


def test_a_plot_that_cannot_be_drawn_costs_no_other_file(folders: Path) -> None:
    pytest.importorskip("matplotlib")
    for file in [*(folders / "soft").iterdir(), *(folders / "softer_2").iterdir()]:
        Image.open(file).resize((256, 192)).save(file)
    options = ("--metrics=psnr,niqe", "--plot", "p.svg", "--report", "r.html")
    result = run(folders, "soft", "softer_2", "HR", *options)
    assert result.exit_code == 1
    assert "Not drawn: " in result.stderr
    assert (folders / "r.html").is_file()


def test_of_two_folders_the_second_holds_the_originals_only_if_they_are_needed(folders: Path) -> None:
    for folder in ("soft", "softer_2"):
        for file in (folders / folder).iterdir():
            Image.open(file).resize((256, 192)).save(file)
    result = run(folders, "soft", "softer_2", "--metrics=niqe")
    assert result.exit_code == 0, result.output
    assert "softer_2" in result.stdout
    assert "originals" not in result.stderr
    result = run(folders, "soft", "softer_2", "--metrics=psnr,niqe")
    assert result.exit_code == 0, result.output
    assert f"{folders / 'softer_2'} is taken as the originals of {folders / 'soft'}." in result.stderr
