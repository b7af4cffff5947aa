"""What a refusal looks like: one line, with all that the user needs."""

import contextlib

import pytest

from mixer_jax.errors import MixerError


@contextlib.contextmanager
def refuses(*parts):
  """One line of MixerError that holds all `parts`."""
  with pytest.raises(MixerError) as info:
    yield
  message = str(info.value)
  assert '\n' not in message
  for part in parts:
    assert str(part) in message, (part, message)
