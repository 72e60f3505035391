"""Lightning callbacks and metrics that show the curvature of a loss while any optimizer trains."""

from .metrics import Definiteness, HessianSpectrum, TangentKernelSpectrum
from .monitor import CurvatureMonitor

__all__ = ["CurvatureMonitor", "Definiteness", "HessianSpectrum", "TangentKernelSpectrum"]
