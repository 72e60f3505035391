"""Kinds of modules whose training a measurement would disturb, if `remember` left their kind out.

Each of the cases fails without the line of `remember` or `copy_of` that it is named after.
"""

import random
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from torch.utils.data import DataLoader, TensorDataset

from lightning_callbacks import CurvatureMonitor
from lightning_callbacks.remember import remember
from tests.helpers import mlp, randn

X, Y = randn(10, 2, seed=1), randn(10, 1, seed=2)
MSE = torch.nn.functional.mse_loss


def zeros(*size):
    return torch.zeros(*size, dtype=torch.float64)


def appends_outputs(m, loss, z, y):
    m.held.append(loss.detach())
    return loss


def weights_by_recent_losses(m, loss, z, y):
    m.held.append(float(loss))
    return loss * (1 + sum(m.held))


def counts_calls(m, loss, z, y):
    m.held["calls"] += 1
    return loss * m.held["calls"]


def notes_what_it_has_seen(m, loss, z, y):
    m.held.add(float(loss))
    return loss * len(m.held)


def updates_metric(m, loss, z, y):
    for metric in m.held.values() if isinstance(m.held, dict) else m.held:
        metric.update(z, y)
    return loss


def updates_tensor_in_place(m, loss, z, y):
    held = m.held["mean"] if isinstance(m.held, dict) else m.held[0]
    held.mul_(0.9).add_(loss.detach())
    return loss * (1 + held.mean())


def draws_noise(m, loss, z, y):
    return loss * (1 + torch.rand((), generator=m.held))


def draws_points(m, loss, z, y):
    return loss * (1 + m.held.random())


def adds_to_array(m, loss, z, y):
    m.held += float(loss)
    return loss * (1 + m.held.sum())


def calls_backward_itself(m, loss, z, y):
    loss.backward(retain_graph=True)
    return loss


def normalizes(m, loss, z, y):
    return MSE(m.held(z), y)


CASES = {
    "list of outputs": (list, appends_outputs),
    "deque of losses": (lambda: deque(maxlen=3), weights_by_recent_losses),
    "dictionary of counters": (lambda: {"calls": 0}, counts_calls),
    "set of samples": (set, notes_what_it_has_seen),
    "torchmetrics in a dictionary": (
        lambda: {"mse": torchmetrics.MeanSquaredError()},
        updates_metric,
    ),
    "torchmetrics in a list": (lambda: [torchmetrics.MeanSquaredError()], updates_metric),
    "running mean in a dictionary": (lambda: {"mean": zeros(1)}, updates_tensor_in_place),
    "shadow weights in a list": (lambda: [zeros(3)], updates_tensor_in_place),
    "states of an LSTM in a tuple": (lambda: (zeros(3), zeros(3)), updates_tensor_in_place),
    "generator of torch": (lambda: torch.Generator().manual_seed(1), draws_noise),
    "generator of numpy": (lambda: np.random.default_rng(1), draws_points),
    "generator of random": (lambda: random.Random(1), draws_points),
    "array": (lambda: np.zeros(2), adds_to_array),
    "gradients of its own": (lambda: None, calls_backward_itself),
    "buffers": (lambda: torch.nn.BatchNorm1d(1, dtype=torch.float64), normalizes),
}


class Module(pl.LightningModule):
    def __init__(self, held, use):
        super().__init__()
        self.net = mlp(2, 5, 1)
        self.held = held
        self.use = use

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        return self.use(self, MSE(z, y), z, y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=1e-2)


def fit(module, *callbacks, loader=None):
    trainer = pl.Trainer(
        max_steps=4, max_epochs=-1, callbacks=list(callbacks), accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, loader or DataLoader(TensorDataset(X, Y), batch_size=5))
    return module


def monitor(**options):
    return CurvatureMonitor(1, max_overhead=None, quantities="hessian", **options)


def shown(thing):
    """What there is to see of a held object, in a form that compares bit for bit."""
    if isinstance(thing, torchmetrics.Metric):
        return float(thing.compute()), thing.update_count
    if isinstance(thing, (dict, torch.nn.Module)):
        items = thing.state_dict() if isinstance(thing, torch.nn.Module) else thing
        return {key: shown(value) for key, value in items.items()}
    if isinstance(thing, (list, tuple, deque, set)):
        return [shown(x) for x in (sorted(thing) if isinstance(thing, set) else thing)]
    if isinstance(thing, (torch.Tensor, torch.Generator)):
        return (thing.get_state() if isinstance(thing, torch.Generator) else thing).tolist()
    if isinstance(thing, np.random.Generator):
        return repr(thing.bit_generator.state)
    return repr(thing.getstate() if isinstance(thing, random.Random) else thing)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_module_that_keeps_things_trains_as_it_does_without_the_monitor(name):
    make, use = CASES[name]
    plain = fit(Module(make(), use))
    watched = fit(Module(make(), use), monitor())
    for mine, theirs in zip(watched.net.parameters(), plain.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(mine.grad, theirs.grad)
    assert shown(watched.held) == shown(plain.held)


def test_remembering_reaches_into_containers():
    module = torch.nn.Module()
    module.inner = {"list": [1, 2], "set": {3}, "pair": (torch.ones(2), [4])}
    module.wide = torch.ones(1).expand(3)
    undo = remember(module)
    module.inner["list"].append(5)
    module.inner["set"].add(6)
    module.inner["pair"][0].add_(1)
    module.inner["pair"][1].clear()
    module.inner["new"] = 7
    module.other = 8
    undo()
    assert module.inner["list"] == [1, 2]
    assert module.inner["set"] == {3}
    assert module.inner["pair"][0].tolist() == [1, 1]
    assert module.inner["pair"][1] == [4]
    assert set(module.inner) == {"list", "set", "pair"}
    assert not hasattr(module, "other")


def test_what_objects_of_other_classes_keep_is_out_of_reach():
    module = torch.nn.Module()
    module.other = SimpleNamespace(count=0)
    undo = remember(module)
    module.other.count = 1
    undo()
    assert module.other.count == 1


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(3),
        torch.eye(2).to_sparse_csr(),
        torch.empty(2, device="meta"),
    ],
    ids=["expanded", "compressed", "meta"],
)
def test_tensors_without_entries_of_their_own_are_left_alone(tensor):
    module = torch.nn.Module()
    module.tensor = tensor
    remember(module)()
    assert module.tensor is tensor


def test_contents_come_back_in_their_order():
    held = {"a": 1, "b": 2}
    undo = remember(held)
    held["a"] = held.pop("a")
    held["c"] = 3
    undo()
    assert list(held.items()) == [("a", 1), ("b", 2)]


def test_a_graph_that_spans_the_measurement_can_still_be_differentiated():
    net = mlp(2, 5, 1)
    loss = MSE(net(X), Y)
    remember(net)()
    loss.backward()
    assert net[0].weight.grad.any()


# The batch


class Careless(Module):
    """Takes the targets out of the batch, and changes the inputs in place, in hook and step."""

    def __init__(self):
        super().__init__(None, None)
        self.seen = []

    def on_before_batch_transfer(self, batch, dataloader_idx):
        batch["x"].mul_(2.0)
        return batch

    def training_step(self, batch, batch_idx):
        self.seen.append(float(batch["x"].sum()))
        y = batch.pop("y")
        batch["x"].add_(1.0)
        return MSE(self.net(batch["x"]), y)


class Recorder(CurvatureMonitor):
    """Sees what the module saw during a measurement, which is forgotten after it."""

    def __init__(self, **options):
        super().__init__(1, max_overhead=None, quantities="hessian", loss=self.loss, **options)
        self.seen = []

    def loss(self, module, batch):
        loss = module.training_step(batch, 0)
        self.seen.append(module.seen[-1])
        return loss


@pytest.mark.parametrize("given", [True, False])
def test_a_step_may_change_its_batch(given):
    probe = {"x": X.clone(), "y": Y}
    recorder = Recorder(probe=probe if given else None)
    loader = DataLoader([{"x": X.clone(), "y": Y} for _ in range(4)], batch_size=None)
    module = fit(Careless(), recorder, loader=loader)
    assert module.seen == [float(2 * X.sum())] * 4
    assert recorder.seen == [float(2 * X.sum())] * 5
    assert torch.equal(probe["x"], X)
    assert set(probe) == {"x", "y"}


class Graph:
    """A batch of its own class, as libraries for graphs and for texts have them."""

    def __init__(self):
        self.x, self.y = X.clone(), Y.clone()


def test_a_step_may_change_a_batch_of_its_own_class():
    class OfGraphs(Careless):
        on_before_batch_transfer = pl.LightningModule.on_before_batch_transfer

        def training_step(self, batch, batch_idx):
            self.seen.append(float(batch.x.sum()))
            batch.x.add_(1.0)
            return MSE(self.net(batch.x), batch.y)

    recorder = Recorder()
    loader = DataLoader([Graph() for _ in range(4)], batch_size=None)
    module = fit(OfGraphs(), recorder, loader=loader)
    assert module.seen == [float(X.sum())] * 4
    assert recorder.seen == [float(X.sum())] * 5


def test_a_probe_may_hang_on_a_graph_and_keeps_what_it_differentiates():
    seen = []

    def sampled(module):
        points = X.clone().requires_grad_()
        return [2 * points, Y]

    def loss(module, batch):
        seen.append((batch[0].is_leaf, batch[0].requires_grad))
        return MSE(module.net(batch[0]), batch[1])

    fit(Module(None, lambda m, loss, z, y: loss), monitor(probe=sampled, loss=loss))
    assert set(seen) == {(True, True)}
