"""The documentation is true: its code runs, and its table of messages is that of the code."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).parents[1]
PAGES = ROOT / ".docs" / "pages"
BLOCK = re.compile(r"^( *)```python([^\n]*)\n(.*?)^\1```", re.M | re.S)
TEXTS = [ROOT / "README.md", *sorted(PAGES.rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
NEEDS = {"pina-mathlab": "pina", "skorch": "skorch", "ignite": "ignite"}
"""What a block's title says that it needs, beyond the extra dev, and the module of that."""


def _blocks(text: str) -> list[tuple[str, str]]:
    """Title and code of each block, without the indentation of a list around it."""
    return [
        (title, re.sub(rf"^{indent}", "", code, flags=re.M))
        for indent, title, code in BLOCK.findall(text)
    ]


WITH_CODE = [path for path in TEXTS if _blocks(path.read_text())]


def _given() -> dict[str, Any]:
    """What a reader has already: a model, a batch, a loss and a loader."""
    torch.manual_seed(0)
    x = torch.randn(16, 2)
    y = torch.sin(x.sum(1, keepdim=True))
    return {
        "__name__": "documentation",
        "model": nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)),
        "loss_fn": nn.functional.mse_loss,
        "x": x,
        "y": y,
        "loader": DataLoader(TensorDataset(x, y), batch_size=8),
    }


@pytest.mark.parametrize("path", WITH_CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_in_the_documentation_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = _given()
    for title, code in _blocks(path.read_text()):
        needed = re.search(r'title="needs ([\w-]+)"', title)
        if needed:
            try:
                __import__(NEEDS[needed[1]])
            except ImportError:
                continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(code, f"{path.name}: {code.splitlines()[0]}", "exec"), names)


def test_readme_is_short_and_its_commands_are_where_ci_looks_for_them() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert sum(bool(re.match(r"pip install .*pytest$", line)) for line in lines) == 1


def test_readme_links_to_what_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    for cell in cells:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), path.name, "exec")


def test_the_versions_that_a_report_needs_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("torch_newton", run_name="__main__")
    printed = capsys.readouterr().out
    for name in ("torch-newton ", "Python ", f"PyTorch {torch.__version__}", "lightning"):
        assert name in printed


GIVERS = re.compile(r"warn|once$|^_refuse$")
"""Names of functions that give their arguments to the user as a message."""

WRITERS = {"complaint", "missing", "advice", "unsolved", "slow", "not_symmetric", "no_derivative"}
"""Functions whose result is a message by way of a variable; others are found by their calls."""

INNER = {"batched.py", "by_autograd.py", "__init__.py"}
"""Files whose only calls of this kind are warnings filters and Python's own protocols."""


def _template(node: ast.AST | None) -> str | None:
    """The text of a message, with an ellipsis where a value is put in; None of anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) or "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_template(node.left) or "…") + (_template(node.right) or "…")
    if isinstance(node, ast.IfExp):
        return _template(node.body)
    return None


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


def _given_away(tree: ast.Module) -> Iterator[tuple[int, ast.AST | None]]:
    """Line and expression of what is raised with or handed to one of `GIVERS`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from ((node.lineno, argument) for argument in node.exc.args[:1])
        elif isinstance(node, ast.Call) and GIVERS.search(_name(node)):
            yield from ((node.lineno, argument) for argument in node.args[:2])


def _writers() -> set[str]:
    """`WRITERS`, and the functions whose result is given away as it is."""
    return WRITERS | {
        _name(argument).rpartition(".")[2]
        for tree in SOURCES.values()
        for _, argument in _given_away(tree)
        if isinstance(argument, ast.Call)
    }


def _spoken(tree: ast.Module, writers: set[str]) -> Iterator[tuple[int, str]]:
    """Line and template of each message in a file: raised, warned of, or returned as such."""
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    returned = [
        (part.lineno, part.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in writers
        for part in ast.walk(node)
        if isinstance(part, ast.Return)
    ]
    for line, part in [*_given_away(tree), *returned]:
        text = _template(constants.get(part.id) if isinstance(part, ast.Name) else part)
        # A message has several words; a kind of message has one or two.
        if text is not None and text.count(" ") > 2:
            yield line, text


SOURCES = {
    path: ast.parse(path.read_text())
    for package in ("torch_newton", "lightning_callbacks")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.name not in INNER
}
ALL_WRITERS = _writers()
MESSAGES = [
    (f"{path.relative_to(ROOT)}:{line}", text)
    for path, tree in SOURCES.items()
    for line, text in _spoken(tree, ALL_WRITERS)
]


def _listed() -> list[str]:
    """The messages of the page, as far as it quotes them: the first cell of each row."""
    return re.findall(r"^\| `([^`]+)` \|", (PAGES / "messages.md").read_text(), re.M)


def test_every_message_is_on_the_page_of_messages() -> None:
    listed = _listed()
    missing = [f"{at}: {text}" for at, text in MESSAGES if not any(key in text for key in listed)]
    told = "\n".join(missing)
    assert not missing, f"add to .docs/pages/messages.md, with cause and cure:\n{told}"


def test_every_message_on_the_page_exists() -> None:
    texts = [text for _, text in MESSAGES]
    stale = [key for key in _listed() if not any(key in text for text in texts)]
    assert not stale, f"no longer said by the code: {stale}"


def test_pages_are_in_the_table_of_contents() -> None:
    contents = (ROOT / ".docs" / "mkdocs.yml").read_text()
    for page in PAGES.rglob("*.md"):
        assert f" {page.relative_to(PAGES).as_posix()}{os.linesep}" in contents, page


def test_the_version_is_the_same_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "([^"]+)"', project, re.M)
    assert version is not None
    assert f"version: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_public_name_has_its_place_in_the_reference() -> None:
    import lightning_callbacks
    import torch_newton

    pages = "\n".join(page.read_text() for page in (PAGES / "reference").glob("*.md"))
    documented = set(re.findall(r"^::: ([\w.]+)$", pages, re.M))
    modules = {"torch_newton.limit", "torch_newton.nn", "lightning_callbacks.QUANTITIES"}
    public = {
        f"{package.__name__}.{name}"
        for package in (torch_newton, lightning_callbacks)
        for name in package.__all__
    }
    assert public - documented - modules == set()
