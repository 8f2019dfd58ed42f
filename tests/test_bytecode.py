"""Processes keep their bytecode for a session where the installation has none, and are left alone where it has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests import bytecode
from tests.commands import run


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)


@pytest.mark.usefixtures("variables")
def test_bytecode_that_is_missing_is_kept_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytecode, "_missing", lambda package: True)
    with bytecode.kept():
        folder = Path(os.environ["PYTHONPYCACHEPREFIX"])
        assert run("json.tool", "--help").status == 0
        assert list(folder.rglob("tool.*.pyc"))
    assert not folder.exists()
    assert (os.environ["PYTHONDONTWRITEBYTECODE"], "PYTHONPYCACHEPREFIX" in os.environ) == ("1", False)


@pytest.mark.usefixtures("variables")
def test_an_installation_with_bytecode_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytecode, "_missing", lambda package: False)
    before = dict(os.environ)
    with bytecode.kept():
        assert dict(os.environ) == before


def test_what_is_missing() -> None:
    assert not bytecode._missing("tests.no_such_module")
