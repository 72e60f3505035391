"""CurvatureMonitor: curvature and kernels of a LightningModule's loss, logged as it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .batch import OfBatch
from .budget import Budget
from .compat import Callback, MisconfigurationException
from .config import Arguments
from .engine import Engine
from .failures import Failures
from .history import History
from .logs import publish, write
from .measurement import Measurement
from .newton import optimizer_to_observe
from .progress import show
from .quantities.base import Numbers, Quantity
from .quantities.table import BY_DEFAULT
from .warn_once import WarnOnce

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PAUSE = 20.0
"""Training steps that a measurement may take as long as, where `max_overhead` limits it at all:
chosen so that a progress bar stands still for no longer than it takes to notice."""

MEASURED_AT = "measured_at"
"""The key, after the prefix, of the step to which numbers belong that are logged with it."""


class CurvatureMonitor(Callback):
    r"""Log how the loss curves, and how fast it can be trained, with any optimizer.

    Every `every_n_steps` optimizer steps, as far as `max_overhead` and `max_pause` allow, the loss
    of the module's own ``training_step`` is evaluated on one fixed batch, in train mode and with
    the same random numbers every time, and of these the `quantities` asked for are logged:

    ==================================  ===========================================================
    ``hessian/lambda_min``              smallest eigenvalue of the exact Hessian H
    ``hessian/lambda_min_error``        an eigenvalue lies within this distance of it
    ``hessian/lambda_min_lowest``       none lies below, but for a chance of 1e-10
    ``hessian/lambda_max``              largest eigenvalue of H
    ``hessian/lambda_max_error``        an eigenvalue lies within this distance of it
    ``hessian/negative_fraction``       share of the P eigenvalues that are negative
    ``hessian/negative_fraction_low``   lower bound of it: sure, or with 95 %
    ``hessian/negative_fraction_high``  upper bound of it, likewise
    ``hessian/damped_lambda_min``       smallest eigenvalue of H + lambda I
    ``hessian/positive_definite``       1 or 0 for H + lambda I if proved, else NaN
    ``hessian/trace``                   sum of the eigenvalues of H
    ``hessian/trace_error``             its standard error, or its rounding where H is formed
    ``ntk/lambda_min``                  smallest eigenvalue of J J^T
    ``ntk/lambda_min_error``            an eigenvalue lies within this distance of it
    ``ntk/lambda_max``                  largest eigenvalue of J J^T
    ``ntk/lambda_max_error``            an eigenvalue lies within this distance of it
    ``ntk/condition_number``            largest over smallest absolute eigenvalue
    ``nntk/lambda_min``                 smallest eigenvalue of the Newton kernel, Gauss-Newton form
    ``nntk/lambda_min_error``           an eigenvalue lies within this distance of it
    ``nntk/lambda_max``                 largest eigenvalue of the Newton kernel, Gauss-Newton form
    ``nntk/lambda_max_error``           an eigenvalue lies within this distance of it
    ``nntk/condition_number``           largest over smallest absolute eigenvalue
    ``nntk_hessian/lambda_min``         smallest eigenvalue of the Newton kernel of H
    ``nntk_hessian/lambda_min_error``   an eigenvalue lies within this distance of it
    ``nntk_hessian/lambda_max``         largest eigenvalue of the Newton kernel of H
    ``nntk_hessian/lambda_max_error``   an eigenvalue lies within this distance of it
    ``nntk_hessian/condition_number``   largest over smallest absolute eigenvalue
    ``nntk_hessian/difference``         spectral norm of the difference between both
    ``effective_dimension/value``       tr K (K + lambda I)^-1 of the weighted kernel K
    ``effective_dimension/low``         lower bound of it
    ``effective_dimension/high``        upper bound of it
    ``sharpness/gradient``              curvature along the gradient, g'Hg / g'g
    ``sharpness/limit``                 2/lr, above which SGD is unstable; NaN for others
    ``sharpness/step``                  curvature along the last step, d'Hd / d'd
    ``critical/sharpness``              2 over the learning rate at which a step raises the loss
    ``critical/sharpness_low``          lower bound of it
    ``critical/sharpness_high``         upper bound of it
    ``critical/step``                   how many times as long the last step raises the loss
    ``residual/largest``                largest absolute residual of the loss
    ``residual/percentile_99``          99 % of the absolute residuals are at most this
    ``residual/<k>/largest``            the same of term k, where there are 2 to 8
    ``residual/<k>/percentile_99``      the same of term k
    ``alignment/lowest``                smallest cosine between gradients of two terms of the loss
    ``alignment/<j>_<k>``               cosine between those of terms j and k
    ``gram_share/<k>``                  share of term k in tr(J'QJ), where there are 2 to 8
    ``gram_share/<k>_error``            standard error of it
    ``ntk_sample/rows``                 m, rows of J J^T in the sample
    ``ntk_sample/all_rows``             R, rows of J J^T
    ``ntk_sample/lambda_min``           the sample's smallest eigenvalue: that of all is no larger
    ``ntk_sample/lambda_max``           the sample's largest eigenvalue: that of all is no smaller
    ``ntk_sample/error``                rounding in both
    ``ntk_sample/trace``                trace of J J^T, of all rows
    ``ntk_sample/trace_error``          its standard error
    ``precision/loss_noise``            standard deviation of the rounding errors in the loss
    ``precision/gain``                  what the best step along -g gains, (g'g)^2 / 2 g'Hg
    ``precision/limited``               1 where the gain is below the noise, else 0
    ``newton/damping``                  lambda of RegNewton's last step, if that is the optimizer
    ``newton/cg_iterations``            iterations of its linear solver
    ``newton/ratio``                    actual over predicted reduction of the loss
    ``newton/loss_after``               loss after it: that before, where it was refused
    ==================================  ===========================================================

    Here J is the Jacobian of the loss's outputs, and the Newton kernel is
    :math:`Q^{1/2} J (C + \lambda I)^{-1} J^T Q^{1/2}` with Q the second derivative of the loss in
    its outputs and C either :math:`J^T Q J`, its Gauss-Newton form, or H.

    They go to every logger of the trainer at ``trainer.global_step``, and to
    ``trainer.callback_metrics``, so that EarlyStopping and ModelCheckpoint can monitor them. A
    TensorBoard logger gets the spectra as histograms and figures, too. Training is bit for bit
    what it is without the monitor: gradients, random state, buffers, metrics and what
    ``training_step`` logs are left as they were (see `undisturbed`).

    **Quantities of your own** are subclasses of `Quantity`, given as instances, or by the name
    under which you put them in the table `QUANTITIES`:

    >>> from lightning_callbacks import Measured, Quantity
    >>> class GradientNorm(Quantity):
    ...     name = "gradient"
    ...     documentation = (("gradient/norm", "Euclidean norm of the gradient"),)
    ...
    ...     def compute(self, point):
    ...         return Measured({"gradient/norm": float(point.gradient.norm())})
    >>> monitor = CurvatureMonitor(quantities=("hessian", GradientNorm()))

    **Cost.** Measurements take at most `max_overhead` of the time spent training, and no pause is
    longer than `max_pause` training steps. Nothing is begun that is not reckoned to end in time:
    the loss alone is timed first, then its gradient with a graph, then a product, and of each the
    longest of the last five times is expected again, and half as much; or as much more as a piece
    of the last fifty took longer than expected. A product that takes longer than that, as when
    other work begins on the machine, exceeds the limits by what it takes longer. Python collects no
    garbage in a pause, which takes longer than many a training step.

    **When the first numbers come.** The first measurement waits until 15 training steps' time is
    allowed, at step 167 by default, and begins with the Hessian. Its numbers take at least the loss
    and its gradient with a graph (one to four training steps) and three products (two to five
    each): by step 186 for six of the benchmark's eight networks on two quiet cores, 400 for the
    dense one of a million parameters, and later than 240 for the ResNet-18, with the wide bounds
    that two Lanczos steps leave. Then follow the other quantities, by the least that each takes;
    only when each has a number the next measurement begins, with more products. No order of work
    can be faster than what all this takes over `max_overhead`.

    **Spread.** What does not fit in one pause goes on at later steps, with the parameters, buffers,
    batch and random numbers of the step at which it began. Each number is logged when it is
    finished, together with ``measured_at``, the step to which it belongs. (A loss that depends on
    anything else, as on the number of the step, is found out, and measured in one pause.) From one
    measurement to the next twice as much time is taken, until all is computed in full or five of
    the longest pauses are used; each number has the error bound that its products leave. *Which*
    steps are measured, and how closely, thus depends on the clock; training does not.

    Give ``max_overhead=None`` to measure before the first step and
    at all that are due, with full effort, as a run needs whose EarlyStopping follows these numbers
    and which should repeat exactly; or ``effort="exact"`` for full effort at fewer steps. A bar
    shows the progress of a measurement that takes longer than ten seconds.

    **Memory.** Between two pauses the vectors of the Lanczos process are held, at most 1 GiB of
    them, and four vectors of the size of the parameters. In a pause the peak is, besides the
    Lanczos vectors, at most four such vectors above that of a gradient and a product with the
    Hessian alone, its graph and a copy of the batch included: copies of the parameters and of
    their gradients, which put the training back, H g, and one to work with; or eight before
    the process begins. On seven of the benchmark's eight networks it was 3.0 to 3.5 (of the
    transformer the vectors of a kernel are much longer, and hide the rest:
    ``examples/benchmarks/monitor_memory.py``). More is taken by the Jacobian of a kernel, where it
    is read; by ``"alignment"``, two vectors in double precision for each term of the loss; up to
    4,096 parameters by products that are taken four at a time; and without a limit of time by the
    120 vectors of four processes at once.

    **Failures.** What is raised in a measurement becomes one warning, NaN is logged for the
    quantities concerned, and training goes on as without the monitor. Attention and recurrent
    networks are evaluated by kernels that can be differentiated twice, and compiled modules as
    they were written; where there is no second derivative all the same, products with H are
    differences of gradients, and the bounds say so. Where the gradient is none, because a
    ``torch.autograd.Function`` or a hook on a tensor reverses, scales or clips gradients or passes
    them straight through, there is no Hessian, and NaN is logged with a warning. Such functions are
    tested by themselves where the model applies them; in a model whose RegNewton's steps are
    measured, at the first measurement only, and not under manual optimization.

    **Hooks on parameters and modules** that clip, scale or mask gradients, or add noise, are no
    part of the loss. They are put aside in a measurement: all numbers, the gradient's among them,
    are those of the loss as a function of all parameters that the optimizers hold. Those that a
    hook keeps where they are, by a mask of zeros, count as any other, and their directions are in
    H. To leave parameters out of H give the optimizer no others, or set ``requires_grad=False``. A
    hook that is registered in the middle of a training whose RegNewton's steps are measured has
    acted in the step already: NaN is then logged with a warning.

    **Manual optimization**, as of GANs. For each optimizer the loss is measured that
    ``training_step`` sends backward for it (the sum of those since its gradients were zero), as a
    function of that optimizer's parameters, with all optimizers standing where they are. The
    numbers of several optimizers have the index in front: ``0/hessian/lambda_min``,
    ``1/hessian/lambda_min``. In limited time they take turns, one at each measurement.

    **Hessian.** Up to `exact_up_to` parameters H is formed, and its eigenvalues are exact to
    rounding. Beyond, the extremes are Ritz values of at most `max_products` Lanczos steps: the
    smallest is never below the true one, by more than rounding. Parameters are those that the
    optimizers hold. The bounds include the rounding of products, not how the loss itself depends
    on rounding in its forward pass: where that is ill-conditioned, as batch normalisation of
    inputs that differ in the fourth digit is in single precision, train with
    ``precision="64-true"`` to see the true curvature.

    **Kernels.** Rows are the outputs z of the loss, read off its graph (`find_residuals`), so
    that those of a physics-informed loss are its residuals. All eigenvalues are computed where
    the smaller of rows and parameters is at most `max_rows`, and else the extreme ones. More
    rows than parameters are a singular kernel: choose rows by `outputs` to see the spectrum of
    some of them.

    **lambda** is `damping` where given; else that of RegNewton's last step; else, for optimizers
    that have none, the start of `Adaptive`, :math:`\lambda_0 s\,n^{-1/4}` with
    s = \|H g\| / \|g\| at the first measurement, kept from then on.

    Where RegNewton's step was damped by lambda D instead of lambda I, it is H + lambda D whose
    definiteness is reported, and the NNTK is that of this damping.

    **With RegNewton** as the only optimizer, neither `probe`, `loss` nor `outputs` given, and no
    hooks on gradients, the measurement is that of the optimizer's own step: its batch, its graph,
    its Jacobian and the Gram matrix of that, its lambda. Logged at step t is then the point at
    which step t + 1 begins, with the lambda that it took.

    On several processes each measures on its own batch, and what is logged is the mean. What fails
    on one of them fails on all between two products; within a product that communicates, as
    with SyncBatchNorm, the others wait for the process group's timeout.

    Args:
        every_n_steps: optimizer steps between measurements. It sets how finely a run is resolved;
            what that costs is up to `max_overhead`.
        log_key_prefix: put in front of every key.
        logging_interval: ``"step"``, or ``"epoch"`` to measure at the end of each training epoch
            instead, and before the first.
        quantities: names in `QUANTITIES`, instances of `Quantity`, or both. By default all that
            cost little beside the spectra (`BY_DEFAULT`). Besides there are ``"trace"``,
            ``"nntk_hessian"``, ``"gram_shares"``, and ``"step_sharpness"`` and ``"critical"``,
            which keep a copy of the parameters. Each says what it costs. ``"nntk_hessian"``
            costs, beyond `exact_up_to` parameters, linear systems with a right-hand side for each
            row. The numbers under ``newton/`` are logged whether asked for or not.
        probe: a batch, as the DataLoader gives it; a DataLoader, for the mean loss of all its
            batches, drawn once; or a callable of the module that returns a batch, called at
            every measurement. The first training batch where none is given, which is taken anew
            when training is resumed.
        damping: lambda, absolute.
        loss: callable of (module, batch) that returns the loss with its graph, in place of
            ``training_step``; under manual optimization that of all parameters together.
        outputs: callable of (module, batch) that returns the network's outputs, for modules
            whose loss does not show them. Then Q = I/M, with M = len(outputs).
        max_overhead: at most this share of the training time is spent measuring, at any moment;
            None for no limit. A tenth, chosen as what one lets a progress bar or a logger cost.
        max_rows: the largest kernel of which all eigenvalues are computed. With 1024 rows that
            takes 0.1 s on one core, and with twice as many 0.35 s.
        exact_up_to: the largest number of parameters for which H is formed, by as many products:
            up to 400, less than twice the 220 that the estimates beyond take.
        max_products: Lanczos steps for the extreme eigenvalues of larger matrices. After 100 no
            eigenvalue of a million lies below the smallest Ritz value by more than 3 % of the
            width of the spectrum, but for the chance of 1e-10; after 50 that is 12 %.
        figures: whether a TensorBoard logger gets figures besides histograms.
        max_pause: training steps (batches, at their median time) that one pause for a measurement
            takes as long as at most; None for no limit. By default 20, or None where `max_overhead`
            is None.
        effort: ``"bounded"``, where the number of products follows from the time allowed, or
            ``"exact"``, where `exact_up_to`, `max_rows` and `max_products` alone determine it: the
            first measurement is then made before the first step, whatever it takes, and
            `max_pause` does not count.
        strict: whether to raise what is raised in a measurement.
        progress_bar: keys of numbers that Lightning's progress bar shows, without prefix, as
            ``("hessian/lambda_min", "sharpness/gradient")``.

    Attributes:
        latest: the numbers measured last, by their keys.
        spectra: the eigenvalues measured last, by the names of the quantities, where all are known.
        history: all measurements of the run as a table, a `History`: with any logger or none, of
            bounded size, kept in checkpoints. `plot` draws it.

    Raises:
        MisconfigurationException: in ``setup``, for an argument that cannot be used; where
            `strict`, also for a module whose step gives no loss.
        ValueError: a quantity of your own returns a key that it does not document.
    """

    def __init__(
        self,
        every_n_steps: int = 10,
        log_key_prefix: str = "",
        logging_interval: str = "step",
        quantities: str | Quantity | Sequence[str | Quantity] = BY_DEFAULT,
        probe: Any = None,
        damping: float | None = None,
        loss: OfBatch | None = None,
        outputs: OfBatch | None = None,
        max_overhead: float | None = 0.1,
        max_rows: int = 1024,
        exact_up_to: int = 400,
        max_products: int = 100,
        figures: bool = True,
        max_pause: float | str | None = "auto",
        effort: str = "bounded",
        strict: bool = False,
        progress_bar: Sequence[str] = (),
    ) -> None:
        super().__init__()
        pause: Any = max_pause
        if max_pause == "auto":
            pause = None if max_overhead is None else MAX_PAUSE
        asked = [quantities] if isinstance(quantities, (str, Quantity)) else quantities
        self.arguments: Arguments = Arguments(
            every_n_steps, log_key_prefix, logging_interval, tuple(asked), probe, damping, loss,
            outputs, max_overhead, max_rows, exact_up_to, max_products, figures,
            pause, effort, strict, tuple(progress_bar),
        )  # fmt: skip
        self._forget()

    def _forget(self) -> None:
        self.latest: Numbers = {}
        self.spectra: dict[str, Tensor] = {}
        self._warn = WarnOnce()
        self._failures = Failures(self.arguments.strict, self._warn)
        self._off = False
        self.history: History = History()
        self._hide: Callable[[], None] = lambda: None
        self._engine = Engine(self.arguments, self._warn, self._failures, self._log)
        self._handle: Any = None

    @property
    def measured_at(self) -> int | None:
        """The step of the last measurement, None before the first."""
        return self._engine.schedule.measured_at

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
    def _budget(self) -> Budget:
        return self._engine.schedule.budget

    @property
    def state_key(self) -> str:
        """Two monitors in one trainer differ by their prefixes."""
        return f"CurvatureMonitor[{self.arguments.log_key_prefix}]"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: the scales of lambda, and what was measured."""
        return {
            "scales": dict(self._engine.probe.scales),
            "measured_at": self.measured_at,
            "latest": self.latest,
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        scale = state_dict.get("scale")  # of earlier versions, which knew one loss only
        scales = {} if scale is None else {-1: scale}
        self._engine.probe.scales = dict(state_dict.get("scales", scales))
        self._engine.schedule.measured_at = state_dict["measured_at"]
        self.latest = dict(state_dict["latest"])
        if "history" in state_dict:  # not in checkpoints of earlier versions
            self.history.load_state_dict(state_dict["history"])

    def plot(self, optimizer: int | None = None) -> Figure:
        """Draw the history: margin, spectra, sharpness, NTK beside NNTK, residuals.

        Args:
            optimizer: its index, where the module has several.

        Returns:
            A Matplotlib figure, which a notebook shows and ``savefig`` writes.

        Raises:
            ModuleNotFoundError: Matplotlib is not installed.
            ValueError: nothing has been measured that could be drawn.
        """
        if find_spec("matplotlib") is None:
            raise ModuleNotFoundError(
                "CurvatureMonitor.plot needs Matplotlib: pip install 'torch-newton[plots]'; "
                "monitor.history has the numbers without it"
            )
        overview = import_module("lightning_callbacks.overview")
        prefix = "" if optimizer is None else f"{optimizer}/"
        figure: Figure = overview.history_figure(self.history, prefix)
        return figure

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the arguments."""
        if stage != "fit":
            return
        self._forget()
        self.arguments.check()
        reason = self.arguments.without_loss(pl_module)
        if reason is not None:
            if self.arguments.strict:
                raise MisconfigurationException(reason)
            self._warn(f"nothing is measured: {reason}")
            self._off = True

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """After resuming, publish what was measured last; watch RegNewton where that serves."""
        publish(trainer, self.latest)
        prefix, shown = self.arguments.log_key_prefix, self.arguments.progress_bar
        self._hide = show(
            trainer, shown, lambda: {k.removeprefix(prefix): v for k, v in self.latest.items()}
        )
        self._engine.begin()
        newton = None if self._off else optimizer_to_observe(trainer, self.arguments)
        if newton is not None:
            self._handle = newton.register_observer(
                lambda seen: self._engine.observe(trainer, seen)
            )

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stop watching."""
        self._hide()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the first batch, and measure before the first step where that is asked for."""
        if self._off:
            return
        with self._budget.spending(), self._failures.noted("keeping the first batch"):
            self._engine.probe.keep_first(batch)
        if self._handle is not None:
            return
        if self.measured_at is None and not self.arguments.bounded:
            self._engine.measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure where another `every_n_steps` optimizer steps are complete."""
        self._budget.step_ended()
        if self._handle is None and not self._off:
            with self._budget.spending():
                self._engine.at_step(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Keep the parameters from before the step, where a quantity asks for them."""
        if self._handle is None and not self._off:
            self._engine.before_step(trainer, optimizer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, where the interval is the epoch."""
        if not self._off:
            with self._budget.spending():
                self._engine.after_epoch(trainer, pl_module)

    def _log(self, trainer: Any, found: Measurement) -> None:
        prefix, figures = self.arguments.log_key_prefix, self.arguments.figures
        numbers = {prefix + key: value for key, value in found.numbers.items()}
        if self.arguments.bounded:
            numbers[f"{prefix}{MEASURED_AT}"] = float(found.step)
        more = self.measured_at == found.step  # of the same point, finished later
        self._engine.schedule.measured_at = found.step
        self.spectra = self.spectra | found.spectra if more else found.spectra
        self.latest = self.latest | numbers if more else numbers
        self.history.append(
            found.step, int(trainer.current_epoch), found.numbers, found.spectra, more=more
        )
        with self._failures.noted("logging"):
            publish(trainer, numbers)
            write(trainer, numbers, found.spectra, prefix=prefix, figures=figures)
