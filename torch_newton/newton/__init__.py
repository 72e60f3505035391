"""One step of regularized Newton's method: options, choice of a system, model, search, memory."""

from .bandit import History
from .iteration import Iteration
from .memory import Memory
from .observation import Observation
from .options import Options
from .outcome import Outcome
from .proposal import Proposal
from .quadratic_model import QuadraticModel
from .trust_region import TrustRegionSearch

__all__ = [
    "History",
    "Iteration",
    "Memory",
    "Observation",
    "Options",
    "Outcome",
    "Proposal",
    "QuadraticModel",
    "TrustRegionSearch",
]
