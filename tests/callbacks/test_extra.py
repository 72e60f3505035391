"""Without the extra `lightning` an import says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

EXTRA = (
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "torchmetrics",
)


@pytest.mark.parametrize("missing", [EXTRA, ("torchmetrics",)], ids=["all of it", "torchmetrics"])
def test_an_import_without_the_extra_says_what_to_install(missing: tuple[str, ...]) -> None:
    # None in sys.modules is Python's own way to say that there is no such module.
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing})); import lightning_callbacks"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: lightning_callbacks needs Lightning: "
        "pip install 'torch-newton[lightning]'"
    )
