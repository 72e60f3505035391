"""From the autograd graph of a loss to its per-sample Jacobian.

`find_residuals` walks back from the loss to the outputs z that it is a convex function of (`walk`,
`convex`, `terms`), or cuts the graph where no such function is known and measures the second
derivative Q there (`cut`, `measured`); `output_hessian_root` takes the square root of Q;
`read_jacobian` reads :math:`Q^{1/2} J` by the strategies of `ladder`, of which the cheap ones know
operations (`readers`) and views of parameters (`views`), and `check` tells whether they are right.
"""

from .guard import UnreadableGraphWarning
from .ladder import LADDER, read_jacobian
from .loss_curvature import OutputHessianRoot, output_hessian_root
from .readers import READERS, Use, find_uses
from .reading import Reading, Request, Rung
from .residuals import CURVED, Residuals, Term, find_residuals, read_residuals

__all__ = [
    "CURVED",
    "LADDER",
    "READERS",
    "OutputHessianRoot",
    "Reading",
    "Request",
    "Residuals",
    "Rung",
    "Term",
    "UnreadableGraphWarning",
    "Use",
    "find_residuals",
    "find_uses",
    "output_hessian_root",
    "read_jacobian",
    "read_residuals",
]
