"""Hooks on parameters, modules and tensors: the numbers are the loss's own, or unknown."""

import math

import pytest
import torch

from lightning_callbacks.backward_hooks import without_backward_hooks
from tests.callbacks.lightning_helpers import X, Y, batches, bits, monitoring, regression, trainer
from tests.helpers import mlp
from torch_newton import RegNewton, hessian

NAMES = ("hessian", "sharpness")


def frozen(gradient):
    """Half of the entries are kept where they are."""
    mask = torch.ones_like(gradient)
    mask.view(-1)[::2] = 0
    return gradient * mask


HOOKS = {
    "clipped": lambda g: g.clamp(-1e-3, 1e-3),
    "scaled": lambda g: 3 * g,
    "noisy": lambda g: g + 0.1 * torch.randn_like(g),
    "frozen": frozen,
    "looked at": lambda g: None,
}


def adam(params):
    return torch.optim.Adam(params, 1e-3)


def module_with(pl, where, hook, optimizer):
    module = regression(pl, optimizer, mlp(2, 5, 1))
    if where == "parameters":
        for param in module.parameters():
            param.register_hook(hook)
    elif where == "accumulated":
        for param in module.parameters():
            param.register_post_accumulate_grad_hook(lambda p: None)
    else:
        last = list(module.net.modules())[-1]
        last.register_full_backward_pre_hook(lambda m, grads: tuple(map(hook, grads)))
    return module


def recorded(pl, kept):
    class Record(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            kept[trainer.global_step] = [p.detach().clone() for p in module.parameters()]

    return Record()


def eigenvalues(params):
    """Those of the loss at some parameters, in a network that has no hooks."""
    net = mlp(2, 5, 1)
    with torch.no_grad():
        for own, given in zip(net.parameters(), params, strict=True):
            own.copy_(given)
    loss = torch.nn.functional.mse_loss(net(X), Y)
    return torch.linalg.eigvalsh(hessian(loss, list(net.parameters())).dense())


@pytest.mark.parametrize("optimizer", [adam, lambda params: RegNewton(params)])
@pytest.mark.parametrize("where", ["parameters", "module", "accumulated"])
@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.filterwarnings("ignore")
def test_numbers_are_those_of_the_loss_whatever_hooks_do(one_pl, name, where, optimizer):
    if (where, name) == ("module", "looked at"):
        pytest.skip("such a hook returns gradients")
    if where == "accumulated" and name != "scaled":
        pytest.skip("the hook is the same")
    kept = {}
    monitor = monitoring(1, damping=0.1, quantities=NAMES)
    module = module_with(one_pl, where, HOOKS[name], optimizer)
    plain = module_with(one_pl, where, HOOKS[name], optimizer)
    torch.manual_seed(3)
    trainer(one_pl, 3, recorded(one_pl, kept), monitor).fit(module, batches())
    torch.manual_seed(3)
    trainer(one_pl, 3).fit(plain, batches())
    assert bits(module.state_dict()) == bits(plain.state_dict())
    values = eigenvalues(kept[monitor.measured_at])
    found = monitor.latest
    assert found["hessian/lambda_min"] == pytest.approx(float(values[0]), rel=1e-8, abs=1e-10)
    assert found["hessian/lambda_max"] == pytest.approx(float(values[-1]), rel=1e-8)
    assert found["hessian/positive_definite"] == float(values[0] + 0.1 > 0)


def newton(params):
    return RegNewton(params)


class Reversed(torch.autograd.Function):
    """Descends where the other part of the network ascends."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


class Reversing(torch.nn.Module):
    def __init__(self, by_hook):
        super().__init__()
        self.first, self.last, self.by_hook = mlp(2, 5), mlp(5, 1), by_hook

    def forward(self, x):
        z = self.first(x).tanh()
        if not self.by_hook:
            return self.last(Reversed.apply(z))
        if z.requires_grad:
            z.register_hook(lambda g: -g)
        return self.last(z)


@pytest.mark.parametrize("by_hook", [False, True])
@pytest.mark.parametrize("options", [{}, {"max_overhead": 1e9, "max_pause": 1e9}])
@pytest.mark.filterwarnings("ignore:(?!CurvatureMonitor)")
def test_where_newton_trains_what_is_no_derivative_has_no_hessian(one_pl, by_hook, options):
    monitor = monitoring(1, damping=0.1, quantities=NAMES, **options)
    module = regression(one_pl, newton, Reversing(by_hook))
    with pytest.warns(UserWarning, match="is not the derivative") as caught:
        trainer(one_pl, 8, monitor).fit(module, batches())
    assert sum("is not the derivative" in str(warning.message) for warning in caught) == 1
    for key in ("hessian/lambda_min", "hessian/positive_definite", "sharpness/gradient"):
        assert math.isnan(monitor.latest[key]), key


@pytest.mark.filterwarnings("ignore:(?!CurvatureMonitor)")
def test_a_hook_of_later_on_spoils_what_is_taken_from_newtons_own_step(one_pl):
    class Later(one_pl.Callback):
        def on_train_batch_start(self, trainer, module, *_):
            if trainer.global_step == 2:
                next(module.parameters()).register_hook(lambda g: 2 * g)

    monitor = monitoring(1, damping=0.1, quantities=NAMES)
    module = regression(one_pl, newton, mlp(2, 5, 1))
    with pytest.warns(UserWarning, match="a hook on a parameter or a module is not"):
        trainer(one_pl, 4, Later(), monitor).fit(module, batches())
    assert math.isnan(monitor.latest["hessian/lambda_min"])


def test_hooks_are_put_back_in_their_order_also_after_an_error():
    net, called = mlp(2, 3, 1), []
    weight = next(net.parameters())
    for name in "ab":
        weight.register_hook(lambda g, name=name: called.append(name))

    def fail():
        with without_backward_hooks(net, []):
            net(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not called
    net(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
    assert called == ["a", "b"]
