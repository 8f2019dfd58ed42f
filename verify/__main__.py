"""``python -m verify [OPTIONS]``: the gate from any folder; takes pytest's options and the gate's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main([str(Path(__file__).parent), "-p", "verify.plugin", *sys.argv[1:]]))
