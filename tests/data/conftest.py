"""Tests of data find none of this machine."""

import pytest


@pytest.fixture
def no_data(monkeypatch, tmp_path):
  """No data of this machine is found unless a test says where."""
  monkeypatch.delenv('MIXER_DATA_DIR', raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'no_tfds'))
