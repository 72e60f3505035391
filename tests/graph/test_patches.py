"""Patches of images, all and chosen ones, against those of `unfold`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import unfold

from tests.helpers import assert_close, randn
from torch_newton.graph.patches import Patches

pytestmark = pytest.mark.usefixtures("float64")

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "padding": {"padding": (1, 2)},
    "stride": {"stride": (2, 3)},
    "dilation": {"dilation": (2, 1), "padding": (1, 1)},
    "everything": {"kernel": (2, 3), "stride": (3, 2), "dilation": (2, 2), "padding": (3, 0)},
    "groups": {"groups": 2},
}


@pytest.mark.parametrize("name", CASES)
def test_chosen_patches_are_those_of_all(name: str) -> None:
    options = {
        "kernel": (3, 2), "dilation": (1, 1), "padding": (0, 0), "stride": (1, 1), "groups": 1,
    } | CASES[name]  # fmt: skip
    patches, images = Patches(**options), randn(3, 4, 9, 8)
    groups = options.pop("groups")
    columns = unfold(images, options.pop("kernel"), **options)
    places = columns.shape[2]
    assert patches.number(images) == 3 * places
    whole = patches.of(images, None)
    assert whole.shape == (groups, 3 * places, columns.shape[1] // groups)
    expected = columns[1, :, 2].reshape(groups, -1)
    assert_close(whole[:, places + 2], expected)
    chosen = torch.tensor([places + 2, 0, 3 * places - 1, 0])
    assert_close(patches.of(images, chosen), whole[:, chosen])
    assert_close(patches.at_places(columns, chosen), whole[:, chosen])
