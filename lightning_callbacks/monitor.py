"""CurvatureMonitor: curvature and kernels of a LightningModule's loss, logged as it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from torch_newton import (
    Adaptive,
    LinearOperator,
    RegNewton,
    Scale,
    gradient_and_hessian,
    width,
)

from .compat import Callback, MisconfigurationException
from .kernels import Rows, kernel_numbers, rows_of_loss, rows_of_outputs, unknown_kernels
from .measure import Numbers, hessian_spectrum, newton_numbers, unknown_spectrum
from .probe import (
    OfBatch,
    copy_of,
    low_precision,
    moved,
    takes_dataloader_iterator,
    training_loss,
)
from .quiet import undisturbed

KERNELS = ("gauss_newton", "hessian")
SEED = 0


class CurvatureMonitor(Callback):  # type: ignore[misc]  # its base is known at run time only
    r"""Log how the loss curves, and how fast it can be trained, with any optimizer.

    Every `every_n_steps` optimizer steps, and before the first, the loss of the module's own
    ``training_step`` is evaluated on one fixed batch, in train mode and with the same random
    numbers every time, and these are logged:

    ===============================  =========================================================
    ``hessian/lambda_min``           smallest eigenvalue of H, the exact Hessian
    ``hessian/lambda_min_error``     an eigenvalue lies within this distance of it
    ``hessian/lambda_max``           largest eigenvalue of H
    ``hessian/negative_fraction``    share of the P eigenvalues that are negative
    ``hessian/damped_lambda_min``    smallest eigenvalue of H + lambda I
    ``hessian/positive_definite``    1 or 0 for H + lambda I where proved; NaN where not
    ``ntk/lambda_min``, ``lambda_max``, ``condition_number``
                                     of J J^T
    ``nntk/lambda_min``, ``lambda_max``, ``condition_number``
                                     of the Newton neural tangent kernel
    ``newton/damping``, ``cg_iterations``, ``ratio``, ``loss_after``
                                     `RegNewton.last_step`, where that is the optimizer
    ===============================  =========================================================

    They go to every logger of the trainer at ``trainer.global_step``, and to
    ``trainer.callback_metrics``, so that EarlyStopping and ModelCheckpoint can monitor them.
    Training is bit for bit what it is without the monitor: gradients, random state, buffers,
    metrics and what ``training_step`` logs are left as they were (see `undisturbed`).

    **Hessian.** Up to `exact_up_to` parameters H is formed, and its eigenvalues are exact to
    rounding. Beyond, the extremes are Ritz values of at most `max_products` Lanczos steps: the
    smallest is never below the true one, by more than rounding, and the negative share is an
    estimate by stochastic Lanczos quadrature, rough where many eigenvalues crowd near zero.
    Parameters are those that the optimizers hold.

    **Kernels.** Rows are the outputs z of the loss, read off its graph (`find_residuals`), so
    that those of a physics-informed loss are its residuals. The NNTK is in Gauss-Newton form
    unless ``nntk="hessian"``: eigenvalues kappa/(kappa + lambda), the share of a mode's residual
    that one unit step removes (see `lightning_callbacks.kernels`). Of more than `max_rows` rows
    an evenly spaced part is used: the kernel of fewer samples, whose extremes lie within those
    of the whole, so that its condition number is a lower bound.

    **lambda** is `damping` where given; else that of RegNewton's last step, while H is that of
    the point where the step ended; else, for optimizers that have none, the width rule
    :math:`s\,n^{-1/4}` with s = \|H g\| / \|g\| at the first measurement, kept from then on.

    On several processes each measures on its own batch, and what is logged is the mean.

    Args:
        every_n_steps: optimizer steps between measurements.
        log_key_prefix: put in front of every key.
        probe: a batch, as the DataLoader gives it; the first training batch where none is given,
            which is taken anew when training is resumed.
        damping: lambda, absolute.
        nntk: ``"gauss_newton"``, or ``"hessian"`` for the NNTK of the exact Hessian, which
            beyond `exact_up_to` parameters costs one linear solve a row.
        loss: callable of (module, batch) that returns the loss with its graph, in place of
            ``training_step``; needed with manual optimization.
        outputs: callable of (module, batch) that returns the network's outputs, for kernels of
            losses in which no outputs are recognised. Then Q = I/M, with M = len(outputs).
        max_rows: rows of a kernel at most.
        exact_up_to: the largest number of parameters for which H is formed, by as many products.
        max_products: Hessian-vector products for the extreme eigenvalues of larger ones.

    Raises:
        MisconfigurationException: in ``setup``, for an argument that cannot be used.
        NotTwiceDifferentiableError: at the first measurement, where the loss cannot be
            differentiated twice.
    """

    def __init__(
        self,
        every_n_steps: int = 10,
        log_key_prefix: str = "",
        probe: Any = None,
        damping: float | None = None,
        nntk: str = "gauss_newton",
        loss: OfBatch | None = None,
        outputs: OfBatch | None = None,
        max_rows: int = 256,
        exact_up_to: int = 400,
        max_products: int = 100,
    ) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self.log_key_prefix = log_key_prefix
        self.probe = probe
        self.damping = damping
        self.nntk = nntk
        self.loss = loss
        self.outputs = outputs
        self.max_rows = max_rows
        self.exact_up_to = exact_up_to
        self.max_products = max_products
        self.latest: Numbers = {}
        self._forget()

    def _forget(self) -> None:
        self.latest = {}
        self._batch: Any = None
        self._measured_at: int | None = None
        self._scale: float | None = None
        self._said: set[str] = set()

    @property
    def state_key(self) -> str:
        """Two monitors in one trainer differ by their prefixes."""
        return f"CurvatureMonitor[{self.log_key_prefix}]"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: the scale of lambda, and what was measured last."""
        return {"scale": self._scale, "measured_at": self._measured_at, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._scale = state_dict["scale"]
        self._measured_at = state_dict["measured_at"]
        self.latest = dict(state_dict["latest"])

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the arguments."""
        if stage != "fit":
            return
        self._forget()
        self._check_arguments()
        if self.loss is not None:
            return
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "CurvatureMonitor calls training_step for its loss, which under manual "
                "optimization takes optimizer steps itself: give it "
                "loss=callable(module, batch) that returns the loss"
            )
        if takes_dataloader_iterator(pl_module):
            raise MisconfigurationException(
                "CurvatureMonitor measures on one fixed batch, but training_step(dataloader_iter) "
                "draws its batches itself: give it probe=batch and loss=callable(module, batch)"
            )

    def _check_arguments(self) -> None:
        for name, least in (
            ("every_n_steps", 1), ("max_rows", 1), ("exact_up_to", 0), ("max_products", 2),
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise MisconfigurationException(
                    f"CurvatureMonitor needs an integer {name} >= {least}, not {value!r}"
                )
        if not isinstance(self.log_key_prefix, str):
            raise MisconfigurationException(
                f"CurvatureMonitor needs a string log_key_prefix, not {self.log_key_prefix!r}"
            )
        if self.damping is not None and not _is_damping(self.damping):
            raise MisconfigurationException(
                f"CurvatureMonitor needs a finite damping >= 0 or None, not {self.damping!r}"
            )
        if self.nntk not in KERNELS:
            raise MisconfigurationException(
                f"CurvatureMonitor needs nntk to be one of {', '.join(KERNELS)}, not {self.nntk!r}"
            )
        for name in ("loss", "outputs"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise MisconfigurationException(
                    f"CurvatureMonitor needs {name} to be a callable of (module, batch) or None, "
                    f"not {type(value).__name__}"
                )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """After resuming, publish what was measured last."""
        self._publish(trainer)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the first batch, and measure before the first step."""
        if self._batch is None and self.probe is None:
            self._batch = copy_of(batch)
        if self._measured_at is None:
            self._measure_and_log(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure where another `every_n_steps` optimizer steps are complete."""
        n, before = self.every_n_steps, self._measured_at or 0
        if trainer.global_step // n > before // n:
            self._measure_and_log(trainer, pl_module)

    def _measure_and_log(self, trainer: Any, pl_module: Any) -> None:
        numbers = self._measure(trainer, pl_module)
        self._measured_at = trainer.global_step
        self.latest = {self.log_key_prefix + key: value for key, value in numbers.items()}
        self._publish(trainer)
        if self.latest:
            for logger in trainer.loggers:
                logger.log_metrics(self.latest, step=trainer.global_step)

    def _publish(self, trainer: Any) -> None:
        values = torch.tensor(list(self.latest.values()), dtype=torch.float64)
        trainer.callback_metrics.update(zip(self.latest, values.unbind(), strict=True))

    def _measure(self, trainer: Any, pl_module: Any) -> Numbers:
        params = _trained(trainer.optimizers)
        with (
            undisturbed(trainer, pl_module, SEED),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            if self._batch is None:
                self._batch = moved(trainer, pl_module, self.probe)
            loss = self._evaluate(self.loss or training_loss, trainer, pl_module)
            if loss is None:
                self._say("training_step skipped the probe batch, so there is nothing to measure")
                return {}
            numbers = self._of_loss(trainer, pl_module, loss, params)
        numbers |= newton_numbers(trainer.optimizers)
        return _mean_over_processes(trainer, numbers)

    def _evaluate(
        self, function: Callable[[Any, Any], Tensor | None], trainer: Any, pl_module: Any
    ) -> Tensor | None:
        """What `function` makes of the probe batch, in the trainer's precision."""
        with trainer.precision_plugin.train_step_context():
            return function(pl_module, copy_of(self._batch))

    def _of_loss(self, trainer: Any, pl_module: Any, loss: Tensor, params: list[Tensor]) -> Numbers:
        epsilon = max(torch.finfo(params[0].dtype).eps, low_precision(trainer))
        gradient, H = gradient_and_hessian(loss, params)
        if not bool(torch.isfinite(gradient).all()):
            return unknown_spectrum() | unknown_kernels()
        damping = self._lambda(gradient, H, params, trainer.optimizers)
        spectrum = hessian_spectrum(
            H, epsilon, exact_up_to=self.exact_up_to, products=self.max_products
        )
        numbers = unknown_spectrum() if spectrum is None else spectrum.numbers(damping)
        rows = self._rows(trainer, pl_module, loss, params)
        if rows is not None:
            exact = (H, spectrum) if self.nntk == "hessian" else None
            numbers |= kernel_numbers(rows, damping, epsilon, exact)
        return numbers

    def _lambda(
        self,
        gradient: Tensor,
        H: LinearOperator,
        params: list[Tensor],
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> float:
        """The damping of H + lambda I, absolute."""
        newton = next((o for o in optimizers if isinstance(o, RegNewton)), None)
        if self.damping is not None:
            return float(self.damping)
        if newton is not None and newton.last_step is not None:
            return newton.last_step.damping
        if self._scale is None:
            s = float(torch.linalg.vector_norm(H @ gradient) / torch.linalg.vector_norm(gradient))
            self._scale = s if s > 0 and math.isfinite(s) else None
        n = width(params) if newton is None else newton.options.width or width(params)
        rule = Adaptive() if newton is None else newton.options.damping
        return rule(None, Scale(self._scale or 1.0, n, torch.finfo(params[0].dtype).eps))

    def _rows(
        self, trainer: Any, pl_module: Any, loss: Tensor, params: list[Tensor]
    ) -> Rows | None:
        if self.outputs is not None:
            outputs = self._evaluate(self.outputs, trainer, pl_module)
            if not isinstance(outputs, Tensor):
                raise TypeError(f"outputs must return a tensor, not {type(outputs).__name__}")
            rows = rows_of_outputs(outputs, params, self.max_rows)
        else:
            found, unrecognised = rows_of_loss(loss, params, self.max_rows)
            if found is None:
                self._say(
                    "no outputs were recognised in the graph of the loss, which begins with "
                    f"{', '.join(unrecognised)}, so no kernels are logged: give CurvatureMonitor "
                    "outputs=callable(module, batch) that returns the network's outputs"
                )
                return None
            if unrecognised:
                self._say(
                    f"parts of the loss were not recognised ({', '.join(unrecognised)}): the "
                    "kernels are those of the other parts. To choose the rows yourself give "
                    "CurvatureMonitor outputs=callable(module, batch)"
                )
            rows = found
        used = len(rows.J)
        if used < rows.total and "rows" not in self._said:
            self._said.add("rows")
            rank_zero_info(f"CurvatureMonitor: kernels are of {used} of {rows.total} outputs")
        return rows

    def _say(self, message: str) -> None:
        """Warn, once for each message."""
        if message not in self._said:
            self._said.add(message)
            rank_zero_warn(f"CurvatureMonitor: {message}", category=UserWarning)


def _is_damping(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _trained(optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    """The parameters that the optimizers train, each once."""
    params = {
        id(param): param
        for optimizer in optimizers
        for group in optimizer.param_groups
        for param in group["params"]
        if param.requires_grad
    }
    kinds = sorted({f"{param.dtype} on {param.device}" for param in params.values()})
    if len(kinds) != 1:
        raise MisconfigurationException(
            "CurvatureMonitor needs trained parameters of one dtype on one device, not "
            f"{', '.join(kinds) or 'none at all'}"
        )
    return list(params.values())


def _mean_over_processes(trainer: Any, numbers: Numbers) -> Numbers:
    if trainer.world_size == 1:
        return numbers
    values = torch.tensor(
        list(numbers.values()), dtype=torch.float64, device=trainer.strategy.root_device
    )
    means = trainer.strategy.reduce(values, reduce_op="mean").tolist()
    return dict(zip(numbers, means, strict=True))
