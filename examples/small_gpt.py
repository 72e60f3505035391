"""Train a small GPT on real text, by Adam and by RegNewton, and watch the curvature.

    python examples/small_gpt.py

The text is Python's own help, ``pydoc_data.topics``, which every installation has: the network
reads 64 characters and says at each which comes next. Every tenth topic is held out.

Adam wins: after 40 seconds on one core it had taken 1,155 steps, to a held-out loss of 1.60 nats
per character, and RegNewton along Kronecker factors had taken 276, to 1.96 (one run of each, with
other work on the machine). Step for step RegNewton is ahead, but here the noise of the batches sets
the pace, and a step takes four of Adam's.
"""

from __future__ import annotations

from pydoc_data.topics import topics

import pytorch_lightning as pl
import torch
from compare import arguments, draw_curvature, draw_monitors, draw_scores, style, table, train
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler

from torch_newton import RegNewton

WIDTH, HEADS, LAYERS, CONTEXT = 96, 4, 3, 64
CHARACTERS = [chr(code) for code in (10, *range(32, 127))]
OPTIMIZERS = {
    "Adam": lambda params: torch.optim.Adam(params, lr=1e-3),
    "RegNewton": lambda params: RegNewton(params, curvature="kronecker"),  # for mini-batches
}


class Text(Dataset):
    """All stretches of CONTEXT + 1 characters of some topics; others than ASCII are left out."""

    def __init__(self, *, held_out: bool) -> None:
        number = {character: i for i, character in enumerate(CHARACTERS)}
        kept = [text for i, text in enumerate(topics.values()) if (i % 10 == 9) == held_out]
        self.codes = torch.tensor([number[c] for c in "\n\n".join(kept) if c in number])

    def __len__(self) -> int:
        return len(self.codes) - CONTEXT

    def __getitem__(self, start: int) -> Tensor:
        return self.codes[start : start + CONTEXT + 1]


class Block(nn.Module):
    """Causal attention, then a layer for each place; both are added to what was there."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.qkv(self.norms[0](x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class Gpt(pl.LightningModule):
    """An ordinary module: nothing in it is there for the sake of RegNewton or of the monitor."""

    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.characters = nn.Embedding(len(CHARACTERS), WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, len(CHARACTERS))

    def forward(self, codes: Tensor) -> Tensor:
        places = self.places(torch.arange(codes.shape[1]))
        return self.head(self.blocks(self.characters(codes) + places))

    def loss(self, codes: Tensor) -> Tensor:
        """The mean over all places of -log p(next character), in nats."""
        z = self(codes[:, :-1])
        return F.cross_entropy(z.flatten(0, 1), codes[:, 1:].flatten())

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # The one line that differs between Adam and RegNewton.
        return OPTIMIZERS[self.optimizer](self.parameters())


@torch.no_grad()
def written(module: Gpt, start: str, length: int = 240) -> str:
    """Go on from `start`, drawing each character from the network's distribution."""
    codes = [CHARACTERS.index(c) for c in start]
    for _ in range(length):
        z = module(torch.tensor([codes[-CONTEXT:]]))[0, -1]
        codes.append(int(torch.multinomial((z / 0.7).softmax(-1), 1)))
    return "".join(CHARACTERS[code] for code in codes)


def picture(runs: dict, path: str) -> None:
    """The held-out loss, and the curvature."""
    style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    draw_scores(left, runs, 0, "held-out loss (nats per character)")
    draw_curvature(right, runs)
    figure.savefig(path, dpi=100)


def main() -> None:
    given = arguments(__doc__.splitlines()[0])
    seen, unseen = Text(held_out=False), Text(held_out=True)
    every = len(unseen) // 128
    test = torch.stack([unseen[i * every] for i in range(128)])

    runs, texts = {}, {}
    for name in OPTIMIZERS:
        pl.seed_everything(0, verbose=False)
        module, sampler = Gpt(name), RandomSampler(seen, num_samples=16 * 1000)
        loader = DataLoader(seen, 16, sampler=sampler)
        held_out = lambda module: [float(module.loss(test))]  # noqa: E731
        runs[name] = train(name, module, loader, held_out, given.seconds)
        texts[name] = written(module, "The statement ")
    count = sum(p.numel() for p in module.parameters())
    print(f"\n{count:,} parameters, {len(seen.codes):,} characters seen, 8,192 held out")
    print(table(runs, ["held-out loss"]))
    for name, text in texts.items():
        print(f"\n{name} writes:\n{text}")
    path = given.output / "small_gpt.png"
    picture(runs, path)
    print()
    for drawn in [path, *draw_monitors(runs, "small_gpt", given.output)]:
        print(f"picture: {drawn}")


if __name__ == "__main__":
    main()
