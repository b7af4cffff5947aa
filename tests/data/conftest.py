"""What tests of data share as fixtures."""

import numpy as np
import pytest

from mixer_jax.data.tables import Table


@pytest.fixture
def no_data(monkeypatch, tmp_path):
  """No data of this machine is found unless a test says where."""
  monkeypatch.delenv('MIXER_DATA_DIR', raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'no_tfds'))


@pytest.fixture(scope='session')
def numbers():
  """300 rows of numbers: skewed, few values, one value."""
  rng = np.random.default_rng(1)
  columns = {f'c{i}': rng.lognormal(i, 2, 300) * rng.choice([-1, 1], 300) for i in range(4)}
  columns['steps'] = rng.integers(0, 3, 300).astype(float)
  columns['same'] = np.full(300, 7.0)
  return Table('numbers', {**columns, 'label': np.array([str(i % 2) for i in range(300)], object)})
