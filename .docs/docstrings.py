"""An extension of Griffe: docstrings as Markdown, with formulas that are written as in Sphinx."""

import re
from typing import Any

import griffe

FORMULA = re.compile(r":math:`([^`]*)`")
CODE = re.compile(r"``([^`]+)``")
TABLE = re.compile(r"^[ ]*=+(?: +=+)+\n(.*?)\n[ ]*=+(?: +=+)+$", re.M | re.S)
"""A table in reStructuredText without a head, as that of CurvatureMonitor's keys."""

EXAMPLE = re.compile(r"^( *)>>> .*(?:\n *\S.*)*", re.M)
"""A doctest up to the next empty line, whose prompts Markdown takes for quotations."""


def markdown(text: str) -> str:
    """Formulas between backslashed parentheses, and code and tables as Markdown has them."""
    text = TABLE.sub(lambda found: _table(found[1].splitlines()), text)
    text = FORMULA.sub(r"\\(\1\\)", text)
    text = CODE.sub(r"`\1`", text)
    return EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


def _table(lines: list[str]) -> str:
    rows = [re.sub(r"  +", " | ", line.strip(), count=1) for line in lines]
    return "\n".join(["| key | meaning |", "| --- | --- |", *(f"| {row} |" for row in rows)])


class Markdown(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
