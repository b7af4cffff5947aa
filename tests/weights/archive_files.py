"""What the tests of archives share."""

import re
import struct

import numpy as np
import pytest

from mixer_jax.errors import MixerError
from mixer_jax.weights import archives

FLOATS = np.array([1.5, -2, 0.25, 65504, 0, -0.0], np.float32)
FOUR = struct.pack('<4f', 1, 2, 3, 4)


def read(path):
  """All arrays of a file."""
  return {name: array.read() for name, array in archives.read(path).arrays.items()}


def refused(path, *parts):
  """The message of a file that is refused, be it when opened or when read."""
  with pytest.raises(MixerError) as caught:
    read(path)
  message = str(caught.value)
  assert str(path) in message and '\n' not in message and len(message) < 2000, message
  assert re.search(r'download (it|them) again|get (another|a file)|choose|look at|convert it|save ', message), message
  for part in parts:
    assert part in message, message
  return message
