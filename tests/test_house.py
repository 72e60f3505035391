"""Goals of the code's layout, measured on its source, so that they cannot rot unseen."""

from __future__ import annotations

import ast
import importlib
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch_newton", "lightning_callbacks")
MAX_FUNCTION = 60
"""Lines of code of a function: one screen, so that it is read without scrolling."""

MAX_FILE = 250
"""Lines of a file without its docstrings: beyond four screens it holds more than one idea."""

MEDIAN_FILE = (60, 140)
"""Between these the median file lies: shorter ones scatter an idea, longer ones mix several."""

PRIVATE = {
    "_saved_": {"autodiff/nodes.py"},
    "_input_metadata": {"autodiff/nodes.py"},
    "_forward_cls": {"autodiff/nodes.py"},
    "torch._C": {"closure/snapshots.py"},
    "_pop_mode": {"closure/snapshots.py"},
    "_backward_hooks": {"closure/evaluator.py"},
    "_version": {"closure/accumulation.py", "closure/start.py"},
    "_unsafe_preserve_version_counter": {"closure/versions.py"},
    "_join_config": {"closure/distributed.py"},
    "_step_supports_amp_scaling": {"optimizer.py"},
}
"""What is private to PyTorch, and the files of the packages that may use it.

Each has a test in tests/contract. A file that takes over one of these takes its place here.
"""


@dataclass(frozen=True)
class Module:
    """A file of the packages."""

    path: Path
    tree: ast.Module
    lines: int

    @property
    def lines_of_code(self) -> int:
        """Lines without docstrings, which may be as long as they need to be."""
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        total = self.lines
        for node in ast.walk(self.tree):
            if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
                total -= node.body[0].end_lineno - node.body[0].lineno + 1
        return total

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def inner(self) -> str:
        """The path within its package."""
        return str(self.path.relative_to(ROOT / self.path.relative_to(ROOT).parts[0]))


def _read(path: Path) -> Module:
    text = path.read_text()
    return Module(path, ast.parse(text), len(text.splitlines()))


MODULES = [_read(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
FILES = [module for module in MODULES if module.path.name != "__init__.py"]
ROOMS = [
    ".".join(path.parent.relative_to(ROOT).parts)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("__init__.py"))
]


def _functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def _code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From ``def`` to the end, without the docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    assert docstring.end_lineno is not None
    return lines - (docstring.end_lineno - docstring.lineno + 1)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.name)
def test_a_module_says_what_it_is(module: Module) -> None:
    assert ast.get_docstring(module.tree), f"{module.name} has no docstring"


def test_functions_are_short() -> None:
    long = {
        f"{module.name}:{function.lineno} {function.name}": _code_lines(function)
        for module in MODULES
        for function in _functions(module)
        if _code_lines(function) > MAX_FUNCTION
    }
    assert not long, f"functions of more than {MAX_FUNCTION} lines of code: {long}"


def test_files_are_short() -> None:
    sizes = {module.name: module.lines_of_code for module in MODULES}
    long = {name: lines for name, lines in sizes.items() if lines > MAX_FILE}
    assert not long, f"files of more than {MAX_FILE} lines of code: {long}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_median_file_holds_one_idea(package: str) -> None:
    median = statistics.median(m.lines for m in FILES if m.name.startswith(package))
    low, high = MEDIAN_FILE
    assert low <= median <= high, f"the median file of {package} has {median} lines"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_offers(room: str) -> None:
    module = importlib.import_module(room)
    names = getattr(module, "__all__", None)
    assert names, f"{room} has no __all__"
    assert len(set(names)) == len(names), f"{room}.__all__ names something twice"
    missing = [name for name in names if not hasattr(module, name)]
    assert not missing, f"{room}.__all__ has names that do not exist: {missing}"


def _private_uses(module: Module) -> set[str]:
    """The keys of `PRIVATE` that the module uses: as attributes, or in strings for getattr."""
    used: set[str] = set()
    for node in ast.walk(module.tree):
        words = ""
        if isinstance(node, ast.Attribute):
            words = ast.unparse(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            words = node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value if " " not in node.value else ""
        used |= {name for name in PRIVATE if re.search(rf"(?<!\w){re.escape(name)}", words)}
    return used


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.name)
def test_what_is_private_to_pytorch_is_used_in_few_places(module: Module) -> None:
    strangers = {name for name in _private_uses(module) if module.inner not in PRIVATE[name]}
    assert not strangers, (
        f"{module.name} uses {sorted(strangers)}, which is private to PyTorch: go through "
        "autodiff/nodes.py, or give it a test in tests/contract and a place in PRIVATE"
    )


def test_what_may_be_used_is_used() -> None:
    used = {(name, m.inner) for m in MODULES for name in _private_uses(m)}
    allowed = {(name, file) for name, files in PRIVATE.items() for file in files}
    assert allowed <= used, f"no longer used: take out of PRIVATE {sorted(allowed - used)}"


@pytest.mark.parametrize("name", PRIVATE)
def test_what_is_private_to_pytorch_has_a_test_that_says_when_it_goes(name: str) -> None:
    texts = [path.read_text() for path in sorted((ROOT / "tests" / "contract").glob("*.py"))]
    assert any(name in text for text in texts), f"no test in tests/contract tries {name}"
