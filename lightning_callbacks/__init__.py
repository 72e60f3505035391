"""Lightning callbacks and metrics that show the curvature of a loss while any optimizer trains.

Public are the names below and the modules `lightning_callbacks.figures` and
`lightning_callbacks.overview`, whose functions draw spectra and histories and need Matplotlib,
`lightning_callbacks.metrics` and `lightning_callbacks.quantities`, which has what a logged quantity
of your own is written with. All other modules may change.
"""

# Before all else: it says what to install where that is missing.
from . import compat as _compat  # noqa: F401
from .history import History
from .metrics import Definiteness, HessianSpectrum, TangentKernelSpectrum
from .monitor import CurvatureMonitor
from .quantities import QUANTITIES, Measured, Need, Quantity
from .stop import StopWhenConverged

__all__ = [
    "QUANTITIES",
    "CurvatureMonitor",
    "Definiteness",
    "HessianSpectrum",
    "History",
    "Measured",
    "Need",
    "Quantity",
    "StopWhenConverged",
    "TangentKernelSpectrum",
]
