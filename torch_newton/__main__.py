"""``python -m torch_newton`` prints the versions and settings that a bug report should name."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

import torch_newton

RELATED = ("pytorch-lightning", "lightning", "torchmetrics", "numpy")
"""Distributions beside PyTorch on which something here depends, if they are installed."""


def report() -> Iterator[str]:
    """The lines of the report."""
    yield f"torch-newton {torch_newton.__version__}"
    yield f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    # Threads that spin while they wait are what makes a shared machine slow.
    yield f"PyTorch {torch.__version__}, {threads}, {_setting('OMP_WAIT_POLICY')}"
    yield f"default dtype {torch.get_default_dtype()}"
    for device in range(torch.cuda.device_count()):
        yield f"CUDA {torch.version.cuda}: {torch.cuda.get_device_name(device)}"
    for name in RELATED:
        yield f"{name} {_installed(name)}"


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


def _setting(name: str) -> str:
    return f"{name}={os.environ[name]}" if name in os.environ else f"{name} not set"


if __name__ == "__main__":
    print("\n".join(report()))
