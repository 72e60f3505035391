"""Lightning callbacks that show the curvature of a loss while any optimizer trains."""

from .monitor import CurvatureMonitor

__all__ = ["CurvatureMonitor"]
