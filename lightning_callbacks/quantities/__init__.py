"""The quantities that CurvatureMonitor logs, in one table that is open to your own."""

from .base import Measured, Need, Numbers, Quantity
from .table import QUANTITIES

__all__ = ["QUANTITIES", "Measured", "Need", "Numbers", "Quantity"]
