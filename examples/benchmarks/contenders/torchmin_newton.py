"""pytorch-minimize's Newton-CG and trust-region Newton-CG."""

from __future__ import annotations

from ..problem import NotApplicable
from ..task import Task
from .contender import Contender, Setting

# The whole minimization is one call of `step`, so no iteration limit may end it.
FOREVER = 10**9


def run(method: str, options: dict[str, float]):
    def start(task: Task, setting: Setting) -> None:
        from torchmin import Minimizer

        if task.instance.next_batch is not None:
            raise NotApplicable("minimizes one fixed function, no mini-batches")

        class Counting(Minimizer):
            """Minimizer that counts its Hessian-vector products."""

            def closure(self, x):
                value = super().closure(x)
                product = value.hessp.mv

                def counted(v):
                    task.product()
                    return product(v)

                value.hessp.mv = value.hessp.rmv = counted
                return value

        optimizer = Counting(
            task.instance.params,
            method=method,
            max_iter=FOREVER,
            callback=lambda x: task.tick(),
            options=dict(options),  # the peer writes into it
        )
        task.products = 0

        def closure():  # this peer calls backward itself
            optimizer.zero_grad()
            return task.loss()

        optimizer.step(closure)

    return start


SOURCE = "https://pytorch-minimize.readthedocs.io/en/latest/api/index.html"

CONTENDERS = [
    Contender(
        "torchmin newton-cg",
        "newton",
        run("newton-cg", {"xtol": 0.0}),
        module="torchmin",
        requirement="pytorch-minimize==0.1.0",
        settings="strong Wolfe and CG limit of its defaults, xtol=0 (no early stop)",
        source=SOURCE,
    ),
    Contender(
        "torchmin trust-ncg",
        "newton",
        run("trust-ncg", {"gtol": 0.0}),
        module="torchmin",
        requirement="pytorch-minimize==0.1.0",
        settings="defaults, gtol=0 (no early stop)",
        source=SOURCE,
    ),
]
