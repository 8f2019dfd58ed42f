"""Catching what is written to standard output."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def captured_output() -> Iterator[Callable[[], str]]:
    """Catch what is written to standard output, by Python and by anything else; yields a function that gives it.

    Under pytest ``sys.stdout`` is not file descriptor 1, so both are taken over.
    """
    text = io.StringIO()
    with tempfile.TemporaryFile() as file:

        def written() -> str:
            file.seek(0)
            return text.getvalue() + file.read().decode(errors="replace")

        if sys.__stdout__ is not None:
            sys.__stdout__.flush()
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            with contextlib.redirect_stdout(text):
                yield written
        finally:
            if sys.__stdout__ is not None:
                sys.__stdout__.flush()
            os.dup2(kept, 1)
            os.close(kept)
