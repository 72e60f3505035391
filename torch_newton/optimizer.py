"""RegNewton: regularized Newton's method as a `torch.optim.Optimizer`."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .autodiff.finite_difference import NonFiniteProductError
from .autodiff.products import NotTwiceDifferentiableError
from .closure.accumulation import BackwardCalls
from .closure.capture import Closure, ClosureError
from .closure.evaluator import Evaluator
from .curvature.base import Curvature
from .damping.base import AnyRule
from .newton import memory as stored
from .newton.advice import advice, unsolved
from .newton.checks import check_group, check_params, check_rates, warn_of_foreign_lr
from .newton.groups import step_lengths, trained, weight_decays
from .newton.kind import iteration_of
from .newton.memory import Memory
from .newton.observation import Observation, Observer
from .newton.options import Options, rule_for
from .newton.outcome import Outcome
from .newton.report import report, show_steps
from .newton.stochastic import NotFactoredError
from .preconditioners.base import AnyPreconditioner
from .step import Step
from .warning import Once, warn


class RegNewton(torch.optim.Optimizer):
    r"""Regularized Newton's method: each step solves :math:`(H + \lambda I)\,d = -\nabla L`.

    H is the exact Hessian of the loss that the closure computes, known by its products with
    vectors, or its Gauss-Newton part :math:`J^T Q J`; I may also be D, like the diagonal of that
    part; and :math:`\lambda` follows a rule. By default each step takes the combination that has
    gained most for its cost (`newton.bandit`). The system is solved in the space of the
    residuals where these can be read off the graph, directly or, where there are too many
    (`preconditioners.cost`), by conjugate gradients with a factor of low rank; and there a step
    that an adaptive rule refuses is tried once more with a second-order correction
    (`QuadraticModel.corrected`).

    The closure is the usual one, unchanged, and is called at least twice a step: for the loss with
    its graph, and for the loss at the new point, on the same batch with the same random state.
    (Along Kronecker factors most steps are not tested at the new point.)

    By iterations a step takes at most eight vectors of P numbers more than a Hessian-vector
    product does. Where rows of the Jacobian are solved with it takes these and their system
    besides (.docs/pages/reference/cost.md has numbers). Between steps it holds none but
    ``.grad``; where each sees another batch also the last step and, along Kronecker factors, these.

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
        params: parameters or groups of them; a group may have its own `lr` and `weight_decay`.
            All real, of one dtype, on one device.
        lr: length of the step in units of the solution d; 1 is Newton's method.
        damping: ``"auto"`` starts at :math:`\lambda_0 s n^{-1/4}` and adapts by a ratio test;
            ``"width"`` is the paper's fixed :math:`\gamma N^{1-2\beta}`; ``"kernel_min"`` and
            ``"residual"`` are `KernelMin` and `ResidualFollowing`; ``"mini_batch"`` is `MiniBatch`,
            which ``"auto"`` stands for with ``curvature="kronecker"``; a number is that
            lambda, absolute and fixed; or a rule (see `torch_newton.damping`). With a fixed
            one the system is solved to `cg_tol`, also where it is indefinite, and the step is
            taken unless the loss is not finite there.
        curvature: ``"hessian"``; ``"gauss_newton"`` for :math:`J^T Q J`, which leaves out
            the indefinite part; ``"kronecker"`` for a Kronecker-factored block of that for each
            layer, averaged over steps, for closures that see another mini-batch at each
            (`newton.stochastic`); or ``"auto"``: each step takes what has gained most for its cost
            (see `newton.bandit`), and the exact Hessian under a fixed damping; where each step
            sees another batch, ``"kronecker"`` is one of these (`newton.contest`), unless scaling,
            damping or preconditioner are given. Gauss-Newton needs a loss that `find_residuals`
            recognises. With ``damping=0.0`` it is undamped, by least squares with a cut at the
            numerical rank: for fewer parameters than residuals, with an `lr` such as 0.5.
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
            of the closure a product; ``"auto"`` is exact where the graph allows it, and tests
            now and then whether the second derivative is that of the gradient
            (`autodiff.verification`), which ``"exact"`` does not.
        correction: whether, in function space and under an adaptive damping, a refused step is
            tried once more with a second-order correction before lambda is raised.
        maximize: whether to maximize the loss; `last_step` then speaks of -L. A weight decay
            is minimised nevertheless.
        max_memory: bytes of the matrices that a solve may form; 4 GiB where None. Where an exact
            factor needs more, or costs more than it is worth (`preconditioners.cost`), the step is
            solved iteratively. As many bytes again may the rows of the Jacobian take
            (`preconditioners.held_rows`); beyond, it is solved without them.
        verbose: whether each step logs a line, by ``logging.getLogger("torch_newton")``.
        weight_decay: w, of which steps minimise :math:`L(\theta) + \tfrac{w}{2} |\theta|^2`:
            gradient :math:`\nabla L + w \theta`, curvature :math:`H + w I`, not decoupled from
            it as in AdamW (`closure.weight_decay`). `last_step` speaks of that sum; the loss that
            `step` returns, and ``.grad``, are the closure's own.

    Raises:
        ValueError: an option is out of its range, or given for one group only; parameters of
            several dtypes or devices.
        TypeError: parameters or options of a wrong type.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        damping: str | float | AnyRule = "auto",
        curvature: str | Curvature = "auto",
        preconditioner: str | AnyPreconditioner | None = "auto",
        cg_max_iter: int | None = None,
        cg_tol: float | None = None,
        width: int | None = None,
        scaling: str | None = "auto",
        hvp: str = "auto",
        correction: bool = True,
        maximize: bool = False,
        max_memory: int | None = None,
        verbose: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        check_rates(lr, weight_decay)
        self.options: Options = Options(
            rule_for(damping, curvature),
            curvature,
            preconditioner,
            cg_max_iter,
            cg_tol,
            width,
            scaling,
            hvp,
            correction,
            maximize,
            max_memory,
            verbose,
        )
        if verbose:
            show_steps()
        warn_of_foreign_lr(lr, adaptive=self.options.retrying is not None)
        self._memory = Memory()
        self._once = Once()
        self._backward_calls = BackwardCalls()
        self._observers: OrderedDict[int, Observer] = OrderedDict()
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with an `lr` and a `weight_decay` of their own if wished.

        Raises:
            ValueError: another option is given for the group; the parameters are of another
                dtype or on another device than those before.
            TypeError: a parameter is not real, dense and floating-point.
        """
        check_group(param_group)
        check_rates(param_group.get("lr", 1.0), param_group.get("weight_decay", 0.0))
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

    @property
    def last_step(self) -> Step | None:
        """What the last step did, or None before the first."""
        return self._memory.last_step

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
        params = trained(self.param_groups)
        differences = self._memory.finite_difference or self.options.hvp == "finite_difference"
        try:
            outcome = self._taken(closure, params, differences)
        except NotTwiceDifferentiableError as error:
            if differences or self.options.hvp == "exact" or not self.options.exact:
                raise
            warn(
                f"{error} Until then products are taken by finite differences of gradients "
                "(hvp='finite_difference' does so without this warning)"
            )
            outcome = self._guarded(
                closure, params, True, lasting=not isinstance(error, NonFiniteProductError)
            )
        return outcome.returned

    def _taken(self, closure: Closure | None, params: list[Tensor], differences: bool) -> Outcome:
        """One step, exact where the step chose Kronecker factors and this loss has none."""
        try:
            return self._guarded(closure, params, differences)
        except NotFactoredError:
            if self.options.averaged:
                raise
            batches = replace(self._memory.batches, factored=False)
            self._memory = replace(self._memory, batches=batches)
            return self._guarded(closure, params, differences)

    def _guarded(
        self,
        closure: Closure | None,
        params: list[Tensor],
        differences: bool,
        lasting: bool = True,
    ) -> Outcome:
        """One step, of which nothing is left where anything is raised."""
        began = perf_counter()
        twice = not (differences and self.options.exact)
        evaluator = Evaluator(
            closure,
            params,
            maximize=self.options.maximize,
            weight_decay=weight_decays(self.param_groups, params),
            double_backward=twice,
            backward_calls=self._backward_calls,
            once=self._once,
        )
        state = {param: dict(values) for param, values in self.state.items()}
        memory, said = self._memory, self._once.said

        def undo() -> None:
            evaluator.snapshot.restore()
            self.state.clear()
            self.state.update(state)
            self._memory, self._once.said = memory, said

        try:
            lengths = step_lengths(self.param_groups, params)
            known = memory, self.state, lengths
            iteration = iteration_of(evaluator, self.options, *known, twice, self._once)
            with evaluator.reporting():
                outcome = iteration.run(self._backward_calls, self._observe)
            self._remember(outcome, differences and lasting)
            report(outcome.step, perf_counter() - began, self.options.verbose, self._once)
            return outcome
        except BaseException:
            try:
                undo()
            except BaseException:  # interrupted a second time
                undo()
                raise
            raise

    def state_dict(self) -> dict[str, Any]:
        """The state as numbers and tensors, for ``torch.save``."""
        packed = super().state_dict()
        if self._memory.steps > 0:
            # With the state of the first parameter, where every tool that moves or merges
            # checkpoints carries it along.
            first = packed["state"].get(0, {})
            packed["state"] = packed["state"] | {0: first | {"memory": self._memory.numbers()}}
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave; training then goes on as if it had not stopped.

        Raises:
            ValueError: it is the state of another optimizer, or of another version of this one;
                or its parameter groups are not those of this optimizer.
        """
        for group in state_dict["param_groups"]:
            check_group(group)
        for values in state_dict["state"].values():
            stored.check(values)
        super().load_state_dict(state_dict)
        numbers = self.state[self._first_param()].pop("memory", None)
        self._memory = Memory() if numbers is None else Memory.from_numbers(numbers)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "options": self.options,
            "_memory": self._memory,
            "_once": Once(self._once.said),
            "_observers": OrderedDict(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # in a checkpoint of an earlier version
            group.setdefault("weight_decay", 0.0)
        if "_backward_calls" not in self.__dict__:  # a copy, whose parameters nobody watches
            self._backward_calls = BackwardCalls()
            for group in self.param_groups:
                self._backward_calls.watch(group["params"])

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """A GradScaler asks this before it steps; there is no other way to refuse one."""
        raise ClosureError(
            "a GradScaler scales the loss that a Newton step compares with itself: step without "
            "one, in bf16 autocast or full precision (Lightning: precision='bf16-mixed', "
            "'32-true' or '64-true', not '16-mixed')"
        )

    def _remember(self, outcome: Outcome, differences: bool) -> None:
        """Keep the memory of a step, and warn of what the user cannot see in the loss, once."""
        memory = outcome.memory
        if differences:
            memory = replace(memory, finite_difference=True)
        self._memory = memory
        warnings = {
            "advice": advice(outcome.step, self.options, outcome.underdetermined),
            "unsolved": unsolved(outcome.step, self.options),
        }
        for kind, message in warnings.items():
            if message is not None:
                self._once(kind, message)

    def _observe(self, observation: Observation) -> None:
        for observer in list(self._observers.values()):
            observer(observation)

    def _first_param(self) -> Tensor:
        first: Tensor = next(p for group in self.param_groups for p in group["params"])
        return first
