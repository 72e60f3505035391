"""What an import of the package brings with it."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys, torch
before = set(sys.modules)
import torch_newton
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_an_import_brings_nothing_that_torch_has_not_brought() -> None:
    # In a process of its own: others have imported PyTorch's parts, and pytest much besides.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    foreign = [name for name in json.loads(done.stdout) if name.split(".")[0] != "torch_newton"]
    assert foreign == []
