"""Imported by the server that the tests' ranks are forked from: what they would import and read each for themselves."""

from __future__ import annotations

import gc
import importlib

from sam3.model.tokenizer_ve import SimpleTokenizer

from reference.data.vocabulary import default_vocabulary
from tests.vocabulary import read_once

for _name in ("sam3.train.trainer", "tests.ddp.steps", "verify.ddp.observation", "verify.trainer.observation"):
    importlib.import_module(_name)
_reading = read_once()  # held as long as the server and its forks live
_reading.__enter__()
SimpleTokenizer(bpe_path=default_vocabulary())
gc.freeze()
