"""Backward passes that are written by hand, and not the derivatives of their forward passes."""

import math

import pytest
import torch

from lightning_callbacks.custom_functions import wrong_backwards
from tests.callbacks.lightning_helpers import ADAM, batches, bits, monitoring, regression, trainer


def function(forward, backward):
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Written", (torch.autograd.Function,), methods)


def saving(value):
    def forward(ctx, x):
        y = value(x)
        ctx.save_for_backward(x, y)
        return y

    return forward


def forgetting(ctx, x):
    ctx.y = torch.sigmoid(x)  # as an attribute, it has no graph when the backward pass is derived
    return ctx.y.clone()


def masked(ctx, x):
    mask = 2.0 * (torch.rand_like(x) > 0.5)
    ctx.save_for_backward(mask)
    return x * mask


def same(ctx, x):
    return x.view_as(x)


WRONG = {
    "reversed": function(same, lambda ctx, g: -g),
    "reversed, at first by zero": function(same, lambda ctx, g: -0.0 * g),
    "scaled": function(same, lambda ctx, g: 0.1 * g),
    "clipped": function(same, lambda ctx, g: g.clamp(-1, 1)),
    "of unit length": function(same, lambda ctx, g: g / (g.norm() + 1e-6)),
    "straight through rounding": function(lambda ctx, x: (8 * x).round() / 8, lambda ctx, g: g),
    "straight through signs": function(lambda ctx, x: x.sign(), lambda ctx, g: g),
    "without its own derivative": function(forgetting, lambda ctx, g: g * ctx.y * (1 - ctx.y)),
}
RIGHT = {
    "the identity": function(same, lambda ctx, g: g.clone()),
    "with a kink": function(saving(torch.relu), lambda ctx, g: g * (ctx.saved_tensors[0] > 0)),
    "smooth": function(
        saving(torch.sigmoid), lambda ctx, g: g * ctx.saved_tensors[1] * (1 - ctx.saved_tensors[1])
    ),
    "differentiable once": function(  # its Hessian is by differences, and tested for symmetry
        saving(torch.tanh),
        torch.autograd.function.once_differentiable(
            lambda ctx, g: g * (1 - ctx.saved_tensors[1].square())
        ),
    ),
    "random": function(masked, lambda ctx, g: g * ctx.saved_tensors[0]),
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def named(written, dtype):
    torch.manual_seed(0)
    net, x = torch.nn.Linear(8, 30).to(dtype), torch.randn(20, 8).to(dtype)
    apply = written.apply  # models often keep the method and not the class

    def evaluate():
        return apply(net(x)).float().square().mean()

    return wrong_backwards(evaluate(), evaluate)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [*WRONG, *RIGHT])
def test_what_is_no_derivative_is_found(kind, dtype):
    assert named((WRONG | RIGHT)[kind], dtype) == (["Written"] if kind in WRONG else [])


class Loss(torch.autograd.Function):
    """A fused layer and loss, in the newer style and with inputs that are not differentiated."""

    @staticmethod
    def forward(x, w, y, scale):
        return scale * torch.nn.functional.cross_entropy(x @ w.T, y)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.scale = inputs[3]

    @staticmethod
    def backward(ctx, g):
        x, w, y = ctx.saved_tensors
        p = torch.softmax(x @ w.T, 1) - torch.nn.functional.one_hot(y, len(w))
        p = g * ctx.scale * p / len(y)
        return p @ w, p.T @ x, None, None


def test_a_fused_loss_of_several_inputs_is_right_and_a_wrong_factor_is_found():
    torch.manual_seed(0)
    x, y = torch.randn(20, 8), torch.randint(0, 5, (20,))
    w = torch.randn(5, 8, requires_grad=True)

    class Doubled(Loss):
        @staticmethod
        def backward(ctx, g):
            x, w, *rest = Loss.backward(ctx, g)
            return x, 2 * w, *rest

    for kind, expected in ((Loss, []), (Doubled, ["Doubled"])):
        before = kind.forward

        def evaluate(kind=kind):
            return kind.apply(x, w, y, 0.5)

        assert wrong_backwards(evaluate(), evaluate) == expected
        assert kind.forward is before


def test_without_functions_of_its_own_a_model_is_not_evaluated_again():
    loss = torch.nn.Linear(2, 1)(torch.ones(3, 2)).square().mean()
    assert wrong_backwards(loss, lambda: pytest.fail("evaluated")) == []


class Reversing(torch.nn.Module):
    """A network of which a part descends where the other ascends."""

    def __init__(self, by_hook):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = (torch.nn.Linear(*n, dtype=torch.float64) for n in ((2, 8), (8, 1)))
        self.by_hook = by_hook

    def forward(self, x):
        z = self.first(x).tanh()
        if not self.by_hook:
            return self.last(WRONG["reversed"].apply(z))
        if z.requires_grad:
            z.register_hook(lambda g: -g)
        return self.last(z)


@pytest.mark.parametrize("by_hook", [False, True])
@pytest.mark.parametrize("options", [{}, {"max_pause": 1e4}])
def test_reversed_gradients_have_no_hessian_and_one_warning(one_pl, by_hook, options):
    names = ("hessian", "sharpness", "trace", "ntk")
    monitor = monitoring(1, damping=0.1, quantities=names, exact_up_to=0, **options)
    module = regression(one_pl, ADAM, Reversing(by_hook))
    with pytest.warns(UserWarning, match="is not the derivative") as caught:
        trainer(one_pl, 30, monitor).fit(module, batches())
    assert sum("is not the derivative" in str(warning.message) for warning in caught) == 1
    for key in ("hessian/lambda_min", "hessian/trace", "sharpness/gradient"):
        assert math.isnan(monitor.latest[key]), key
    assert monitor.latest["hessian/lambda_min_error"] == math.inf
    plain = regression(one_pl, ADAM, Reversing(by_hook))
    trainer(one_pl, 30).fit(plain, batches())
    assert bits(module.state_dict()) == bits(plain.state_dict())


def test_a_hook_that_only_looks_changes_nothing(one_pl):
    class Looked(Reversing):
        def forward(self, x):
            z = self.first(x).tanh()
            if z.requires_grad:
                z.register_hook(lambda g: g.clone())
            return self.last(z)

    monitor = monitoring(1, damping=0.1, quantities="hessian")
    trainer(one_pl, 2, monitor).fit(regression(one_pl, ADAM, Looked(True)), batches())
    assert monitor.latest["hessian/lambda_max"] > 0
