"""Nodes still save what the package reads of them, with the meaning that it gives to it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import torch_newton
from tests.contract.files import files_that_name
from tests.contract.saved_fields import FIELDS, Field
from torch_newton.autodiff.nodes import saved

ABSENT = object()
ALSO_NUMBERS = {"other"}
"""Fields in which PyTorch keeps a Python number as a tensor without dimensions."""


def _same(found: Any, value: Any) -> bool:
    if isinstance(value, Tensor):
        return isinstance(found, Tensor) and torch.allclose(found, value)
    if isinstance(value, tuple):
        return len(found) == len(value) and all(map(_same, found, value))
    return bool(found == value)


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"{f.node}-{f.name}")
def test_the_field_has_its_value(field: Field) -> None:
    node = field.make().grad_fn
    assert node is not None
    what = f"{field.node}'s _saved_{field.name}"
    breaks = f"{field.breaks}; {files_that_name(field.node, field.name)}"
    assert node.name() == field.node, f"the expression for {what} makes {node.name()}"
    found = saved(node, field.name, ABSENT)
    assert found is not ABSENT, f"{what} is gone: {breaks}"
    if field.name in ALSO_NUMBERS and not isinstance(field.value, Tensor):
        found = float(found)
    assert _same(found, field.value), f"{what} is {found} and not {field.value}: {breaks}"


def test_every_field_that_is_read_is_tried() -> None:
    """The names that occur in calls of `saved`, as far as they are written out there."""
    tried = {field.name for field in FIELDS}
    for path in Path(torch_newton.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "saved":
                continue
            names = {
                constant.value
                for argument in call.args
                for constant in ast.walk(argument)
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
            }
            assert names <= tried, (
                f"{path.name} reads {sorted(names - tried)}: add what they must be to FIELDS in "
                "tests/contract/saved_fields.py"
            )
