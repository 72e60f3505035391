"""Damped inverses of curvature matrices, exact and approximate.

`function_space` is the inverse of the whole Gauss-Newton matrix plus lambda I, `LowRankSpace` that
by iteration with a factor of low rank, `sampled_space` that of a sample of its rows, `Nystrom` that
of its leading eigenvectors, `Kronecker` that of a block for each layer, and `cost` says which is
worth what it takes; `Scaling` changes the identity into a diagonal D; `base` says what a
preconditioner of one's own has to do. (The function
`function_space` is not among the room's names, which would hide the module of that name.)
"""

from .base import AnyPreconditioner, AtDamping, Preconditioner
from .damped_inverse import DampedInverse
from .function_space import FunctionSpace, within_budget
from .kronecker import Kronecker, KroneckerFactored
from .least_squares import least_squares_step
from .low_rank import LowRankInverse, LowRankSpace
from .nystrom import Nystrom
from .sampled_rows import SampledRows, SampledSpace, sampled_space
from .scaling import Scaling
from .table import PRECONDITIONERS

__all__ = [
    "PRECONDITIONERS",
    "AnyPreconditioner",
    "AtDamping",
    "DampedInverse",
    "FunctionSpace",
    "Kronecker",
    "KroneckerFactored",
    "LowRankInverse",
    "LowRankSpace",
    "Nystrom",
    "Preconditioner",
    "SampledRows",
    "SampledSpace",
    "Scaling",
    "least_squares_step",
    "sampled_space",
    "within_budget",
]
