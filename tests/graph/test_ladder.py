"""Which parameters are read, on which rung of the ladder, and what happens to the others."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.graph.unreadable import TWICE, UNREADABLE, Cubed, Use, custom, distances, fit
from tests.helpers import Problem, assert_close, closure_of, dense_jacobian, randn
from torch_newton import RegNewton, find_residuals
from torch_newton.graph.by_autograd import MAX_COLUMNWISE
from torch_newton.graph.guard import UnreadableGraphWarning
from torch_newton.graph.ladder import LADDER, read_jacobian
from torch_newton.graph.loss_curvature import output_hessian_root
from torch_newton.graph.per_sample import MAX_COLUMNS
from torch_newton.graph.readers import READERS
from torch_newton.graph.reading import MAX_ROWWISE, Reading, Request, Rung
from torch_newton.graph.residuals import read_residuals
from torch_newton.kernels.rows import KernelError, jacobian_of, rows_of_loss
from torch_newton.linalg.flat import flatten
from torch_newton.step import Path

pytestmark = pytest.mark.usefixtures("float64")


def read(loss: Tensor, params: list[Tensor]) -> Reading:
    terms = find_residuals(loss).terms
    roots = [root for term in terms if (root := output_hessian_root(term)) is not None]
    return read_jacobian(Request(terms, params, roots))


def weighted_jacobian(problem: Problem, use: Use = custom) -> Tensor:
    """With the square root of Q = 2 / R of a mean square."""
    # torch.func.jacrev is wrong on cdist (PyTorch 2.13).
    J = by_single_rows(problem) if use is distances else problem.jacobian()
    return J * (2 / len(J)) ** 0.5


def by_single_rows(problem: Problem) -> Tensor:
    z = problem.outputs(problem.params).reshape(-1)
    rows = [torch.autograd.grad(entry, problem.params, retain_graph=True) for entry in z]
    return torch.stack([flatten(row) for row in rows])


def test_every_rung_but_the_last_has_a_strategy() -> None:
    assert [*LADDER, Rung.NONE] == list(Rung)


@pytest.mark.parametrize("use", UNREADABLE)
def test_an_unreadable_layer_of_few_rows_is_taken_row_by_row(use: Use) -> None:
    problem = fit(use, 40)
    reading = read(problem.value(), problem.params)
    assert reading.rung is Rung.BLOCKS
    assert reading.rungs == (Rung.ROWS, *[Rung.BLOCKS] * 4)
    assert reading.left_out == ()
    assert list(reading.obstacles) == [0]
    assert UNREADABLE[use] in reading.obstacles[0]
    assert reading.jacobian is not None
    assert_close(reading.jacobian.dense(), weighted_jacobian(problem, use), 1e-10)


@pytest.mark.parametrize("use", UNREADABLE)
def test_an_unreadable_layer_of_many_rows_is_left_out_alone(use: Use) -> None:
    problem = fit(use, MAX_ROWWISE + 1)
    reading = read(problem.value(), problem.params)
    assert reading.rungs == (Rung.NONE, *[Rung.BLOCKS] * 4)
    assert reading.left_out == (0,)
    assert reading.jacobian is not None
    expected = weighted_jacobian(problem, use)
    expected[:, : problem.params[0].numel()] = 0
    assert_close(reading.jacobian.dense(), expected, 1e-10)
    complaint = reading.complaint(problem.params)
    assert complaint is not None
    assert f"number 0 of shape (12, 12) ({UNREADABLE[use]})" in complaint


Layers = list[tuple[bool, int]]


def chain(layers: Layers, x: Tensor) -> Callable[[list[Tensor]], Tensor]:
    def outputs(weights: list[Tensor]) -> Tensor:
        hidden = x
        for (readable, _), weight in zip(layers, weights, strict=True):
            hidden = torch.tanh(hidden @ weight if readable else Cubed.apply(hidden, weight.T))
        return hidden.sum(1)

    return outputs


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=4),
    st.sampled_from([20, MAX_ROWWISE + 4]),
    st.integers(0, 1000),
)
def test_exactly_the_layers_that_can_be_read_are_read(layers: Layers, rows: int, seed: int) -> None:
    widths = [2, *[width for _, width in layers]]
    weights = [
        randn(a, b, seed=seed + i).requires_grad_()
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    ]
    outputs = chain(layers, randn(rows, 2, seed=seed + 9))
    reading = read(outputs(weights).square().sum(), weights)
    unread = [i for i, (readable, _) in enumerate(layers) if not readable]
    entries = sum(weights[i].numel() for i in unread)
    if entries <= MAX_COLUMNWISE and (entries < rows or rows > MAX_ROWWISE):
        expected = Rung.COLUMNS
    else:
        expected = Rung.ROWS if rows <= MAX_ROWWISE else Rung.NONE
    assert sorted(reading.obstacles) == unread
    for i, rung in enumerate(reading.rungs):
        assert rung is (expected if i in unread else Rung.BLOCKS)
    J = 2**0.5 * dense_jacobian(outputs, weights)  # type: ignore[arg-type]
    if reading.jacobian is None:
        assert len(unread) == len(layers)
        return
    for factor, columns, rung in zip(
        reading.jacobian.factors,
        torch.split(J, [w.numel() for w in weights], 1),
        reading.rungs,
        strict=True,
    ):
        assert (factor is None) == (rung is Rung.NONE)
        if factor is not None:
            assert_close(factor.dense(), columns, 1e-10)


def test_more_outputs_than_passes_are_worth_are_not_read_off_the_graph() -> None:
    w = randn(3, MAX_COLUMNS + 8).requires_grad_()
    reading = read((randn(1, 3) @ w).tanh().square().sum(), [w])
    assert reading.rungs == (Rung.ROWS,)
    assert "outputs a sample" in reading.obstacles[0]


# Kernels


@pytest.mark.parametrize("use", TWICE)
@pytest.mark.parametrize("rows", [40, MAX_ROWWISE + 1])
def test_a_kernel_has_the_columns_of_all_parameters(use: Use, rows: int) -> None:
    problem = fit(use, rows)
    J = problem.jacobian()
    assert_close(jacobian_of(problem.outputs(problem.params), problem.params).dense(), J)
    found, _ = rows_of_loss(problem.value(), problem.params)
    assert found is not None
    assert_close(found.plain.dense(), J)
    assert_close(found.weighted.dense(), weighted_jacobian(problem))


def test_a_kernel_of_several_classes_has_the_columns_of_all_parameters() -> None:
    w = randn(3, 30).requires_grad_()
    x, labels = randn(7, 3), torch.arange(7) % 3
    z = Cubed.apply(x, w.T).tanh().reshape(7, 3, 10).sum(2)
    found, _ = rows_of_loss(F.cross_entropy(z, labels), [w])
    assert found is not None
    G = find_residuals(F.cross_entropy(z, labels)).gauss_newton([w]).dense()
    weighted = found.weighted.dense()
    assert_close(weighted.T @ weighted, G)


def test_a_kernel_whose_columns_are_too_large_to_form_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = fit(custom, 40)
    monkeypatch.setattr("torch_newton.kernels.rows.JACOBIAN_ENTRIES", 40 * 144 - 1)
    with pytest.raises(KernelError, match="40 x 144 is too large to form"):
        jacobian_of(problem.outputs(problem.params), problem.params)
    monkeypatch.setattr("torch_newton.kernels.rows.JACOBIAN_ENTRIES", 40 * 144)
    jacobian_of(problem.outputs(problem.params), problem.params)


# Errors


def broken(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def reader(*arguments: object) -> None:
        raise error

    for name in READERS:
        monkeypatch.setitem(READERS, name, reader)


def train(rows: int, steps: int, preconditioner: str | None) -> tuple[list[float], RegNewton]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 30), nn.Tanh(), nn.Linear(30, 1))
    x = randn(rows, 2)
    optimizer = RegNewton(
        net.parameters(), curvature="hessian", scaling=None, preconditioner=preconditioner
    )
    closure = closure_of(optimizer, lambda: F.mse_loss(net(x), x[:, :1].sin()))
    return [float(optimizer.step(closure)) for _ in range(steps)], optimizer


ERRORS = [RuntimeError, IndexError, TypeError, ValueError, KeyError, AttributeError]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_reading_costs_speed_and_one_warning(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = train(MAX_ROWWISE + 4, 6, None)
    broken(monkeypatch, error("something new"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        found, optimizer = train(MAX_ROWWISE + 4, 6, "auto")
    (warning,) = [w for w in seen if issubclass(w.category, UnreadableGraphWarning)]
    assert f"{error.__name__}: " in str(warning.message)
    assert "something new" in str(warning.message)
    assert "costs speed and not correctness" in str(warning.message)
    assert optimizer.last_step is not None
    assert optimizer.last_step.path is Path.PLAIN
    assert found == pytest.approx(expected, rel=1e-12)


def test_after_an_error_few_rows_are_still_taken_by_autograd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, _ = train(20, 3, "auto")
    broken(monkeypatch, IndexError("something new"))
    with pytest.warns(UnreadableGraphWarning, match="something new"):
        found, optimizer = train(20, 3, "auto")
    assert optimizer.last_step is not None
    assert optimizer.last_step.path is Path.FUNCTION_SPACE
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, KeyboardInterrupt])
def test_exhausted_memory_and_interrupts_are_no_reading_errors(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, error("enough"))
    with pytest.raises(error, match="enough"):
        train(20, 1, "auto")


def test_an_error_on_the_way_back_from_a_loss_leaves_it_without_terms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raising(*arguments: object) -> None:
        raise TypeError("float() argument must be a string")

    monkeypatch.setattr("torch_newton.graph.residuals._term", raising)
    loss = randn(3).requires_grad_().exp().square().mean()
    with pytest.raises(TypeError):
        find_residuals(loss)
    with pytest.warns(UnreadableGraphWarning, match="TypeError"):
        residuals = read_residuals(loss)
    assert residuals.terms == []
    assert "TypeError" in residuals.unrecognised[0]
    with pytest.warns(UnreadableGraphWarning, match="TypeError"):
        losses, optimizer = train(20, 3, "auto")
    assert optimizer.last_step is not None
    assert optimizer.last_step.path is Path.PLAIN
    assert losses == pytest.approx(train(20, 3, None)[0], rel=1e-12)
