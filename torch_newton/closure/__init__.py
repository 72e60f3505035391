"""The closure of a step as a function of the parameters, evaluated without a trace."""

from .capture import Captured, ClosureError, ClosureWarning, NonFiniteLossError
from .distributed import RankError, Ranks
from .evaluator import Evaluator
from .snapshots import Snapshot
from .start import Start
from .surrogate import Surrogate

__all__ = [
    "Captured",
    "ClosureError",
    "ClosureWarning",
    "Evaluator",
    "NonFiniteLossError",
    "RankError",
    "Ranks",
    "Snapshot",
    "Start",
    "Surrogate",
]
