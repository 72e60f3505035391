"""What RegNewton takes for granted of `torch.optim.Optimizer` and of gradient scaling."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from torch_newton import ClosureError, RegNewton


class Plain(torch.optim.Optimizer):
    """Does nothing at a step but say who called."""

    def __init__(self, params: Any) -> None:
        self.added: list[dict[str, Any]] = []
        super().__init__(params, {"lr": 1.0})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.added.append(param_group)
        super().add_param_group(param_group)

    def step(self, closure: Any = None) -> Any:
        return [frame.function for frame in inspect.stack()[:3]]


def reloaded(values: dict[str, Any]) -> dict[str, Any]:
    """A state, as it comes back out of a checkpoint of single-precision parameters."""
    param = nn.Parameter(torch.ones(3))
    saved, loaded = Plain([param]), Plain([param])
    saved.state[param] = values
    loaded.load_state_dict(saved.state_dict())
    return dict(loaded.state[param])


@pytest.mark.parametrize(
    "value",
    [1.5, 7, True, None, {"HESSIAN": {"damping": 1.5, "stop": 2}}, [1, 2.5], (1, 2)],
    ids=str,
)
def test_plain_numbers_in_dictionaries_survive_a_checkpoint(value: Any) -> None:
    assert reloaded({"key": value}) == {"key": value}, (
        "Optimizer.load_state_dict changes plain numbers, or the keys of dictionaries in the "
        "state: a resumed run does not go on as it would have; optimizer.py, step.py"
    )


@pytest.mark.parametrize("values", [{"text": "abc"}, {"inner": {"text": "abc"}}], ids=str)
def test_strings_do_not_survive_a_checkpoint(values: dict[str, Any]) -> None:
    assert reloaded(values) != values, (
        "Optimizer.load_state_dict now keeps strings: names may be stored as values and not only "
        "as keys, so that Step.numbers and History.numbers can be simplified; step.py"
    )


def test_tensors_are_cast_to_the_parameters_dtype() -> None:
    exact = torch.ones(3, dtype=torch.float64)
    assert reloaded({"key": exact})["key"].dtype is torch.float32, (
        "Optimizer.load_state_dict no longer casts tensors to the dtype of their parameter: what "
        "a step keeps may have another one after resuming; preconditioners/scaling.py"
    )


def test_the_constructor_adds_every_group() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))]} for _ in range(2)]
    assert len(Plain(groups).added) == 2, (
        "Optimizer.__init__ no longer calls add_param_group: parameters are not checked and "
        "their backward passes not counted; optimizer.py"
    )


def test_a_copy_goes_by_the_state() -> None:
    optimizer = Plain([nn.Parameter(torch.ones(1))])
    assert {"state", "param_groups", "defaults"} <= set(optimizer.__getstate__()), (
        "Optimizer.__getstate__ leaves out state or groups: a copy of RegNewton forgets; "
        "optimizer.py"
    )
    assert not hasattr(copy.deepcopy(optimizer), "added"), (
        "Optimizer.__getstate__ now copies all attributes: those that RegNewton adds by itself "
        "are copied twice; optimizer.py"
    )


def test_one_frame_lies_between_the_user_and_step() -> None:
    frames = Plain([nn.Parameter(torch.ones(1))]).step()
    here = "test_one_frame_lies_between_the_user_and_step"
    assert frames.index(here) == 2, (
        f"Optimizer.step is wrapped otherwise ({frames}): warnings point to a line of PyTorch in "
        "place of the user's (stacklevel); optimizer.py, closure/evaluator.py"
    )


def test_a_scaler_asks_the_optimizer_before_it_steps() -> None:
    asked: list[bool] = []

    class Asked(Plain):
        @property
        def _step_supports_amp_scaling(self) -> bool:
            asked.append(True)
            return False

    param = nn.Parameter(torch.ones(3))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(param.sum()).backward()
    scaler.step(Asked([param]))
    assert asked, (
        "GradScaler.step no longer looks at _step_supports_amp_scaling: RegNewton is called "
        "without a closure, and its message does not name the scaler; optimizer.py"
    )


def test_a_scaler_is_told_off() -> None:
    param = nn.Parameter(torch.ones(3))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(param.sum()).backward()
    with pytest.raises(ClosureError, match="GradScaler"):
        scaler.step(RegNewton([param]))


def test_writing_to_grad_of_a_leaf_is_allowed() -> None:
    x = torch.ones(3, requires_grad=True)
    given: Tensor = torch.zeros(3)
    x.grad = given
    assert x.grad is given, (
        "a parameter's .grad is copied when it is set: gradients cannot be put back as they were; "
        "closure/snapshots.py"
    )


def test_a_handle_knows_its_key_and_removes_it() -> None:
    hooks: OrderedDict[int, str] = OrderedDict()
    handle = RemovableHandle(hooks)
    hooks[handle.id] = "observer"
    handle.remove()
    assert not hooks, (
        "RemovableHandle no longer removes the entry of its id: observers stay; optimizer.py"
    )
