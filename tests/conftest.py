"""What must stand in the environment before anything imports jax; doors opened in this process."""

import importlib
import os
import sys

import pytest

os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', '')  # nothing of the user's cache is read or written
# Compiling is most of what the tests do, and most of that is optimising programs that run once.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true')


@pytest.fixture(scope='session')
def open_door():
  """(name, *arguments) -> the exit code or message of `python -m mixer_jax.NAME ARGUMENTS`, in this process."""
  from mixer_jax import doors

  def open_door(name, *arguments):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(sys, 'argv', [name, *map(str, arguments)])
      try:
        doors.run(importlib.import_module(f'mixer_jax.{name}').main)
      except SystemExit as stop:
        return stop.code
    return 0

  return open_door


@pytest.fixture
def refused(open_door, capsys):
  """Opens a door in vain: one line that begins with `error:` and holds all parts, and nothing else on stderr."""

  def refused(name, *arguments, parts):
    capsys.readouterr()
    message = open_door(name, *arguments)
    assert isinstance(message, str) and message.startswith('error: '), message
    assert '\n' not in message
    assert capsys.readouterr().err == ''
    for part in map(str, parts):
      assert part in message, message
    return message

  return refused
