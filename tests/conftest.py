"""What must stand in the environment before anything imports jax; the order of files; commands in this process."""

import atexit
import gc
import importlib
import os
import shutil
import sys
import tempfile

import pytest

# Compiling is most of what the tests do, and most of that is optimising programs that run once. These four make a
# train step compile in a third of the time.
FAST_COMPILE = (
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false'
  ' --xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE'
)
os.environ.setdefault('XLA_FLAGS', FAST_COMPILE)
# A compilation cache of this run's own, never the user's: pytest's workers and the commands that tests start inherit
# it through the environment. '' turns it off.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='mixer-jax-tests-')
  atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
# A process that a test killed may have left half an entry, or another may be writing it: jax warns and compiles.
os.environ.setdefault('PYTHONWARNINGS', 'ignore:Error reading persistent compilation cache entry')

# The files that take longest, in that order: each goes to one worker as a whole, so none may be the last to start.
LONGEST = (
  'test_notebooks.py',
  'test_commands_convert.py', 'test_commands_autoencoder.py', 'test_resume.py', 'test_configs.py', 'test_own_parts.py',
  'test_commands_analyze.py', 'test_mesh.py', 'test_sam_step.py', 'test_autoencoder.py', 'test_keys.py', 'test_sam.py',
  'test_commands.py', 'test_checkpoints.py', 'test_distributed.py', 'test_commands_export.py', 'test_watch.py',
)  # fmt: skip


def pytest_collection_modifyitems(items):
  order = {name: i for i, name in enumerate(LONGEST)}
  items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope='module', autouse=True)
def left_alone():
  """Spares the garbage collector the millions of jax objects that a test file leaves behind."""
  yield
  gc.collect()
  gc.freeze()


@pytest.fixture(autouse=True)
def notes():
  """Notes on stdout, as the commands print them."""
  from mixer_jax import messages

  messages.show()


@pytest.fixture(scope='session')
def run_command():
  """(name, *arguments) -> the exit code or message of `python -m mixer_jax.NAME ARGUMENTS`, in this process."""
  from mixer_jax import cli

  def run_command(name, *arguments):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(sys, 'argv', [name, *map(str, arguments)])
      try:
        cli.run(importlib.import_module(f'mixer_jax.{name}').main)
      except SystemExit as stop:
        return stop.code
    return 0

  return run_command


@pytest.fixture
def refused(run_command, capsys):
  """Runs a command in vain: one line that begins with `error:` and holds all parts, and nothing else on stderr."""

  def refused(name, *arguments, parts):
    capsys.readouterr()
    message = run_command(name, *arguments)
    assert isinstance(message, str) and message.startswith('error: '), message
    assert '\n' not in message
    assert capsys.readouterr().err == ''
    for part in map(str, parts):
      assert part in message, message
    return message

  return refused
