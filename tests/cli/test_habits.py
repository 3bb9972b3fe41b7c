"""How people call the command line: pipes, target sizes, names of results, several folders."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.support import tiny
from xpsr_sdk import Pipeline, Registry, build_pipeline
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.cli.progress import PhotoProgress, ProgressLines
from xpsr_sdk.cli.restoration import RestorationWork, Restored
from xpsr_sdk.cli.result_files import plan_result_files
from xpsr_sdk.config import OutputConfig, PipelineConfig, load_config, read_toml
from xpsr_sdk.errors import ConfigError
from xpsr_sdk.files.locks import file_claim
from xpsr_sdk.models.find_model import find_model

Run = Callable[..., Result]


@pytest.fixture
def run(tiny_model: Path) -> Run:
    """Runs ``xpsr upscale`` with the tiny model."""

    def run(*arguments: object, given: bytes | None = None) -> Result:
        chosen = ["--model", tiny_model, "--device", "cpu"]
        return CliRunner().invoke(xpsr, ["upscale", *map(str, [*arguments, *chosen])], input=given)

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    tiny.photo(20, 16).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_dash_is_standard_input_and_output(run: Run, photo: Path) -> None:
    result = run("-", "-o", "-", "--format", "JPG", "--max-side", 40, given=photo.read_bytes())
    assert result.exit_code == 0
    with Image.open(BytesIO(result.stdout_bytes)) as image:
        assert (image.format, image.size) == ("JPEG", (40, 32))
    assert "1 of 1 restored" in result.stderr


def test_what_is_no_photo_on_standard_input(run: Run, tmp_path: Path) -> None:
    result = run("-", "-o", tmp_path / "out.png", given=b"words")
    assert result.exit_code == 1
    assert result.stderr == "Failed: standard input is not an image, or of a type that is not supported.\n"


def test_a_suffix_and_a_type_name_the_results(run: Run, photo: Path) -> None:
    for _ in range(2):  # the result of the first time is no photo of the second
        assert run(photo.parent, "-o", photo.parent, "--suffix", "_x2", "--format", "JPG", "--scale", 2).exit_code == 0
    assert sorted(p.name for p in photo.parent.iterdir()) == ["photo.png", "photo_x2.jpg"]


def test_quality(run: Run, photo: Path, tmp_path: Path) -> None:
    for quality in (20, 95):
        assert run(photo, "-o", tmp_path / f"{quality}.jpg", "--quality", quality, "--seed", 1).exit_code == 0
    assert (tmp_path / "20.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size


def test_json_and_quiet(run: Run, photo: Path, tmp_path: Path) -> None:
    line = json.loads(run(photo, "-o", tmp_path / "one.png", "--json").stdout)
    assert (line["status"], line["width"]) == ("restored", 80)
    assert run(photo, "-o", tmp_path / "two.png", "--quiet").output == ""


def test_two_sizes_are_refused(run: Run, photo: Path, tmp_path: Path) -> None:
    result = run(photo, "-o", tmp_path / "out.png", "--width", 100, "--megapixels", 2)
    assert result.exit_code == 2
    assert "width and megapixels each say how large the result is" in result.stderr


def test_folders_with_photos_of_equal_names(tmp_path: Path) -> None:
    for place in ("a/photos", "b/photos"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.png").touch()
    folders, output = [tmp_path / "a" / "photos", tmp_path / "b" / "photos"], tmp_path / "out"
    targets = [target for _, target in plan_result_files(folders, output, OutputConfig())]
    assert targets == [output / "a" / "photos" / "1.png", output / "b" / "photos" / "1.png"]


def test_other_names_of_jpeg_files(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.JPE", "c.bmp"):
        (tmp_path / name).touch()
    targets = [target.name for _, target in plan_result_files([tmp_path], tmp_path / "out", OutputConfig())]
    assert targets == ["a.jpg", "b.jpg", "c.png"]


@pytest.mark.parametrize("given", [b"", None])
def test_an_empty_file_is_said_to_be_empty(run: Run, tmp_path: Path, given: bytes | None) -> None:
    photo = tmp_path / "empty.jpg" if given is None else "-"
    (tmp_path / "empty.jpg").touch()
    result = run(photo, "-o", tmp_path / "out.png", given=given)
    assert result.exit_code == 1
    assert result.stderr == f"Failed: {'standard input' if given == b'' else photo} is empty: it has 0 bytes.\n"


@pytest.mark.parametrize("names", [("", "-o", "out"), (".", "-o", "")])
def test_an_empty_name_is_refused(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str]) -> None:
    monkeypatch.chdir(photo.parent)
    result = run(*names)
    assert result.exit_code == 2
    assert "the name is empty: name a file or a folder" in result.stderr
    assert [p.name for p in photo.parent.iterdir()] == ["photo.png"]


def test_a_full_disk_behind_standard_output(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("xpsr_sdk.result.Result.save", save)
    result = run(photo, "-o", "-", "--quiet")
    assert result.exit_code == 1
    assert result.stderr == "Failed: Standard output cannot be written to: No space left on device.\n"


@pytest.mark.skipif(os.name == "nt", reason="there are no devices in the file system")
def test_a_device_is_no_folder(run: Run, photo: Path) -> None:
    result = run(photo, "-o", "/dev/null")
    assert result.exit_code == 2
    assert "/dev/null is a file: name a folder" in result.stderr


def test_bitsandbytes_says_nothing_in_the_command() -> None:
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)


def test_progress_is_told_in_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLines() as lines:
        task = lines.add_task("photo.png", total=100)
        for done in range(101):
            lines.update(task, completed=done)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 9
    assert told[0] == "10%, 10 of 100 done, photo.png"


def test_progress_tells_photos_a_second_and_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0.0, 5.0, 10.0, 20.0, 5000.0])
    with ProgressLines() as lines:
        shown = PhotoProgress(lines, lines.add_task("describing"), clock=lambda: next(seconds))
        shown.tell(100, 1000)  # by an earlier run
        shown.tell(250, 1000)
        shown.fail(Path("photos", "a.png"), "It is no image.")
        shown.tell(400, 1000)
        shown.tell(500, 1000, "now b.png")  # the pace is that of the last minutes
    assert capsys.readouterr().err.splitlines() == [
        "10%, 100 of 1000 done, describing",
        "25%, 250 of 1000 done, 15 photos/s, describing",
        "40%, 400 of 1000 done, 15 photos/s, 1 failed (last: a.png), describing",
        "50%, 500 of 1000 done, 0.0201 photos/s, 1 failed (last: a.png), now b.png",
    ]


def test_what_is_done_within_a_photo_is_told_where_it_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProgressLines() as lines:
        shown = PhotoProgress(lines, lines.add_task(""))
        shown.tell(0, 2, "now a.png")
        shown.tell_within(0.5, "Enlarging in one tile")
        monkeypatch.setattr(f"{PhotoProgress.__module__}.LINE_SECONDS", 0)  # a minute has passed
        shown.tell_within(0.75, "Restoring: step 1 of 20")
    assert capsys.readouterr().err == "38%, 0 of 2 done, restoring: step 1 of 20, now a.png\n"


def test_a_restoration_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    settings = PipelineConfig(model="none", upscaler="bicubic", region=256, region_overlap=64, scale=8)
    work = RestorationWork(settings, OutputConfig(), Registry([]), progress=lambda *each: told.append(each))
    with work.warm() as restore:
        tiny.photo(40, 32).save(tmp_path / "small.png")
        restore((tmp_path / "small.png", tmp_path / "out.png"))
    assert told == sorted(told, key=lambda each: each[0])
    parts = list(dict.fromkeys(words.partition(":")[0] for _, words in told if words.startswith("Part")))
    assert parts == ["Part 1 of 2", "Part 2 of 2"]
    assert told[-1][0] > 0.5


def test_a_home_folder_and_a_byte_order_mark_in_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "c.toml").write_bytes(b'\xef\xbb\xbfcheckpoint = "~/trained"\n')
    assert read_toml(PipelineConfig, tmp_path / "c.toml").checkpoint == tmp_path / "trained"
    (tmp_path / "model").mkdir()
    assert find_model("~/model") == tmp_path / "model"


def test_a_type_that_cannot_be_written_is_no_name_of_a_folder(run: Run, photo: Path, tmp_path: Path) -> None:
    result = run(photo, "-o", tmp_path / "out.xyz")
    assert result.exit_code == 2
    assert ".xyz cannot be written; use one of .avif, .jpeg" in result.stderr
    (tmp_path / "out.xyz").mkdir()
    assert run(photo, "-o", tmp_path / "out.xyz", "--scale", 1).exit_code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFO, and links need a permission")
def test_what_cannot_be_read_in_a_folder_is_told(run: Run, photo: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    photo.rename(photos / "a\x1b[31m.png")
    (photos / "b.png").symlink_to("nowhere.png")
    os.mkfifo(photos / "c.png")
    result = run(photos, "-o", tmp_path / "out", "--scale", 1)
    assert result.exit_code == 1
    assert "b.png is a link to nowhere.png, which does not exist." in result.stderr
    assert "c.png cannot be read: it is a device or a pipe, not a file." in result.stderr
    assert "1 of 3 restored" in result.stdout


def test_progress_tells_how_many_are_done_and_which_is_in_work(run: Run, photo: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("1.png", "2\x1b]0;\n.png"):
        (photos / name).write_bytes(photo.read_bytes())
    result = run(photos, "-o", tmp_path / "out", "--scale", 1)
    assert re.fullmatch(r"50%, 1 of 2 done, [\d.]+ photos/s, now 2\\x1b]0;\\n\.png\n", result.stderr)


def test_options_without_effect_are_told(run: Run, photo: Path, tmp_path: Path) -> None:
    result = run(photo, "-o", tmp_path / "out.png", "--quality", 50, "--scale", 1)
    assert result.stderr == "Warning: --quality has no effect on .png files, which lose nothing.\n"
    words = ["upscale", str(photo), "-o", str(tmp_path / "none.png"), "--model", "none", "--upscaler", "bicubic"]
    none = CliRunner().invoke(xpsr, [*words, "--steps", "5", "--scale", "1"])
    assert "(model is 'none'), these have no effect: num_inference_steps." in none.stderr
    blended = CliRunner().invoke(xpsr, [*words, "--overwrite", "--fidelity", "0.5", "--scale", "1"])
    assert blended.stderr.count("fidelity blends the upscaler's image with the bicubic one, and has no effect") == 1


@pytest.mark.parametrize("field", ["checkpoint", "vae", "lora", "embedding"])
def test_an_empty_setting_is_not_the_current_folder(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"{field}\S*: (it is empty|must be text of 1)"):
        build_pipeline(**{field: ""})  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", [{"width": 10**15}, {"megapixels": 1e300}])
def test_a_size_beyond_all_photos_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be at most 1"):
        build_pipeline(**setting)  # type: ignore[arg-type]


def test_a_negative_prompt_without_guidance_is_told(tiny_model: Path) -> None:
    with pytest.warns(UserWarning, match="negative have no effect: guidance_scale is 1"):
        build_pipeline(model=str(tiny_model), device="cpu", negative="blurry", guidance_scale=1)


def test_a_result_that_is_smaller_than_the_photo_is_told(run: Run, tmp_path: Path) -> None:
    tiny.photo(40, 32).save(tmp_path / "large.png")
    result = run(tmp_path / "large.png", "-o", tmp_path / "out.png", "--width", 30)
    assert "large.png is 40x32: its result is smaller, 30x24.\n" in result.stderr


def test_explain_tells_the_size_of_the_result_and_the_upscaler(run: Run, photo: Path, tmp_path: Path) -> None:
    told = run(photo, "-o", tmp_path / "out.png", "--explain", "--upscaler", "realesrgan-x4plus").stdout
    assert "Result:      80 x 64 pixels\n" in told
    assert "Upscaler:    realesrgan-x4plus, 4 times, weights 64 MiB, tiles of 20 pixels (" in told
    assert "of features in float32)" in told


def test_misspelt_commands_and_choices() -> None:
    assert "No such command 'upscle'. Did you mean 'upscale'?" in CliRunner().invoke(xpsr, ["upscle"]).stderr
    with pytest.raises(ConfigError) as error:
        load_config(PipelineConfig, {"dtype": "float23", "sampler": 3, "execution": {"ofload": "model"}}, "The call")
    _, sampler, dtype, offload = str(error.value).splitlines()
    assert sampler == "  sampler: must be text or a table, not 3."
    assert dtype == "  dtype: must be 'float32', 'bfloat16' or 'float16', not 'float23'. Did you mean 'float32'?"
    assert offload.startswith("  execution.ofload: there is no such option. Did you mean 'offload'? Known: compile,")


def test_two_runs_on_one_folder_share_the_work(run: Run, photo: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("1.png", "2.png"):
        (photos / name).write_bytes(photo.read_bytes())
    with file_claim(out / "1.png") as is_free:  # as the other run has it
        assert is_free
        result = run(photos, "-o", out, "--scale", 1)
    assert result.exit_code == 0
    assert "1 of 2 restored" in result.stdout
    if os.name == "posix":
        assert "1 left to another run, which is restoring them" in result.stdout
        assert os.listdir(out) == ["2.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks on files")
def test_a_photo_whose_worker_was_lost_is_restored_by_the_same_run(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out, made = tmp_path / "photos", tmp_path / "out", []
    photos.mkdir()
    for name in ("1.png", "2.png", "3.png"):
        (photos / name).write_bytes(photo.read_bytes())
    restore = RestorationWork._restore
    with ExitStack() as lost_worker:
        lost_worker.enter_context(file_claim(out / "1.png"))

        def restore_later(work: RestorationWork, pipeline: Pipeline, source: Path, target: Path) -> Restored:
            if source.name == "3.png":
                lost_worker.close()  # the system has noticed its end
            made.append(source.name)
            return restore(work, pipeline, source, target)

        monkeypatch.setattr(RestorationWork, "_restore", restore_later)
        result = run(photos, "-o", out, "--scale", 1, "--log", tmp_path / "log")
    assert "3 of 3 restored" in result.stdout
    assert made == ["2.png", "3.png", "1.png"]
    assert len((tmp_path / "log").read_text().splitlines()) == 3
    assert sorted(os.listdir(out)) == ["1.png", "2.png", "3.png"]


def test_what_a_killed_run_left_goes_though_all_is_done(run: Run, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    out.write_bytes(photo.read_bytes())
    (tmp_path / ".xpsr-0123456789abcdef.lock").touch()
    assert "1 skipped" in run(photo, "-o", out).stdout
    assert not [*tmp_path.glob(".xpsr-*.lock")] or os.name != "posix"
