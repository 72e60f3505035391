"""CurvatureMonitor: curvature and kernels of a LightningModule's loss, logged as it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from torch_newton import (
    Adaptive,
    DampingContext,
    LinearOperator,
    Observation,
    RegNewton,
    gradient_and_hessian,
    hessian,
    width,
)
from torch_newton.kernels.rows import Rows

from .batch import OfBatch, copy_of, low_precision, probe_batches, training_loss
from .budget import Budget
from .compat import Callback
from .config import Arguments
from .hessian import Numbers, last_newton_step, newton_numbers
from .isolation import undisturbed
from .measurement import Point, measure, rows_given, rows_in
from .tensorboard import write_spectra
from .trainer import last_scaling, mean_over_processes, trained

SEED = 0


class CurvatureMonitor(Callback):  # type: ignore[misc]  # its base is known at run time only
    r"""Log how the loss curves, and how fast it can be trained, with any optimizer.

    Every `every_n_steps` optimizer steps, and before the first, the loss of the module's own
    ``training_step`` is evaluated on one fixed batch, in train mode and with the same random
    numbers every time, and these are logged:

    ===================================  =====================================================
    ``hessian/lambda_min``, ``_error``   smallest eigenvalue of H, the exact Hessian; one lies
                                         within the error of it
    ``hessian/lambda_min_lowest``        none lies below, but for a chance of 1e-10
    ``hessian/lambda_max``, ``_error``   largest eigenvalue of H
    ``hessian/negative_fraction``, ``_low``, ``_high``
                                         share of the P eigenvalues that are negative, and
                                         between what bounds (surely, or with 95 %)
    ``hessian/damped_lambda_min``        smallest eigenvalue of H + lambda I
    ``hessian/positive_definite``        1 or 0 for H + lambda I where proved; NaN where not
    ``hessian/trace``, ``_error``        sum of the eigenvalues, if asked for
    ``ntk/lambda_min``, ``lambda_max``, each with ``_error``, ``condition_number``
                                         of J J^T
    ``nntk/...``                         of the Newton neural tangent kernel, Gauss-Newton form
    ``nntk_hessian/...``                 the same of the exact Hessian, if asked for, and
                                         ``difference``, the norm of what lies between the two
    ``newton/damping``, ``cg_iterations``, ``ratio``, ``loss_after``
                                         `RegNewton.last_step`, where that is the optimizer
    ===================================  =====================================================

    They go to every logger of the trainer at ``trainer.global_step``, and to
    ``trainer.callback_metrics``, so that EarlyStopping and ModelCheckpoint can monitor them. A
    TensorBoard logger gets the spectra as histograms and figures, too. Training is bit for bit
    what it is without the monitor: gradients, random state, buffers, metrics and what
    ``training_step`` logs are left as they were (see `undisturbed`).

    **Cost.** Measurements take at most `max_overhead` of the time spent training, the first one
    apart: those that would take more are left out, so that *which* steps are measured depends on
    the clock, and nothing else does. Give ``max_overhead=None`` to measure at all of them, as a
    run needs whose EarlyStopping follows these numbers and which shall repeat exactly.

    **Hessian.** Up to `exact_up_to` parameters H is formed, and its eigenvalues are exact to
    rounding. Beyond, the extremes are Ritz values of at most `max_products` Lanczos steps: the
    smallest is never below the true one, by more than rounding. Parameters are those that the
    optimizers hold.

    **Kernels.** Rows are the outputs z of the loss, read off its graph (`find_residuals`), so
    that those of a physics-informed loss are its residuals. All eigenvalues are computed where
    the smaller of rows and parameters is at most `max_rows`, and else the extreme ones. More
    rows than parameters are a singular kernel: choose rows by `outputs` to see the spectrum of
    some of them.

    **lambda** is `damping` where given; else that of RegNewton's last step; else, for optimizers
    that have none, the start of `Adaptive`, :math:`\lambda_0 s\,n^{-1/4}` with
    s = \|H g\| / \|g\| at the first measurement, kept from then on.

    Where RegNewton's step was damped by lambda D instead of lambda I, it is H + lambda D whose
    definiteness is told, and the NNTK is that of this damping.

    **With RegNewton** as the only optimizer, and neither `probe`, `loss` nor `outputs` given, the
    measurement is that of the optimizer's own step: its batch, its graph, its rows and their
    Gram matrix, its lambda. Logged at step t is then the point at which step t + 1 begins, with
    the lambda that it took.

    On several processes each measures on its own batch, and what is logged is the mean.

    Args:
        every_n_steps: optimizer steps between measurements.
        log_key_prefix: put in front of every key.
        logging_interval: ``"step"``, or ``"epoch"`` to measure at the end of each training epoch
            instead, and before the first.
        quantities: which of ``"hessian"``, ``"trace"``, ``"ntk"``, ``"nntk"`` and
            ``"nntk_hessian"`` to log. The last costs, beyond `exact_up_to` parameters, linear
            systems with a right-hand side for each row.
        probe: a batch, as the DataLoader gives it; a DataLoader, for the mean loss of all its
            batches, drawn once; or a callable of the module that returns a batch, called at
            every measurement. The first training batch where none is given, which is taken anew
            when training is resumed.
        damping: lambda, absolute.
        loss: callable of (module, batch) that returns the loss with its graph, in place of
            ``training_step``; needed with manual optimization.
        outputs: callable of (module, batch) that returns the network's outputs, for modules
            whose loss does not show them. Then Q = I/M, with M = len(outputs).
        max_overhead: at most this share of the training time is spent measuring; None for no
            limit.
        max_rows: the largest kernel of which all eigenvalues are computed.
        exact_up_to: the largest number of parameters for which H is formed, by as many products.
        max_products: Lanczos steps for the extreme eigenvalues of larger matrices.
        figures: whether a TensorBoard logger gets figures besides histograms.

    Attributes:
        latest: the numbers measured last, by their keys.
        spectra: the eigenvalues measured last, by ``"hessian"``, ``"ntk"``, ...
        measured_at: the step of the last measurement, or None.

    Raises:
        MisconfigurationException: in ``setup``, for an argument that cannot be used.
        NotTwiceDifferentiableError: at the first measurement, where the loss cannot be
            differentiated twice.
    """

    def __init__(
        self,
        every_n_steps: int = 10,
        log_key_prefix: str = "",
        logging_interval: str = "step",
        quantities: Sequence[str] = ("hessian", "ntk", "nntk"),
        probe: Any = None,
        damping: float | None = None,
        loss: OfBatch | None = None,
        outputs: OfBatch | None = None,
        max_overhead: float | None = 0.1,
        max_rows: int = 1024,
        exact_up_to: int = 400,
        max_products: int = 100,
        figures: bool = True,
    ) -> None:
        super().__init__()
        names = (quantities,) if isinstance(quantities, str) else tuple(quantities)
        self.arguments = Arguments(
            every_n_steps, log_key_prefix, logging_interval, names, probe, damping, loss, outputs,
            max_overhead, max_rows, exact_up_to, max_products, figures,
        )  # fmt: skip
        self._forget()

    def _forget(self) -> None:
        self.latest: Numbers = {}
        self.spectra: dict[str, Tensor] = {}
        self.measured_at: int | None = None
        self._batches: list[Any] | None = None
        self._scale: float | None = None
        self._said: set[str] = set()
        self._budget = Budget(self.arguments.max_overhead)
        self._handle: Any = None

    @property
    def seconds(self) -> float:
        """Seconds spent measuring since training began."""
        return self._budget.spent

    @property
    def overhead(self) -> float:
        """`seconds` over those spent training."""
        training = self._budget.training
        return self._budget.spent / training if training > 0 else 0.0

    @property
    def state_key(self) -> str:
        """Two monitors in one trainer differ by their prefixes."""
        return f"CurvatureMonitor[{self.arguments.log_key_prefix}]"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: the scale of lambda, and what was measured last."""
        return {"scale": self._scale, "measured_at": self.measured_at, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._scale = state_dict["scale"]
        self.measured_at = state_dict["measured_at"]
        self.latest = dict(state_dict["latest"])

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the arguments."""
        if stage != "fit":
            return
        self._forget()
        self.arguments.check()
        self.arguments.check_module(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """After resuming, publish what was measured last; watch RegNewton where that serves."""
        self._publish(trainer)
        self._budget = Budget(self.arguments.max_overhead)
        newton = self._own_step(trainer)
        if newton is not None:
            self._handle = newton.register_observer(
                lambda observation: self._observe(trainer, observation)
            )

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the first batch, and measure before the first step."""
        if self._handle is not None:
            return
        if self._batches is None and self.arguments.probe is None:
            self._batches = [copy_of(batch)]
        if self.measured_at is None:
            self._measure_and_log(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure where another `every_n_steps` optimizer steps are complete."""
        by_step = self.arguments.logging_interval == "step" and self._handle is None
        if by_step and self._is_due(trainer) and self._allowed(trainer):
            self._measure_and_log(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, where the interval is the epoch."""
        if self.arguments.logging_interval == "epoch" and self._allowed(trainer):
            self._measure_and_log(trainer, pl_module)

    def _own_step(self, trainer: Any) -> RegNewton | None:
        """The optimizer whose steps are what is to be measured, where there is one."""
        given = self.arguments
        if given.probe is not None or given.loss is not None or given.outputs is not None:
            return None
        if given.logging_interval == "epoch" or trainer.world_size > 1:
            return None
        optimizers = list(trainer.optimizers)
        if len(optimizers) != 1 or trainer.accumulate_grad_batches != 1:
            return None
        return optimizers[0] if isinstance(optimizers[0], RegNewton) else None

    def _is_due(self, trainer: Any) -> bool:
        """Whether a multiple of `every_n_steps` has just been reached."""
        n, step = self.arguments.every_n_steps, int(trainer.global_step)
        if self.measured_at is None:
            return True
        return step % n == 0 and step > self.measured_at

    def _allowed(self, trainer: Any) -> bool:
        """Whether there is time to measure; the first process decides for all."""
        allowed = self._budget.allows()
        return bool(trainer.strategy.broadcast(allowed)) if trainer.world_size > 1 else allowed

    def _measure_and_log(self, trainer: Any, pl_module: Any) -> None:
        with self._budget.measuring():
            self._log(trainer, self._measure(trainer, pl_module))

    def _observe(self, trainer: Any, observation: Observation) -> None:
        if not (self._is_due(trainer) and self._allowed(trainer)):
            return
        with self._budget.measuring(), torch.enable_grad():
            self._log(trainer, self._of_step(trainer, observation))

    def _log(self, trainer: Any, numbers: Numbers) -> None:
        self.measured_at = trainer.global_step
        prefix = self.arguments.log_key_prefix
        self.latest = {prefix + key: value for key, value in numbers.items()}
        self._publish(trainer)
        if not (self.latest and trainer.is_global_zero):
            return
        step, figures = trainer.global_step, self.arguments.figures
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, step=step)
        write_spectra(trainer.loggers, self.spectra, step, prefix=prefix, figures=figures)

    def _publish(self, trainer: Any) -> None:
        values = torch.tensor(list(self.latest.values()), dtype=torch.float64)
        trainer.callback_metrics.update(zip(self.latest, values.unbind(), strict=True))

    def _measure(self, trainer: Any, pl_module: Any) -> Numbers:
        params = trained(trainer.optimizers)
        with (
            undisturbed(trainer, pl_module, SEED),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            probe = self.arguments.probe
            if self._batches is None or callable(probe):
                self._batches = probe_batches(trainer, pl_module, probe)
            losses = self._evaluate(self.arguments.loss or training_loss, trainer, pl_module)
            if losses is None:
                self._say("training_step skipped the probe batch, so there is nothing to measure")
                return {}
            loss = torch.stack(losses).mean() if len(losses) > 1 else losses[0]
            gradient, H = gradient_and_hessian(loss, params)
            damping = self._lambda(gradient, H, params, trainer.optimizers)
            rows = lambda: self._rows(trainer, pl_module, loss, params)  # noqa: E731
            given = self.arguments.damping is not None
            scaling = None if given else last_scaling(trainer.optimizers, params)
            numbers = self._at(trainer, Point(gradient, H, damping, rows, scaling=scaling))
        step = last_newton_step(trainer.optimizers)
        numbers |= {} if step is None else newton_numbers(step)
        return mean_over_processes(trainer, numbers)

    def _of_step(self, trainer: Any, seen: Observation) -> Numbers:
        """What there is to say of a step of RegNewton, from what it knows."""
        H = hessian(seen.loss, seen.params) if seen.curvature is None else seen.curvature
        damping = seen.step.damping if self.arguments.damping is None else self.arguments.damping
        space = seen.space
        if space is not None and space.shift is not None:
            space = None  # its rows leave out parameters, and a kernel must not
        known, gram = (None, None) if space is None else (space.jacobian, space.gram)
        rows = lambda: rows_in(seen.loss, list(seen.params), self._say, known)  # noqa: E731
        scaling = seen.scaling if self.arguments.damping is None else None
        point = Point(seen.gradient, H, damping, rows, gram, scaling)
        return self._at(trainer, point) | newton_numbers(seen.step)

    def _at(self, trainer: Any, point: Point) -> Numbers:
        measured = measure(point, self.arguments, low_precision(trainer))
        self.spectra = measured.spectra
        return measured.numbers

    def _evaluate(
        self, function: Callable[[Any, Any], Tensor | None], trainer: Any, pl_module: Any
    ) -> list[Tensor] | None:
        """What `function` makes of each probe batch, in the trainer's precision."""
        results = []
        with trainer.precision_plugin.train_step_context():
            for batch in self._batches or []:
                result = function(pl_module, copy_of(batch))
                if result is None:
                    return None
                results.append(result)
        return results

    def _lambda(
        self,
        gradient: Tensor,
        H: LinearOperator,
        params: list[Tensor],
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> float:
        """The damping of H + lambda I, absolute."""
        newton = next((o for o in optimizers if isinstance(o, RegNewton)), None)
        if self.arguments.damping is not None:
            return float(self.arguments.damping)
        if newton is not None and newton.last_step is not None:
            return newton.last_step.damping
        if self._scale is None:
            s = float(torch.linalg.vector_norm(H @ gradient) / torch.linalg.vector_norm(gradient))
            self._scale = s if s > 0 and math.isfinite(s) else None
        n = width(params) if newton is None else newton.options.width or width(params)
        rule = Adaptive() if newton is None else newton.options.damping
        return rule(None, DampingContext(self._scale or 1.0, n, torch.finfo(params[0].dtype).eps))

    def _rows(
        self, trainer: Any, pl_module: Any, loss: Tensor, params: list[Tensor]
    ) -> Rows | None:
        if self.arguments.outputs is None:
            return rows_in(loss, params, self._say)
        outputs = self._evaluate(self.arguments.outputs, trainer, pl_module) or []
        return rows_given(outputs, params, self._say)

    def _say(self, message: str) -> None:
        """Warn, once for each message."""
        if message not in self._said:
            self._said.add(message)
            rank_zero_warn(f"CurvatureMonitor: {message}", category=UserWarning)
