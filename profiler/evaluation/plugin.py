"""What our task files name: importing it makes bundles known to the harness, which looks for models of others nowhere.

`lm_eval --model tundish --model_args bundle=PATH --tasks FILE.yaml` works for the path of one of our files, since the
harness reads files named by path before it looks for the model.
"""

from __future__ import annotations

from .adapter import model_class
from .answers import compared, local, mean, solved

model_class()

__all__ = ["compared", "local", "mean", "solved"]
