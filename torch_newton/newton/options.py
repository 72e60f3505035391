"""The options of `RegNewton`, checked.

Every input that it cannot work with is answered by one exception or warning that says what to
do next. (``tests/newton/test_bad_input.py`` provokes each line of this table.)

==================================================  =========================================
what is wrong                                       what it says
==================================================  =========================================
``lr`` negative or not finite                       lr must be finite and >= 0
``lr`` no number                                    lr must be a number
``lr`` a tensor of several elements                 Tensor lr must be 1-element
``lr`` of another optimizer (a warning)             is a learning rate for
``weight_decay`` negative or not finite             weight_decay must be finite and >= 0
``weight_decay`` no number                          weight_decay must be a number
``damping`` negative or not finite                  damping must be a finite number
``damping`` an unknown name                         unknown damping
``damping`` of another type                         damping must be a name, a number
a rule that returns a negative or infinite lambda   the damping rule returned
a rule with constants out of range                  needs
``curvature`` unknown                               curvature must be one of
``preconditioner`` unknown                          preconditioner must be
``cg_max_iter`` not a positive integer              cg_max_iter must be a positive
``cg_tol`` outside [0, 1)                           cg_tol must be a number in
``width`` not a positive integer                    width must be a positive integer
``hvp`` unknown                                     hvp must be one of
``scaling`` unknown                                 scaling must be
``scaling`` with another preconditioner             scaling='jacobian' needs the rows
``scaling`` with Kronecker factors                  scaling='jacobian' cannot go with
``scaling`` of a loss whose rows cannot be read     scaling='jacobian' needs a loss
``correction`` not a bool                           correction must be True or False
``maximize`` not a bool                             maximize must be True or False
``verbose`` not a bool                              verbose must be True or False
another optimizer's option in a group               RegNewton has no
an option for all parameters in a group             cannot differ between parameter groups
no parameters                                       empty parameter list
one tensor instead of a list                        should be an iterable
a parameter that is no tensor                       can only optimize Tensors
a parameter that was computed                       can't optimize a non-leaf Tensor
a parameter in two groups                           some parameters appear in more than
a parameter given twice                             a parameter is given twice
two parameters in the same memory                   share their memory
an expanded parameter                               an expanded tensor
complex, integer or sparse parameters               real dense floating-point
half-precision parameters                           has too few digits
several dtypes                                      must share one dtype
several devices                                     must share one device
parameters on the meta device                       on the meta device
parameters of a lazy module                         has no shape yet
parameters without entries                          have no entries
parameters made in inference mode                   made under torch.inference_mode()
parameters of FSDP or tensor parallelism            does not work with FSDP
parameters that are all frozen                      no parameter requires a gradient
no closure, as from some trainers                    step() needs a closure
a GradScaler                                        a GradScaler scales
a closure that cannot be called                     needs a callable closure
a closure without a loss                            neither called loss.backward()
``torch.autograd.backward(loss)``                   write loss.backward() instead
``loss.backward(inputs=...)``                       is not supported
a loss that is no scalar                            must be a scalar
a complex loss                                      the loss is complex
a loss without a graph                              without a graph
a loss that is not finite                           the loss is
a gradient that is not finite                       the gradient is not finite
a loss of other parameters                          does not depend on any parameter
a sparse gradient                                   a gradient is sparse
a reentrant checkpoint                              pass use_reentrant=False
embeddings that divide their gradient               scale_grad_by_freq=False
``step`` in inference mode                          leave it
an iterator that ends within a step                 take the batch from the loader
another batch at each call (a warning)              evaluated again at the same
parameters changed by the closure                   changes the parameters in place
Gauss-Newton of a loss that is not a sum            curvature='gauss_newton' needs
Kronecker factors of such a loss                    curvature='kronecker' needs
operations without a second derivative              second derivative
a second derivative that is wrong (a warning)       is not the derivative of the gradient
a gradient that is none (a warning)                 not the gradient of any function
too few products for a fixed damping (a warning)    was not solved to cg_tol
a closure without ``zero_grad`` (a warning)         call optimizer.zero_grad() in the closure
a loss over its own detached value (a warning)      divided by its own detached value
hooks on parameters (a warning)                     also acts on every product
clipping to a small part (a warning)                shortens the gradient
==================================================  =========================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ..curvature.base import Curvature
from ..curvature.table import curvatures
from ..damping import Adaptive, MiniBatch, RetryingRule, damping_rule
from ..damping.base import AnyRule
from ..preconditioners.base import AnyPreconditioner
from ..preconditioners.table import preconditioner
from ..step import CandidateSystem

SCALINGS = ("auto", "jacobian", None)
HVPS = ("auto", "exact", "finite_difference")


def rule_for(damping: str | float | AnyRule, curvature: str | Curvature) -> AnyRule:
    """The rule that `damping` stands for; ``"auto"`` is another one for averaged curvatures."""
    if damping == "auto" and any(found.averaged for found in curvatures(curvature, True)):
        return MiniBatch()
    return damping_rule(damping)


@dataclass(frozen=True)
class Options:
    """What holds for all parameters together; `lr` alone may differ between groups.

    Raises:
        ValueError: a value is out of its range.
    """

    damping: AnyRule
    curvature: str | Curvature
    preconditioner: str | AnyPreconditioner | None
    cg_max_iter: int | None
    cg_tol: float | None
    width: int | None
    scaling: str | None = "auto"
    hvp: str = "auto"
    correction: bool = True
    maximize: bool = False
    max_memory: int | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        curvatures(self.curvature, adaptive=False)  # complains of an unknown one
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling must be 'auto', 'jacobian' or None, not {self.scaling!r}")
        if self.scaling == "jacobian" and self.averaged:
            raise ValueError(
                "scaling='jacobian' cannot go with curvature='kronecker', which has a scale for "
                "each direction already: leave the scaling as it is, or the curvature"
            )
        if self.scaling == "jacobian" and self.preconditioner != "auto":
            raise ValueError(
                "scaling='jacobian' needs the rows that preconditioner='auto' reads: leave the "
                "preconditioner as it is, or the scaling"
            )
        if self.hvp not in HVPS:
            names = ", ".join(repr(name) for name in HVPS)
            raise ValueError(f"hvp must be one of {names}, not {self.hvp!r}")
        for name in ("correction", "maximize", "verbose"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}")
        preconditioner(self.preconditioner)
        for name in ("cg_max_iter", "width", "max_memory"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and value >= 1):
                raise ValueError(f"{name} must be a positive integer or None, not {value!r}")
        tol = self.cg_tol
        number = isinstance(tol, (int, float)) and not isinstance(tol, bool)
        if tol is not None and not (number and 0 <= tol < 1):
            raise ValueError(f"cg_tol must be a number in [0, 1) or None, not {tol!r}")

    @cached_property
    def retrying(self) -> RetryingRule | None:
        """The damping rule, where it puts steps to a ratio test."""
        return self.damping if isinstance(self.damping, RetryingRule) else None

    @cached_property
    def prepared(self) -> str | AnyPreconditioner | None:
        """The preconditioner: ``"auto"``, None, or a callable, where a name is one's own."""
        return preconditioner(self.preconditioner)

    @cached_property
    def curvatures(self) -> tuple[Curvature, ...]:
        """The curvatures that a step may choose among."""
        return curvatures(self.curvature, adaptive=self.retrying is not None)

    @cached_property
    def systems(self) -> Mapping[CandidateSystem, Curvature]:
        """The systems that a step may choose among, where the loss allows them, and their matrix.

        With a fixed damping it is the exact Hessian and lambda I unless the user says otherwise:
        that is the paper's method.
        """
        scaled = [False, True]
        if self.scaling != "auto" or self.retrying is None or self.preconditioner != "auto":
            scaled = [self.scaling == "jacobian"]
        return {
            CandidateSystem(curvature.name, with_scaling, curvature.exact): curvature
            for curvature in self.curvatures
            for with_scaling in scaled
        }

    @cached_property
    def for_batches(self) -> Options | None:
        """The options of steps that see another batch each; None where the user chose a way."""
        chosen = (self.curvature, self.preconditioner, self.scaling, self.damping)
        if chosen != ("auto", "auto", "auto", Adaptive()):
            return None
        return replace(self, curvature="kronecker", damping=MiniBatch())

    @property
    def averaged(self) -> bool:
        """Whether the curvature is a running mean, and a step that of `newton.stochastic`."""
        return any(curvature.averaged for curvature in self.curvatures)

    @property
    def exact(self) -> bool:
        """Whether some candidate is the exact Hessian, which differences of gradients can give."""
        return any(curvature.exact for curvature in self.curvatures)
