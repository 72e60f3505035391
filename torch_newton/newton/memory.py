"""What a `RegNewton` carries from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..step import CandidateSystem, Path, Step
from .bandit import History
from .batches import Batches
from .convergence import Rest
from .verification import Verified

VERSION = 1
"""Of the form that `Memory.numbers` has; a change of the fields below is a new version, unless it
adds one that older numbers can do without."""


@dataclass(frozen=True)
class SystemMemory:
    """What is carried of one candidate system.

    Attributes:
        last: the last step that solved it; None before the first.
        scale: s, what its damping is measured against; zero until there is a gradient.
        first_gradient_norm: of the first gradient that it saw; zero until there is one.
        reach: of mini-batch steps, as in `newton.reach`.
    """

    last: Step | None = None
    scale: float = 0.0
    first_gradient_norm: float = 0.0
    reach: float = 1.0


@dataclass(frozen=True)
class Memory:
    """All that the next step depends on, besides the parameters and the scaling D.

    Attributes:
        steps: steps so far.
        first_loss: L at the start of the first step.
        last_step: what `RegNewton.last_step` shows.
        systems: of each candidate system that was solved, by its name.
        available: names of the systems that the last loss allowed; None before the first step.
        history: what the choice among them remembers.
        finite_difference: whether products are known to need differences of gradients.
        verified: what is remembered of the tests of the exact Hessian.
        pivots: rows from which the factor of low rank of the last step was made.
        batches: whether each step sees another batch, and how steps are chosen then.
        rest: what is remembered of steps that did not lower the loss.
    """

    steps: int = 0
    first_loss: float | None = None
    last_step: Step | None = None
    systems: Mapping[str, SystemMemory] = field(default_factory=dict)
    available: tuple[str, ...] | None = None
    history: History = field(default_factory=History)
    finite_difference: bool = False
    verified: Verified = field(default_factory=Verified)
    pivots: tuple[int, ...] = ()
    batches: Batches = field(default_factory=Batches)
    rest: Rest = field(default_factory=Rest)

    def of(self, system: CandidateSystem) -> SystemMemory:
        """What is known of a system; of one not solved before, what is known of its counterpart
        with the same damping and another curvature, whose lambda is the best guess.
        """
        if system.name in self.systems:
            return self.systems[system.name]
        for known in self.systems.values():
            if known.last is None or known.last.path is Path.KRONECKER:
                continue
            if known.last.system.scaled == system.scaled:
                return known
        return SystemMemory()

    @property
    def resting(self) -> bool:
        """Whether the last step was one of training that has come to rest."""
        return self.last_step is not None and self.last_step.converged

    def rest_after(self, step: Step, epsilon: float) -> Rest:
        """What is remembered of steps that did not lower the loss, after one that tried to move.

        Args:
            step: the step.
            epsilon: the unit of rounding of the loss.
        """
        others = [known.last for name, known in self.systems.items() if name != step.system.name]
        return self.rest.after(step, epsilon, [last for last in others if last is not None])

    def numbers(self) -> dict[str, Any]:
        """The memory as numbers in dictionaries, which `load_state_dict` leaves as they are."""
        return {
            "version": VERSION,
            **vars(self),
            "first_loss": {} if self.first_loss is None else {"value": self.first_loss},
            "last_step": _step_numbers(self.last_step),
            "systems": {
                name: {**vars(known), "last": _step_numbers(known.last)}
                for name, known in self.systems.items()
            },
            "available": (
                {} if self.available is None else {"names": dict.fromkeys(self.available, True)}
            ),
            "history": self.history.numbers(),
            "verified": self.verified.numbers(),
            "pivots": dict.fromkeys(self.pivots, True),
            "batches": self.batches.numbers(),
            "rest": self.rest.numbers(),
        }

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any]) -> Memory:
        """The inverse of `numbers`.

        Raises:
            ValueError: they are of another version.
        """
        values = dict(numbers)
        version = values.pop("version", None)
        if version != VERSION:
            raise ValueError(
                f"this checkpoint holds a RegNewton state of version {version}, and this version "
                f"of torch-newton reads version {VERSION}: load the model's parameters alone and "
                "start with a new optimizer, which finds its damping again within a few steps"
            )
        return cls(
            **values
            | {
                "first_loss": values["first_loss"].get("value"),
                "last_step": _step_of(values["last_step"]),
                "systems": {
                    name: SystemMemory(**{**known, "last": _step_of(known["last"])})
                    for name, known in values["systems"].items()
                },
                "available": (tuple(values["available"]["names"]) if values["available"] else None),
                "history": History.from_numbers(values["history"]),
                "verified": Verified.from_numbers(values.get("verified") or Verified().numbers()),
                "pivots": tuple(values.get("pivots", ())),
                "batches": Batches.from_numbers(values.get("batches") or Batches().numbers()),
                "rest": Rest.from_numbers(values.get("rest") or {}),
            }
        )


def _step_numbers(step: Step | None) -> dict[str, Any]:
    return {} if step is None else step.numbers()


def _step_of(numbers: dict[str, Any]) -> Step | None:
    return Step.from_numbers(numbers) if numbers else None


OWN = ("scaling", "kronecker")
"""How the names begin under which a parameter's state holds tensors."""


def check(state: Mapping[str, Any]) -> None:
    """Raise unless what a checkpoint holds for a parameter is a state that `Memory` can read.

    Raises:
        ValueError: it is the state of another optimizer, or of another version.
    """
    if "memory" in state:
        Memory.from_numbers(state["memory"])
    elif {"history", "arms"} <= set(state):
        Memory.from_numbers({"version": "0.1"})
    elif foreign := sorted(name for name in state if not name.startswith(OWN)):
        raise ValueError(
            f"this is not a state of RegNewton but one with {', '.join(map(str, foreign))}: load "
            "it into the optimizer that saved it"
        )
