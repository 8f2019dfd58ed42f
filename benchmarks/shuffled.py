"""A pytest plugin, ``-p benchmarks.shuffled``: tests in an order drawn from the seed in SHUFFLED."""

from __future__ import annotations

import os
import random

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    random.Random(int(os.environ["SHUFFLED"])).shuffle(items)
