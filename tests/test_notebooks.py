"""Every notebook from top to bottom, in an empty folder and a process of its own; only cells are committed."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import mixer_jax

NOTEBOOKS = Path(mixer_jax.__file__).parents[1] / 'notebooks'
NAMES = ('quickstart', 'finetune', 'tabular', 'autoencoder')
FIGURES = {'quickstart': 2, 'finetune': 2, 'tabular': 3, 'autoencoder': 5}


def test_all_are_here():
  assert {path.stem for path in NOTEBOOKS.glob('*.ipynb')} == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_no_outputs_are_committed(name):
  book = nbformat.read(NOTEBOOKS / f'{name}.ipynb', as_version=4)
  nbformat.validate(book)
  code = [cell for cell in book.cells if cell.cell_type == 'code']
  assert code and all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_runs_from_top_to_bottom(name, tmp_path):
  """As a user's: with programs that are optimised, and without what the tests set for theirs."""
  environment = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR')}
  environment |= {'XDG_CACHE_HOME': str(tmp_path / 'cache'), 'PYTHONPATH': str(NOTEBOOKS.parent)}
  code = (
    'import sys, nbclient, nbformat\n'
    'book = nbformat.read(sys.argv[1], as_version=4)\n'
    "nbclient.NotebookClient(book, timeout=900, kernel_name='python3').execute()\n"
    'nbformat.write(book, sys.argv[2])\n'
  )
  command = [sys.executable, '-c', code, NOTEBOOKS / f'{name}.ipynb', tmp_path / 'done.ipynb']
  result = subprocess.run(
    list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200, check=False
  )
  assert result.returncode == 0, result.stderr[-3000:]
  book = nbformat.read(tmp_path / 'done.ipynb', as_version=4)
  outputs = [output for cell in book.cells if cell.cell_type == 'code' for output in cell.outputs]
  assert sum('image/png' in output.get('data', {}) for output in outputs) == FIGURES[name]
