r"""Few rows that stand for many in a least-squares problem.

For orthogonal Q with :math:`Q^T [J, t] = [A, b]` the problems :math:`\min_d |J d + t|` and
:math:`\min_d |A d + b|` differ by a constant. The triangular A, of no more rows than P + 1, is
found by one QR decomposition for each block of rows, on top of which that of the rows before is put
(Golub and Van Loan 2013, *Matrix Computations*, section 6.5.3). Its singular values are those of J,
not their squares.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .factored_jacobian import FactoredJacobian
from .normal_equations import BLOCK


def compressed(J: FactoredJacobian, t: Tensor) -> tuple[Tensor, Tensor]:
    """A and b; J and t themselves, where J is one block (`normal_equations.BLOCK`)."""
    found: Tensor | None = None
    start = 0
    for block in J.blocks(max(BLOCK, J.shape[1] ** 2)):
        if block.rows == J.rows:
            return block.dense(), t
        new = torch.cat([block.dense(), t[start : start + block.rows, None]], 1)
        start += block.rows
        stacked = new if found is None else torch.cat([found, new])
        found = torch.linalg.qr(stacked, mode="r").R
    if found is None:
        return J.dense(), t
    return found[:, :-1], found[:, -1]
