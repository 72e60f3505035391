"""Wide networks at infinite width: their tangent kernel, and the equation they train by.

>>> import torch
>>> x = torch.linspace(0, 1, 8)
>>> newton = LimitEquation.newton(limit_kernel(x), gamma=1e-4)
>>> descent = LimitEquation.gradient_descent(limit_kernel(x))
>>> [round(float(equation.steps(0.1)[2])) for equation in (newton, descent)]
[1, 758]
"""

from .equation import LimitEquation, newton_kernel
from .kernel import limit_kernel

__all__ = ["LimitEquation", "limit_kernel", "newton_kernel"]
