"""Lightning, under both of its names or under one."""

import importlib

import pytest

from tests.callbacks.lightning_helpers import NAMESPACES


@pytest.fixture(params=NAMESPACES)
def pl(request):
    return importlib.import_module(request.param)


@pytest.fixture
def one_pl():
    return importlib.import_module(NAMESPACES[0])
