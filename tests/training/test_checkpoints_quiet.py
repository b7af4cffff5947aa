"""What reading damaged checkpoints leaves on stderr."""

import ctypes
import sys

import pytest

from mixer_jax.training import checkpoints


def in_c(error):
  """Raises an error in Python that C code calls: nobody can catch it."""

  def fail():
    raise error

  ctypes.CFUNCTYPE(None)(fail)()


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_threads_that_are_late_are_quiet(tmp_path, monkeypatch):
  """As TensorStore calls a closed event loop, after orbax has given a damaged checkpoint up."""
  printed = []
  monkeypatch.setattr(sys, 'unraisablehook', lambda unraisable: printed.append(str(unraisable.exc_value)))
  checkpoints._spare_late_threads.cache_clear()
  checkpoints.Checkpoints(tmp_path).close()
  in_c(RuntimeError('Event loop is closed'))
  in_c(RuntimeError('other'))
  in_c(ValueError('Event loop is closed'))
  assert printed == ['other', 'Event loop is closed']
  checkpoints._spare_late_threads.cache_clear()
