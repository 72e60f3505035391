"""Tangent kernels as operators against their definitions."""

from __future__ import annotations

import pytest
import torch

from tests.autodiff.test_products import PROBLEMS
from tests.helpers import assert_close
from torch_newton import newton_tangent_kernel, tangent_kernel

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("name", PROBLEMS)
def test_tangent_kernels_agree_with_their_definitions(name: str) -> None:
    torch.manual_seed(0)
    problem = PROBLEMS[name]()
    J, H = problem.jacobian(), problem.hessian()
    outputs = problem.outputs(problem.params)
    assert_close(tangent_kernel(outputs, problem.params).dense(), J @ J.T)
    damping = 0.7 - float(torch.linalg.eigvalsh(H)[0])
    expected = J @ torch.linalg.solve(H + damping * torch.eye(len(H)), J.T)
    nntk = newton_tangent_kernel(problem.loss(outputs), outputs, problem.params, damping, tol=1e-13)
    assert_close(nntk.dense(), expected)
    assert_close(nntk.T.dense(), expected)
