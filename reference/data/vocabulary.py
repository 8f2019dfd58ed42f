"""Where the text encoder's vocabulary lies."""

from __future__ import annotations

import importlib.util
from pathlib import Path

#: File name of the text encoder's vocabulary.
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def default_vocabulary() -> str:
    """Path of the text encoder's vocabulary: sam3's own, or the same file of open_clip, as sam3's wheel leaves it out.

    Raises:
        FileNotFoundError: where neither has it.
    """
    for package, folder in (("sam3", "../assets"), ("open_clip", ".")):
        found = importlib.util.find_spec(package)
        if found and found.origin and (path := Path(found.origin).parent / folder / VOCABULARY).is_file():
            return str(path)
    raise FileNotFoundError(f"no {VOCABULARY}: install open_clip_torch, which has it, or give bpe_path")
