r"""The matrix of the normal equations, :math:`J^T J`, summed over blocks of rows.

.. math:: J^T J = \sum_b J_b^T J_b.

So J, R x P, never exists as a whole: beside the factors of its rows the sum takes P^2 numbers and
those of one block, however many rows there are, and R P^2 operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .factored_jacobian import FactoredJacobian
from .gram import add_product, mirror, symmetric_product

BLOCK = 2**22
"""Entries of J that are formed at a time, 32 MiB in double precision. Measured on one core for
9,216 rows of 1,361 entries: blocks of 1,024, 3,072 and all rows take the same time, 1.2 of that of
BLAS's symmetric product."""


def normal_matrix(J: FactoredJacobian) -> Tensor:
    """J^T J, P x P; zero without rows."""
    total = None
    for block in J.blocks(BLOCK):
        columns = block.dense().T
        if total is not None:
            add_product(total, columns)
        elif block.rows == J.rows:
            return symmetric_product(columns)
        else:
            total = columns.new_zeros(len(columns), len(columns))
            add_product(total, columns)
    if total is None:
        return torch.zeros(J.shape[1], J.shape[1], dtype=J.dtype, device=J.device)
    return mirror(total)
