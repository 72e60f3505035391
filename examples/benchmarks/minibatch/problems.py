"""The problems, each from data that a package ships or that is made here."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...networks import mlp
from .networks import Transformer, resnet
from .problem import MiniBatches, seeds, shuffled


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = torch.tensor(found.data).float() / 16, torch.tensor(found.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    return x[train], y[train], x[test], y[test]


def _classifier(
    net: nn.Module, data: tuple[Tensor, Tensor, Tensor, Tensor], size: int, seed: int
) -> MiniBatches:
    x, y, x_test, y_test = data

    def accuracy() -> float:
        net.eval()
        with torch.no_grad():
            right = (net(x_test).argmax(1) == y_test).float().mean()
        net.train()
        return float(right)

    return MiniBatches(
        net,
        lambda batch: F.cross_entropy(net(x[batch]), y[batch]),
        shuffled(len(x), size, seed),
        torch.arange(0, len(x), max(1, len(x) // 500)),  # of all classes alike
        accuracy,
    )


def digits_dense(seed: int) -> MiniBatches:
    """Digits of 8 x 8 pixels, 64-128-128-10, batch 128."""
    return _classifier(mlp([64, 128, 128, 10], nn.ReLU), _digits(), 128, seed)


def digits_conv(seed: int) -> MiniBatches:
    """The same with two convolutions, 39,000 parameters."""
    x, y, x_test, y_test = _digits()
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    data = x.reshape(-1, 1, 8, 8), y, x_test.reshape(-1, 1, 8, 8), y_test
    return _classifier(net, data, 128, seed)


PHOTOGRAPHS = ("coffee", "astronaut", "chelsea", "rocket", "retina", "hubble_deep_field", "ihc")


def resnet_photographs(seed: int) -> MiniBatches:
    """From which photograph of scikit-image is a patch of 16 x 16? ResNet of 152,000, batch 64."""
    from pathlib import Path

    import skimage.data
    from skimage.io import imread

    folder, random = Path(skimage.data.__file__).parent, torch.Generator().manual_seed(0)
    parts: list[list[Tensor]] = [[], []]
    for name in PHOTOGRAPHS:
        (path,) = (p for p in folder.glob(f"{name}.*") if p.suffix in {".png", ".jpg"})
        image = torch.tensor(imread(path)[..., :3]).float().permute(2, 0, 1) / 255
        half = image.shape[2] // 2  # trained on the left half, tested on the right one
        for part, side in zip(parts, (image[..., :half], image[..., half:]), strict=True):
            rows, columns = (
                torch.randint(n - 16, (400,), generator=random) for n in side.shape[1:]
            )
            spots = zip(rows.tolist(), columns.tolist(), strict=True)
            part.append(torch.stack([side[:, i : i + 16, j : j + 16] for i, j in spots]))
    labels = torch.arange(len(PHOTOGRAPHS)).repeat_interleave(400)
    x, x_test = (torch.cat(part) - 0.5 for part in parts)
    return _classifier(resnet(len(PHOTOGRAPHS)), (x, labels, x_test, labels), 64, seed)


def gpt(seed: int) -> MiniBatches:
    """A transformer of 0.8 million parameters on Python's help texts, 16 x 64 characters."""
    from pydoc_data import topics

    text = "".join(topics.topics[name] for name in sorted(topics.topics))
    known = {c: i for i, c in enumerate(sorted(set(text)))}
    data = torch.tensor([known[c] for c in text])
    windows = data.unfold(0, 65, 64)
    held, windows = windows[::10], windows[torch.arange(len(windows)) % 10 != 0]
    net = Transformer(len(known), width=128, length=64, layers=4)

    def loss(batch: Tensor) -> Tensor:
        part = windows[batch]
        return F.cross_entropy(net(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten())

    def accuracy() -> float:
        with torch.no_grad():
            right = net(held[:64, :-1]).argmax(2) == held[:64, 1:]
        return float(right.float().mean())

    chosen = torch.arange(0, len(windows), max(1, len(windows) // 64))
    return MiniBatches(net, loss, shuffled(len(windows), 16, seed), chosen, accuracy)


def tabular(seed: int) -> MiniBatches:
    """Friedman's first function of ten variables, 60,000 rows, with noise; 10-128-128-1."""
    random = torch.Generator().manual_seed(0)
    x = torch.rand(60_000, 10, generator=random)
    y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    y = y + 10 * x[:, 3] + 5 * x[:, 4] + 0.1 * torch.randn(len(x), generator=random)
    x, y = 2 * x - 1, ((y - y.mean()) / y.std())[:, None]
    net = mlp([10, 128, 128, 1], nn.ReLU)
    return MiniBatches(
        net,
        lambda batch: F.mse_loss(net(x[batch]), y[batch]),
        shuffled(len(x), 256, seed),
        torch.arange(4000),
    )


def autoencoder(seed: int) -> MiniBatches:
    """Digits through a bottleneck of 12: 64-256-128-48-12 and back, batch 128."""
    x = _digits()[0]
    sizes = [64, 256, 128, 48, 12]
    net = nn.Sequential(mlp(sizes, nn.Tanh), mlp(sizes[::-1], nn.Tanh))
    return MiniBatches(
        net,
        lambda batch: (
            F.binary_cross_entropy_with_logits(net(x[batch]), x[batch])
            - F.binary_cross_entropy(x[batch], x[batch])
        ),
        shuffled(len(x), 128, seed),
        torch.arange(len(x)),
    )


def poisson(seed: int) -> MiniBatches:
    """-Laplace u = f in five dimensions, 3,000 + 500 points drawn anew, P = 10,065."""
    net = mlp([5, 64, 64, 48, 48, 1], nn.Tanh)

    def exact(x: Tensor) -> Tensor:
        return torch.cos(math.pi * x).sum(1, keepdim=True)

    def loss(batch: Tensor) -> Tensor:
        random = torch.Generator().manual_seed(int(batch))
        x = torch.rand(3000, 5, generator=random).requires_grad_()
        edge = torch.rand(500, 5, generator=random)
        side = torch.randint(5, (500,), generator=random)
        edge[torch.arange(500), side] = torch.randint(2, (500,), generator=random).float()
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        second = [
            torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i : i + 1]
            for i in range(5)
        ]
        inside = sum(second[1:], second[0]) + math.pi**2 * exact(x)
        return (inside.square().mean() + (net(edge) - exact(edge)).square().mean()) / 2

    return MiniBatches(net, loss, seeds(seed), torch.tensor(7))


def heat(seed: int) -> MiniBatches:
    """u_t = Laplace u / 4 in 4 + 1 dimensions, 300 + 50 points drawn anew, P = 116,865."""
    net = mlp([5, 256, 256, 128, 128, 1], nn.Tanh)

    def exact(x: Tensor) -> Tensor:
        waves = torch.sin(math.pi * x[:, 1:]).sum(1, keepdim=True)
        return torch.exp(-(math.pi**2) * x[:, :1] / 4) * waves

    def loss(batch: Tensor) -> Tensor:
        random = torch.Generator().manual_seed(int(batch))
        x = torch.rand(300, 5, generator=random).requires_grad_()
        edge = torch.rand(50, 5, generator=random)
        side = torch.randint(5, (50,), generator=random)
        edge[torch.arange(50), side] = torch.randint(2, (50,), generator=random).float()
        edge[side == 0, 0] = 0.0  # a condition at the beginning, and none at the end
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        second = [
            torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i : i + 1]
            for i in range(1, 5)
        ]
        inside = slope[:, :1] - sum(second[1:], second[0]) / 4
        return (inside.square().mean() + (net(edge) - exact(edge)).square().mean()) / 2

    return MiniBatches(net, loss, seeds(seed), torch.tensor(7))


PROBLEMS: dict[str, Callable[[int], MiniBatches]] = {
    "digits_dense": digits_dense,
    "digits_conv": digits_conv,
    "resnet": resnet_photographs,
    "gpt": gpt,
    "tabular": tabular,
    "autoencoder": autoencoder,
    "poisson": poisson,
    "heat": heat,
}
"""By their names, each as what makes one for a seed; the seed of the network is set before."""
