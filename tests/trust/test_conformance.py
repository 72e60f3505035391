"""PyTorch's own contract for optimizers, driven by the description that its tests use.

The tests are those of PyTorch's ``test/test_optim.py`` that apply to every optimizer, written
against `OptimizerInfo`, which is shipped with PyTorch but private to it.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from torch_newton import Adaptive, RegNewton

with pytest.MonkeyPatch.context() as patch:
    # The import would forbid the whole process to set cuDNN's flags, as deterministic Trainers do.
    patch.setattr(torch.backends, "disable_global_flags", lambda: None)
    common = pytest.importorskip(
        "torch.testing._internal.common_optimizers", reason="PyTorch's internals have moved"
    )


def inputs(device: str, dtype: Any = None) -> list[Any]:
    configurations = {
        "default": {},
        "non-default lr": {"lr": 0.5},
        "tensor lr": {"lr": torch.tensor(0.5)},
        "fixed damping": {"damping": 1.0},
        "rule": {"damping": Adaptive(start=10.0)},
        "gauss-newton": {"curvature": "gauss_newton"},
        "plain": {"preconditioner": None},
        "maximize": {"maximize": True},
        "differences": {"hvp": "finite_difference"},
    }
    return [
        common.OptimizerInput(params=None, kwargs=kwargs, desc=desc)
        for desc, kwargs in configurations.items()
    ]


def error_inputs(device: str, dtype: Any) -> list[Any]:
    errors = common.get_error_inputs_for_all_optims(device, dtype)
    # What the others only warn of, RegNewton refuses.
    errors = [e for e in errors if e.error_type not in (UserWarning, FutureWarning)]
    param = nn.Parameter(torch.randn(1, device=device, dtype=dtype))
    for kwargs, regex in [
        ({"lr": -0.5}, "lr must be finite"),
        ({"damping": -1.0}, "damping must be"),
        ({"cg_tol": 2.0}, "cg_tol must be"),
    ]:
        errors.append(
            common.ErrorOptimizerInput(
                common.OptimizerInput(params=[param], kwargs=kwargs, desc=regex),
                error_type=ValueError,
                error_regex=regex,
            )
        )
    return errors


try:
    INFO = common.OptimizerInfo(
        RegNewton,
        optim_inputs_func=inputs,
        optim_error_inputs_func=error_inputs,
        scheduler_inputs=(
            [lambda opt: lr_scheduler.StepLR(opt, gamma=0.9, step_size=10)],
            [
                lambda opt: lr_scheduler.StepLR(opt, gamma=0.9, step_size=10),
                lambda opt: lr_scheduler.ReduceLROnPlateau(opt),
            ],
            [lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=20)],
            [
                lambda opt: lr_scheduler.OneCycleLR(
                    opt, max_lr=1.0, total_steps=60, cycle_momentum=False
                )
            ],
            [lambda opt: lr_scheduler.LinearLR(opt, start_factor=0.4, total_iters=4)],
            [lambda opt: lr_scheduler.ExponentialLR(opt, gamma=0.99)],
            [lambda opt: lr_scheduler.PolynomialLR(opt, power=0.9, total_iters=80)],
        ),
        supported_impls=(),
        not_og_supported_flags=("maximize",),
        supports_complex=False,
        step_requires_closure=True,
        supports_multiple_devices=False,
    )
    CONFIGURATIONS = INFO.optim_inputs_func(device="cpu")
    ERRORS = INFO.optim_error_inputs_func("cpu", torch.float64)
except (AttributeError, TypeError) as error:
    pytest.skip(f"PyTorch's internals have moved: {error}", allow_module_level=True)

configurations = pytest.mark.parametrize("given", CONFIGURATIONS, ids=lambda given: given.desc)


def linear(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    weight = nn.Parameter(torch.randn(10, 5, generator=random, dtype=dtype))
    bias = nn.Parameter(torch.randn(10, generator=random, dtype=dtype))
    return weight, bias, torch.randn(5, generator=random, dtype=dtype)


def closure_of(optimizer: Optimizer, weight: Tensor, bias: Tensor, x: Tensor) -> Any:
    sign = -1 if getattr(optimizer, "options", None) and optimizer.options.maximize else 1

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sign * (weight.mv(x) + bias).pow(2).sum()
        loss.backward()
        return loss

    return closure


def setting(given: Any) -> tuple[Optimizer, Any, list[Tensor]]:
    weight, bias, x = linear()
    optimizer = INFO.optim_cls([weight, bias], **given.kwargs)
    return optimizer, closure_of(optimizer, weight, bias, x), [weight, bias]


@configurations
@pytest.mark.parametrize("schedulers", [(), *INFO.scheduler_inputs], ids=str)
def test_forloop_goes_right_direction(given: Any, schedulers: Any) -> None:
    optimizer, closure, _ = setting(given)
    made = [constructor(optimizer) for constructor in schedulers]
    first = abs(closure().item())
    for _ in range(20):
        loss = optimizer.step(closure)
        for scheduler in made:
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                scheduler.step(loss)
            else:
                scheduler.step()
    assert abs(closure().item()) < first


@pytest.mark.parametrize("schedulers", INFO.scheduler_inputs, ids=str)
def test_param_group_with_lrscheduler_goes_right_direction(schedulers: Any) -> None:
    weight, bias, x = linear()
    optimizer = INFO.optim_cls([{"params": [weight]}, {"params": [bias], "lr": 0.1}])
    made = [constructor(optimizer) for constructor in schedulers]
    closure = closure_of(optimizer, weight, bias, x)
    first = closure().item()
    for _ in range(20):
        loss = optimizer.step(closure)
        for scheduler in made:
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                scheduler.step(loss)
            else:
                scheduler.step()
    assert closure().item() < first


def test_param_groups_lr() -> None:
    weight, bias, x = linear()
    optimizer = INFO.optim_cls([{"params": [weight]}, {"params": [bias], "lr": 0.0}])
    before = bias.detach().clone()
    for _ in range(3):
        optimizer.step(closure_of(optimizer, weight, bias, x))
    assert torch.equal(bias, before)


@configurations
def test_tensor_lr_gives_the_steps_of_a_number(given: Any) -> None:
    ends = []
    for lr in (0.5, torch.tensor(0.5)):
        weight, bias, x = linear()
        optimizer = INFO.optim_cls([weight, bias], **{**given.kwargs, "lr": lr})
        for _ in range(4):
            optimizer.step(closure_of(optimizer, weight, bias, x))
        ends.append(weight.detach().clone())
        if isinstance(lr, Tensor):
            assert isinstance(optimizer.param_groups[0]["lr"], Tensor)
            assert float(lr) == 0.5
    assert torch.equal(*ends)


def test_maximize_is_the_step_of_the_negative_loss() -> None:
    ends, losses = [], []
    for maximize in (False, True):
        weight, bias, x = linear()
        optimizer = INFO.optim_cls([weight, bias], maximize=maximize)
        closure = closure_of(optimizer, weight, bias, x)  # negates the loss under maximize
        losses += [float(optimizer.step(closure)) for _ in range(4)]
        ends.append(weight.detach().clone())
        assert weight.grad is not None
    assert torch.equal(*ends)
    assert losses[:4] == [-value for value in losses[4:]]


@configurations
def test_step_is_noop_for_zero_grads(given: Any) -> None:
    optimizer, _, (weight, bias) = setting(given)
    before = weight.detach().clone()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight * 0).sum() + (bias * 0).sum() + 1
        loss.backward()
        return loss

    if given.kwargs.get("curvature") == "gauss_newton":
        pytest.skip("the loss is no sum of squares")
    assert float(optimizer.step(closure)) == 1
    assert torch.equal(weight, before)


@configurations
def test_optimizer_can_be_printed(given: Any) -> None:
    optimizer, _, _ = setting(given)
    assert "RegNewton" in repr(optimizer)


@configurations
@pytest.mark.parametrize("with_lr", [False, True])
def test_state_dict_deterministic(given: Any, with_lr: bool) -> None:
    optimizer, closure, (weight, bias) = setting(given)
    for _ in range(3):
        optimizer.step(closure)
    copies = [nn.Parameter(p.detach().clone()) for p in (weight, bias)]
    other = INFO.optim_cls(copies, **given.kwargs)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other_closure = closure_of(other, *copies, linear()[2])
    for _ in range(5):
        optimizer.step(closure)
        other.step(other_closure)
        assert torch.equal(weight, copies[0])
    assert optimizer.state_dict()["state"].keys() == other.state_dict()["state"].keys()
    other.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.float64))]})
    with pytest.raises(ValueError, match="parameter group"):
        other.load_state_dict(optimizer.state_dict())


@configurations
def test_save_load_equality_with_weights_only(given: Any) -> None:
    optimizer, closure, params = setting(given)
    for _ in range(2):
        optimizer.step(closure)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    fresh = INFO.optim_cls(params, **given.kwargs)
    fresh.load_state_dict(loaded)
    assert fresh.state_dict() == optimizer.state_dict()


@configurations
def test_deepcopy_copies_all_public_attrs(given: Any) -> None:
    def public(optimizer: Optimizer) -> set[str]:
        return {k for k in optimizer.__dict__ if not k.startswith("_")}

    optimizer, closure, _ = setting(given)
    assert public(optimizer) == public(copy.deepcopy(optimizer))
    optimizer.step(closure)
    assert public(optimizer) == public(copy.deepcopy(optimizer))


@configurations
def test_non_empty_state(given: Any) -> None:
    optimizer, closure, _ = setting(given)
    optimizer.step(closure)
    assert any(optimizer.state_dict()["state"].values())


def hook(count: list[int]) -> Callable[..., None]:
    def run(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        count[0] += 1

    return run


@pytest.mark.parametrize("register", ["register_step_pre_hook", "register_step_post_hook"])
def test_step_hook(register: str) -> None:
    optimizer, closure, _ = setting(CONFIGURATIONS[0])
    count = [0]
    handle = getattr(optimizer, register)(hook(count))
    optimizer.step(closure)
    optimizer.step(closure)
    assert count == [2]
    handle.remove()
    optimizer.step(closure)
    assert count == [2]


def test_step_all_hooks() -> None:
    optimizer, closure, _ = setting(CONFIGURATIONS[0])
    order: list[int] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *args: order.append(1)),
        optimizer.register_step_pre_hook(lambda *args: order.append(2)),
        optimizer.register_step_post_hook(lambda *args: order.append(3)),
        register_optimizer_step_post_hook(lambda *args: order.append(4)),
    ]
    optimizer.step(closure)
    assert order == [1, 2, 3, 4]
    for handle in handles:
        handle.remove()


def test_state_dict_hooks() -> None:
    optimizer, closure, _ = setting(CONFIGURATIONS[0])
    optimizer.step(closure)
    seen: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda opt: seen.append("state_dict pre"))
    optimizer.register_state_dict_post_hook(lambda opt, state: seen.append("state_dict post"))
    optimizer.register_load_state_dict_pre_hook(lambda opt, state: seen.append("load pre"))
    optimizer.register_load_state_dict_post_hook(lambda opt: seen.append("load post"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["state_dict pre", "state_dict post", "load pre", "load post"]


@pytest.mark.parametrize("given", ERRORS, ids=lambda e: str(e.error_regex)[:40])
def test_errors(given: Any) -> None:
    wrong = given.optimizer_error_input
    if given.error_on is not common.OptimizerErrorEnum.CONSTRUCTION_ERROR:
        pytest.skip("an error of the step")
    with pytest.raises(given.error_type, match=given.error_regex):
        INFO.optim_cls(wrong.params, **wrong.kwargs)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    optimizer, closure, (weight, _) = setting(CONFIGURATIONS[0])
    closure()
    optimizer.zero_grad(set_to_none=set_to_none)
    if set_to_none:
        assert weight.grad is None
    else:
        assert not weight.grad.any()


def test_a_load_into_groups_of_another_number_says_so() -> None:
    optimizer, _, (weight, bias) = setting(CONFIGURATIONS[0])
    other = INFO.optim_cls([{"params": [weight]}, {"params": [bias]}])
    with pytest.raises(ValueError, match="parameter group"):
        other.load_state_dict(optimizer.state_dict())


def test_one_cycle_with_momentum_says_what_it_misses() -> None:
    optimizer, _, _ = setting(CONFIGURATIONS[0])
    with pytest.raises(ValueError, match="momentum"):
        lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
