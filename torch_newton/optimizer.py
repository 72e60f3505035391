"""RegNewton: regularized Newton's method as a `torch.optim.Optimizer`."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .autodiff.finite_difference import NonFiniteProductError, gradient_alone
from .autodiff.products import (
    NotTwiceDifferentiableError,
    check_twice_differentiable,
    differentiable_gradient,
    plain_gradient,
)
from .closure.accumulation import BackwardCalls
from .closure.capture import Closure, ClosureError, NonFiniteLossError
from .closure.evaluator import Evaluator
from .damping.rules import DampingContext, DampingRule, damping_rule
from .damping.rules import width as inferred_width
from .linalg.flat import flatten
from .linalg.solution import Stop
from .newton.advice import advice
from .newton.bandit import History
from .newton.linearization import Linearization, read
from .newton.observation import Observation, Observer
from .newton.options import Options, check_group, check_lr, check_params, warn_of_foreign_lr
from .newton.quadratic_model import QuadraticModel
from .newton.trust_region import TrustRegionSearch
from .preconditioners.base import Preconditioner
from .preconditioners.scaling import Scaling
from .step import Step, arms_of, mask_of


class RegNewton(torch.optim.Optimizer):
    r"""Regularized Newton's method: each step solves :math:`(H + \lambda I)\,d = -\nabla L`.

    H is the exact Hessian of the loss that the closure computes, known by its products with
    vectors, or its Gauss-Newton part :math:`J^T Q J`; I may also be D, like the diagonal of that
    part; and :math:`\lambda` follows a rule. By default each step takes the combination that has
    gained most for its cost (`newton.bandit`). The system is solved in the space of the
    residuals where these can be read off the graph, and by conjugate gradients from there; and
    there a step that an adaptive rule refuses is tried once more with a second-order correction
    (`QuadraticModel.corrected`), unless parameter groups differ in `lr`.

    The closure is the usual one, unchanged, and is called at least twice a step: for the loss with
    its graph, and for the loss at the new point, on the same batch with the same random state.

    >>> x = torch.nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    >>> optimizer = RegNewton([x])
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(40):
    ...     loss = optimizer.step(closure)
    >>> [round(value, 6) for value in x.tolist()]
    [1.0, 1.0]

    Source: Riedl, Spiliopoulos and Sirignano (2026), arXiv 2605.08352, for the method and for
    how the damping scales with width; the adaptive rule is this package's own (`Adaptive`).

    Args:
        params: parameters or groups of them; a group may have its own `lr`. All real, of one
            dtype, on one device.
        lr: length of the step in units of the solution d; 1 is Newton's method.
        damping: ``"auto"`` starts at :math:`\lambda_0 s n^{-1/4}` and adapts by a ratio test;
            ``"width"`` is the paper's fixed :math:`\gamma N^{1-2\beta}`; ``"kernel_min"`` and
            ``"residual"`` are `KernelMin` and `ResidualFollowing`; a number is that
            lambda, absolute and fixed; or a rule (see `torch_newton.damping`). With a fixed
            one the system is solved to `cg_tol`, also where it is indefinite, and the step is
            taken unless the loss is not finite there.
        curvature: ``"hessian"``; ``"gauss_newton"`` for :math:`J^T Q J`, which leaves out
            the indefinite part; or ``"auto"``: each step takes what has gained most for its cost
            (see `newton.bandit`), and the exact Hessian under a fixed damping. Gauss-Newton
            needs a loss that `find_residuals` recognises. With ``damping=0.0`` it is undamped,
            by least squares with a cut at the numerical rank: for fewer parameters than
            residuals, with an `lr` such as 0.5.
        preconditioner: ``"auto"``, None, or a callable (see `torch_newton.preconditioners`).
        cg_max_iter: products a solve may take. Where None: under an adaptive damping 3 for the
            Hessian in function space, 10 elsewhere, 50 for Gauss-Newton; and enough for `cg_tol`
            under a fixed one.
        cg_tol: relative residual at which a solve ends. Where None: 1e-8, or what the dtype can
            resolve if that is more, under a fixed damping, and
            :math:`\min(0.1, 0.1\sqrt{|g|/|g_0|})` under an adaptive one.
        width: n, where the inference from the parameters' shapes (`torch_newton.width`) is not
            what you mean.
        scaling: ``"jacobian"`` puts :math:`\lambda D` in place of :math:`\lambda I`, with D like
            the diagonal of :math:`J^T Q J` (see `preconditioners.scaling`); None does not; with
            ``"auto"`` each step takes what has gained most, and :math:`\lambda I` under a fixed
            damping.
        hvp: how the Hessian's products are taken. ``"exact"`` is by differentiating twice;
            ``"finite_difference"`` by central differences of the gradient, at two evaluations
            of the closure a product; ``"auto"`` is exact where the graph allows it.
        correction: whether, in function space and under an adaptive damping, a refused step is
            tried once more with a second-order correction before lambda is raised.
        maximize: whether to maximize the loss; `last_step` then speaks of -L.

    Raises:
        ValueError: an option is out of its range, or given for one group only; parameters of
            several dtypes or devices.
        TypeError: parameters or options of a wrong type.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        damping: str | float | DampingRule = "auto",
        curvature: str = "auto",
        preconditioner: str | Preconditioner | None = "auto",
        cg_max_iter: int | None = None,
        cg_tol: float | None = None,
        width: int | None = None,
        scaling: str | None = "auto",
        hvp: str = "auto",
        correction: bool = True,
        maximize: bool = False,
    ) -> None:
        check_lr(lr)
        warn_of_foreign_lr(lr)
        self.options = Options(
            damping_rule(damping),
            curvature,
            preconditioner,
            cg_max_iter,
            cg_tol,
            width,
            scaling,
            hvp,
            correction,
            maximize,
        )
        self._warned = False
        self._backward_calls = BackwardCalls()
        self._observers: OrderedDict[int, Observer] = OrderedDict()
        super().__init__(params, {"lr": lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with an `lr` of their own if wished.

        Raises:
            ValueError: another option is given for the group; the parameters are of another
                dtype or on another device than those before.
            TypeError: a parameter is not real, dense and floating-point.
        """
        check_group(param_group)
        check_lr(param_group.get("lr", 1.0))
        super().add_param_group(param_group)
        try:
            check_params([p for group in self.param_groups for p in group["params"]])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._backward_calls.watch(self.param_groups[-1]["params"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all parameters."""
        if set_to_none:  # at each evaluation: without the profiler's record that PyTorch adds
            for group in self.param_groups:
                for param in group["params"]:
                    param.grad = None
        else:
            super().zero_grad(set_to_none)
        self._backward_calls.clear()

    def __getstate__(self) -> dict[str, Any]:
        own = {"options": self.options, "_warned": self._warned, "_observers": OrderedDict()}
        return {**super().__getstate__(), **own}

    def register_observer(self, observer: Observer) -> RemovableHandle:
        """Call `observer` with an `Observation` at every step, before the parameters move.

        It may take products with what it is given, and must change nothing. A copy of the
        optimizer has no observers.

        Returns:
            A handle whose ``remove()`` ends it.
        """
        handle = RemovableHandle(self._observers)
        self._observers[handle.id] = observer
        return handle

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_backward_calls" not in self.__dict__:  # a copy, whose parameters nobody watches
            self._backward_calls = BackwardCalls()
            for group in self.param_groups:
                self._backward_calls.watch(group["params"])

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """A GradScaler asks this before it steps; it leaves no way but this to tell it off."""
        raise ClosureError(
            "a GradScaler scales the loss that a Newton step compares with itself: step without "
            "one, in bf16 autocast or full precision (Lightning: precision='bf16-mixed', "
            "'32-true' or '64-true', not '16-mixed')"
        )

    @property
    def last_step(self) -> Step | None:
        """What the last step did, or None before the first."""
        numbers = self.state.get(self._first_param(), {}).get("last_step")
        return None if numbers is None else Step.from_numbers(numbers)

    def step(self, closure: Closure | None = None) -> Any:
        """Take one step and return the closure's first loss, that before the step.

        Afterwards each parameter's ``.grad`` is the gradient before the step. Where anything
        is raised, parameters, buffers and random state are as they were before the call.

        Args:
            closure: zeroes the gradients, computes the loss, calls ``loss.backward()`` and
                returns the loss.

        Raises:
            ClosureError: the closure is missing, or gives no loss to work with.
            NotTwiceDifferentiableError: the loss cannot be differentiated twice.
        """
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        if not params:
            raise ClosureError("no parameter requires a gradient: leave some of them trainable")
        check_params(params)
        for group in self.param_groups:
            check_lr(group["lr"])
        known = self.state.get(self._first_param(), {}).get("finite_difference", False)
        differences = known or self.options.hvp == "finite_difference"
        try:
            return self._guarded(closure, params, differences)
        except NotTwiceDifferentiableError as error:
            if (
                differences
                or self.options.hvp == "exact"
                or self.options.curvature == "gauss_newton"
            ):
                raise
            warnings.warn(
                f"{error} Until then products are taken by finite differences of gradients "
                "(hvp='finite_difference' does so without this warning)",
                stacklevel=3,
            )
            lasting = not isinstance(error, NonFiniteProductError)
            return self._guarded(closure, params, True, lasting)

    def _guarded(
        self, closure: Closure | None, params: list[Tensor], differences: bool, lasting: bool = True
    ) -> Any:
        """One step, of which nothing is left where anything is raised."""
        twice = not differences or self.options.curvature == "gauss_newton"
        trials = Evaluator(
            closure,
            params,
            maximize=self.options.maximize,
            double_backward=twice,
            backward_calls=self._backward_calls,
        )
        state = {param: dict(values) for param, values in self.state.items()}
        warned = self._warned
        stateful = self.options.stateful
        if stateful is not None:
            memory = state.get(self._first_param(), {}).get("preconditioner")
            if memory is not None:
                stateful.load_state_dict(memory)
            remembered = stateful.state_dict()

        def undo() -> None:
            trials.undo()
            if stateful is not None:
                stateful.load_state_dict(remembered)
            self.state.clear()
            self.state.update(state)
            self._warned = warned

        try:
            result = self._step(trials, twice)
            if differences and lasting:
                self.state[self._first_param()]["finite_difference"] = True
            if stateful is not None:
                self.state[self._first_param()]["preconditioner"] = stateful.state_dict()
            return result
        except BaseException:
            try:
                undo()
            except BaseException:  # interrupted a second time
                undo()
                raise
            raise

    def _step(self, trials: Evaluator, twice: bool) -> Any:
        """One step, in the order of the book: choose, model, damping, solve, compare, move."""
        params, options = trials.params, self.options
        memory = self.state.get(self._first_param(), {})
        history = History.from_numbers(memory["history"]) if "history" in memory else History()
        among = options.arms & arms_of(memory["among"]) if "among" in memory else options.arms
        planned = history.choose(among)
        doubly = planned.exact and twice
        alone = plain_gradient if twice else gradient_alone
        captured, derivatives = trials.first(differentiable_gradient if doubly else alone)
        if doubly and not any(arm.exact for arm in history.plays):
            check_twice_differentiable(derivatives)
        if not memory:
            trials.check_repeatable()
        gradient = trials.gradient
        if not (math.isfinite(float(gradient @ gradient)) or bool(gradient.isfinite().all())):
            raise NonFiniteLossError(
                "the gradient is not finite although the loss is: look for square roots and "
                "norms at zero, and for overflow; the step changed nothing"
            )
        reading = read(captured.loss, derivatives, trials, options, twice)
        among = reading.arms(options.arms)
        arm = planned if planned in among else history.choose(among)
        scaling = self._scaling(reading) if arm.scaled else None
        model = reading.model(arm, gradient, scaling)

        known = memory.get("arms", {})
        # An arm not played before starts where its like of the same damping stands.
        own = known.get(arm.name) or known.get(arm.alike.name) or {}
        solved: dict[str, Any] | None = own.get("solved")
        s: float = own.get("scale", 0.0)
        if s == 0.0 and model.gradient_norm > 0:
            s = model.scale()
        n = options.width or inferred_width(params)
        loss = trials.loss
        first_loss = memory.get("first_loss", loss)
        epsilon = torch.finfo(params[0].dtype).eps
        scale = DampingContext(s, n, epsilon, loss, first_loss, model.kernel_extremes)
        first_norm = own.get("first_gradient_norm", 0.0) or model.gradient_norm

        step = Step(
            iteration=memory.get("step", 0) + 1,
            loss=loss,
            loss_after=loss,
            gradient_norm=model.gradient_norm,
            damping=0.0 if solved is None else solved["damping"],
            ratio=math.nan,
            accepted=False,
            corrected=False,
            attempts=0,
            cg_iterations=0,
            products=model.products,
            closure_calls=trials.calls,
            stop=Stop.STATIONARY,
            negative_curvature=False,
            curvature_min=math.inf,
            step_length=0.0,
            scale=s,
            width=n,
            path=model.path,
            arm=arm,
        )
        direction = None
        if model.gradient_norm > 0:
            last = None if solved is None else Step.from_numbers(solved)
            attempts = TrustRegionSearch(model, trials, options, self._lengths(params))
            step, direction = attempts.run(step, scale, last, first_norm)
            solved = step.numbers()
            history = history.after(step, among)
        for observer in list(self._observers.values()):
            observer(
                Observation(
                    captured.loss,
                    params,
                    gradient,
                    model.curvature if arm.exact else None,
                    reading.space,
                    None if scaling is None else scaling.vector,
                    step,
                )
            )
        self._warn(step, model)

        trials.finish(direction)
        own = {"solved": solved, "scale": s, "first_gradient_norm": first_norm}
        self.state[self._first_param()].update(
            step=step.iteration,
            first_loss=first_loss,
            last_step=step.numbers(),
            arms={**known, arm.name: own},
            among=mask_of(among),
            history=history.numbers(),
        )
        if scaling is not None:
            scaling.keep(self.state)
        if captured.returned is not None:
            return captured.returned
        return captured.loss.detach() * (-1 if options.maximize else 1)

    def _scaling(self, reading: Linearization) -> Scaling | None:
        """D of the rows at hand, not smaller than it has been."""
        if reading.space is None:
            return None
        earlier = Scaling.kept(self.state, reading.trials.params)
        return Scaling.of(reading.space.jacobian).maximum(earlier)

    def _lengths(self, params: Sequence[Tensor]) -> float | Tensor:
        """The step in units of the solution: one number, or P where the groups' `lr` differ."""
        rates = {p: float(group["lr"]) for group in self.param_groups for p in group["params"]}
        if len({rates[p] for p in params}) == 1:
            return rates[params[0]]
        return flatten(torch.full_like(p, rates[p]) for p in params)

    def _first_param(self) -> Tensor:
        first: Tensor = next(p for group in self.param_groups for p in group["params"])
        return first

    def _warn(self, step: Step, model: QuadraticModel) -> None:
        """Say once what the user should know and cannot see in the loss."""
        message = None if self._warned else advice(step, self.options, model.underdetermined)
        if message is not None:
            self._warned = True
            warnings.warn(message, stacklevel=6)
