"""``xpsr train``: from a config file to a checkpoint."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from xpsr_sdk import build_pipeline
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.training.loop import TrainingRun


@pytest.fixture
def config(tiny_model: Path, pairs: Path, tmp_path: Path) -> Path:
    file = tmp_path / "train.toml"
    file.write_text(
        f'output = "{tmp_path / "run"}"\nsteps = 1\nbatch_size = 1\ndevice = "cpu"\n'
        f'[model]\nbase = "{tiny_model}"\nbackbone = "residual"\n'
        f'[data]\nfolders = ["{pairs}"]\ncrop = 32\n'
    )
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(xpsr, ["train", *map(str, arguments)])


def refused(result: Result, message: str, code: int = 2) -> None:
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_config_becomes_a_checkpoint(config: Path, tmp_path: Path, tiny_model: Path) -> None:
    result = run(config, "steps=2", "optimizer.learning_rate=1e-3", "optimizer.schedule=cosine")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"The last checkpoint is {tmp_path / 'run' / 'checkpoint-2'}\n"
    build_pipeline(model=str(tiny_model), checkpoint=tmp_path / "run" / "checkpoint-2", device="cpu")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepps=2", "stepps: there is no such option. Did you mean 'steps'?"),
        ("optimizer.learning_rat=1", "optimizer.learning_rat: there is no such option."),
        ("steps=0", "steps: must be at least 1"),
        ("steps", "'steps' is not an override: write section.field=value."),
        ("steps.more=1", "steps is not a section"),
        ("model.backbone=residul", "Did you mean 'residual'?"),
        ("model.base=nowhere", "There is no model 'nowhere': neither a folder or file nor a preset. Known: nano."),
        ("device=cudaa", "There is no device 'cudaa'. Did you mean 'cuda'?"),
    ],
)
def test_a_wrong_field_is_named(config: Path, tmp_path: Path, override: str, message: str) -> None:
    refused(run(config, override), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('data.folders=["nowhere"]', "There is no folder nowhere."),
        ('model.train=["unett.*"]', "no parameter matches 'unett.*'"),
        ("data.crop=1000", "HR must be a whole number of times as large as LR"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(config: Path, override: str, message: str) -> None:
    refused(run(config, override), message, code=1)


@pytest.mark.parametrize("content", [None, "steps = ", "\x00"])
def test_a_file_that_is_no_config(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "wrong.toml"
    if content:
        file.write_text(content)
    refused(run(file), "wrong.toml cannot be read as a TOML file" if content else "wrong.toml does not exist.")


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    refused(run(tmp_path), "cannot be read: it is a folder, not a file")


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = run("--dry-run", config, "steps=50", "batch_size=2")
    assert result.exit_code == 0, result.stderr
    for words in ("controlnet.fusion", "unet.pixel_attention", "Memory of a step:", "50 steps of", "4 images, each"):
        assert words in result.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_a_dry_run_finds_the_same_mistakes(config: Path) -> None:
    refused(run("--dry-run", config, "precision=float16"), "float16, which needs a GPU for training: use bfloat16")
    refused(run("--dry-run", config, "batch_size=3", "gradient_accumulation=2"), "must be a multiple of 2")
    refused(run("--dry-run", config, 'trackers=["tensorbord"]'), "Did you mean 'tensorboard'?")
    assert "1 steps of" in run("--dry-run", config, "steps=1").stdout


def test_a_part_that_is_named_takes_options(config: Path) -> None:
    refused(run(config, "data.degradation.jpg=3"), "The degradation model 'realesrgan' of xpsr-sdk")
    refused(
        run(config, "validation.sampler.ordr=3", "validation.sampler.name=dpmpp-2m"), "validation.folders: is required"
    )


def test_ctrl_c_leaves_a_checkpoint(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = TrainingRun.one_step

    def interrupted(run: TrainingRun) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return step(run)

    monkeypatch.setattr(TrainingRun, "one_step", interrupted)
    result = run(config, "steps=5")
    assert result.exit_code == 130
    assert "Stopping after this step, with a checkpoint; Ctrl-C again stops at once." in result.stderr
    assert result.stdout == f"The last checkpoint is {tmp_path / 'run' / 'checkpoint-1'}\n"
