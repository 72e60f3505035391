"""Manual optimization: GANs, several optimizers, backward passes of the module's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.callbacks.setups.build import Module, X, Y, batches, mlp, squared
from tests.callbacks.setups.setup import Setup, Training

MANUAL = "manual optimization"
"""Why nothing may be measured."""


class Manual(Module):
    """One network, stepped by hand."""

    def __init__(self) -> None:
        super().__init__(mlp(), squared)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.calls += 1
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(self.net, batch)
        self.manual_backward(loss)
        self.clip_gradients(optimizer, 0.1, "norm")
        optimizer.step()
        self.log("loss", loss)


class Accumulating(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        self.manual_backward(self.loss(self.net, batch) / 2)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


class ByClosure(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(self.net, batch)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure)

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), max_iter=2)


class Gan(Module):
    """Both of its networks are trained at each step."""

    def __init__(self) -> None:
        super().__init__(None, None)
        self.automatic_optimization = False
        self.generator, self.critic = nn.Linear(4, 1), nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.calls += 1
        for optimizer, sign in zip(self.optimizers(), (1.0, -1.0), strict=True):
            optimizer.zero_grad()
            self.manual_backward(sign * self.critic(self.generator(batch[0])).tanh().mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(n.parameters(), 1e-2) for n in (self.generator, self.critic)]


class Toggled(Gan):
    """With the usual losses, logs, and a scheduler for each."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        first, second = self.optimizers()
        self.toggle_optimizer(first)
        fooled = self.critic(self.generator(torch.randn(6, 4)))
        loss = F.binary_cross_entropy_with_logits(fooled, torch.ones(6, 1))
        self.stepped(first, loss, "generator")
        self.toggle_optimizer(second)
        fake = self.critic(self.generator(torch.randn(6, 4)).detach())
        real = self.critic(batch[1])
        self.stepped(second, F.softplus(fake).mean() + F.softplus(-real).mean(), "critic")
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def stepped(self, optimizer: Any, loss: Tensor, name: str) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        self.log(name, loss, prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizers = super().configure_optimizers()
        return optimizers, [torch.optim.lr_scheduler.StepLR(o, 2) for o in optimizers]


class Wasserstein(Gan):
    """The critic is stepped three times for each step of the generator, and its slope held."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        first, second = self.optimizers()
        if batch_idx % 4 == 3:
            self.stepped(first, -self.critic(self.generator(batch[0])).mean())
            return
        fake = self.generator(batch[0]).detach()
        between = torch.lerp(fake, batch[1], torch.rand(6, 1)).requires_grad_()
        value = self.critic(between).tanh()
        (slope,) = torch.autograd.grad(value.sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        self.stepped(second, (self.critic(fake) - self.critic(batch[1])).mean() + penalty)

    def stepped(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class PlainBackward(Manual):
    """Calls ``loss.backward()``, and steps an optimizer that Lightning does not know.

    Lightning then counts no steps, so that epochs must end the training.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(self.net, batch)
        loss.backward()
        self.hidden.step()
        self.hidden.zero_grad()

    def configure_optimizers(self) -> Any:
        self.hidden = torch.optim.SGD(self.net.parameters(), 1e-2)


class Meta(Manual):
    """An inner step of gradient descent, differentiated, as in MAML."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        weights = dict(self.net.named_parameters())
        loss = F.mse_loss(torch.func.functional_call(self.net, weights, (batch[0],)), batch[1])
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        moved = {k: w - 0.1 * g for (k, w), g in zip(weights.items(), slopes, strict=True)}
        outer = F.mse_loss(torch.func.functional_call(self.net, moved, (X,)), Y)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(outer)
        optimizer.step()


def by_hand(kind: Any, **options: Any) -> Training:
    return Training(kind(), batches(4), options=options)


SETUPS = [
    Setup("by hand", lambda: by_hand(Manual), nan=None, quick=True),
    Setup("accumulated by hand", lambda: by_hand(Accumulating), nan=None),
    Setup("l-bfgs by hand", lambda: by_hand(ByClosure), nan=None),
    Setup("gan", lambda: Training(Gan(), [(X, Y)]), nan=None, warns="",
          quick=True),
    Setup("gan, toggled", lambda: by_hand(Toggled), nan=None, quick=True),
    Setup("gan, wasserstein", lambda: by_hand(Wasserstein), nan=None),
    Setup("plain backward", lambda: by_hand(PlainBackward, max_epochs=2, max_steps=-1), nan=None),
    Setup("meta-learning", lambda: by_hand(Meta), nan=None),
]  # fmt: skip
