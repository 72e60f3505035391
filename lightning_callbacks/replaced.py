"""Put an attribute in another's place for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(thing: Any, name: str, by: Any) -> Iterator[None]:
    """A block in which an instance, or a class, has an attribute that hides an inherited one."""
    known = name in vars(thing)
    before = vars(thing).get(name)
    setattr(thing, name, by)
    try:
        yield
    finally:
        if known:
            setattr(thing, name, before)
        else:
            delattr(thing, name)
