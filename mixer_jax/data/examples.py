"""Examples side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def stack(examples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
  """Examples as one batch, each array with the examples along its first axis."""
  return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
