"""One run in a process of its own: peak memory is its own, and a crash or a hang ends only it."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import time
import warnings
from multiprocessing.connection import Connection

import torch

from .contenders.contender import Contender
from .problem import Instance, NotApplicable, Problem
from .store import Record
from .task import Finished, Task

WARM_STEPS, WARM_SECONDS = 2, 0.5
# An alarm in the middle of an import leaves half a module behind: much later than any import ends.
WARM_ALARM = 5.0
GRACE = 30.0  # seconds beyond three budgets after which a process is taken to hang


class WarmUp(Task):
    """A throwaway run of a few steps: imports, allocators and thread pools are not charged."""

    def tick(self, evaluate: bool = False) -> None:
        self.steps += 1
        if self.steps == WARM_STEPS:
            raise Finished("warm")

    def observe(self, loss: float) -> None:
        pass


def peak_mebibytes() -> float:
    """The largest resident set of this process so far (kibibytes on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def drive(
    contender: Contender, setting: dict[str, float], task: Task, alarm: float
) -> tuple[str, str]:
    """Run until the task, the clock or the contender ends it; returns status and reason.

    A peer deep in its own iterations asks for no loss: the alarm, in seconds, ends it.
    """

    def on_alarm(*_: object) -> None:
        task.check_time()

    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, alarm, 0.05)
    try:
        task.start()
        contender.run(task, setting)
        return "converged", "the peer's own criterion"
    except Finished as finished:
        return str(finished), ""
    except NotApplicable as reason:
        return "not applicable", str(reason)
    except Exception as error:  # a peer may fail in any way, and is shown as such
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0][:200]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def run(
    problem: Problem, contender: Contender, setting: dict[str, float], seed: int, budget: float
) -> Record:
    """The measured run, after a warm-up on an instance that is thrown away."""

    def build() -> Instance:
        instance = problem.build(seed)
        torch.manual_seed(seed)
        return instance

    record: Record = {}
    try:
        drive(contender, setting, WarmUp(problem, build(), WARM_SECONDS), WARM_ALARM)
        task = Task(problem, build(), budget)
    except NotApplicable as reason:
        return {"status": "not applicable", "reason": str(reason)}
    before = peak_mebibytes()
    status, reason = drive(contender, setting, task, budget)
    record["seconds"] = task.elapsed()
    record["peak_memory_mib"] = round(peak_mebibytes() - before, 1)
    if status not in ("not applicable", "all targets reached"):
        with contextlib.suppress(Exception):
            task.close()
    return record | {
        "status": status,
        "reason": reason,
        "reached": {repr(target): list(at) for target, at in task.reached.items()},
        "best_loss": finite(task.best_loss),
        "best_error": finite(task.best_error),
        "steps": task.steps,
        "closure_calls": task.closure_calls,
        "products": task.products,
        "cg_median": statistics.median(task.cg_iterations) if task.cg_iterations else None,
        "extra": task.extra,
        "curve": [[finite(value) for value in point] for point in task.curve],
    }


def finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None


def child(
    connection: Connection,
    problem: Problem,
    contender: Contender,
    setting: dict[str, float],
    seed: int,
    budget: float,
    threads: int,
) -> None:
    # Peers print; what they say would tear the progress bar.
    sink = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
    sys.stdout = sys.stderr = sink
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    connection.send(run(problem, contender, setting, seed, budget))


def in_process(
    problem: Problem,
    contender: Contender,
    setting: dict[str, float],
    seed: int,
    budget: float,
    threads: int,
) -> Record:
    """Run in a forked process, which has the parent's imports and none of its threads."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=child, args=(sender, problem, contender, setting, seed, budget, threads)
    )
    begin = time.perf_counter()
    process.start()
    sender.close()
    try:
        if receiver.poll(3 * budget + GRACE):
            record = receiver.recv()
        else:
            record = {"status": "killed", "reason": "did not end by itself"}
    except EOFError:
        process.join()
        record = {"status": "failed", "reason": f"the process died: exit {process.exitcode}"}
    finally:
        if process.is_alive():
            process.join(1.0)
        if process.is_alive():
            process.kill()
        process.join()
    return record | {"wall_seconds": time.perf_counter() - begin}
