"""What reading damaged checkpoints leaves on stderr."""

import ctypes
import gc
import sys
import types

import pytest

from mixer_jax.training import checkpoints


def in_c(error):
  """Raises an error in Python that C code calls: nobody can catch it."""

  def fail():
    raise error

  ctypes.CFUNCTYPE(None)(fail)()


def given_up(file):
  """A coroutine of a file that nobody waits for any more, and that fails as it is closed."""
  lines = [
    'async def read():',
    '  try:',
    '    await wait()',
    '  finally:',
    f'    raise ValueError("damaged, in {file}")',
  ]
  room = {'wait': types.coroutine(lambda: (yield))}
  exec(compile('\n'.join(lines), file, 'exec'), room)
  coroutine = room['read']()
  coroutine.send(None)
  del coroutine
  gc.collect()


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
  for file in ('orbax/reading.py', 'mine/reading.py'):
    given_up(file)
  assert printed == ['other', 'Event loop is closed', 'damaged, in mine/reading.py']
  checkpoints._spare_late_threads.cache_clear()
