"""The arithmetic of benchmarks/rows_threshold.py against brute force and a known shift."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import special

import mixer_jax


@pytest.fixture(scope='module')
def script():
  path = Path(mixer_jax.__file__).parents[1] / 'benchmarks' / 'rows_threshold.py'
  spec = importlib.util.spec_from_file_location('rows_threshold', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def draw(share, size, seed):
  """Probabilities that are right where half of the examples are positive, of data with another share."""
  random = np.random.default_rng(seed)
  label = (random.random(size) < share).astype(int)
  x = random.normal(size=size) + np.where(label == 1, 1.0, -1.0)
  return special.expit(2 * x), label


@pytest.mark.parametrize('seed', range(5))
def test_the_best_threshold_is_that_of_brute_force(script, seed):
  probability, label = draw(0.3, 200, seed)
  probability = probability.round(2)  # with ties
  found = script.accuracy(probability, label, script.best_threshold(probability, label))
  every = [script.accuracy(probability, label, t) for t in np.linspace(-0.005, 1.005, 102)]
  assert found == pytest.approx(max(every))


def test_em_finds_the_share_of_positives(script):
  probability, _ = draw(0.2, 200_000, 0)
  moved = script.adapt(probability, 0.5)
  assert moved.mean() == pytest.approx(0.2, abs=0.005)
  odds = probability / (1 - probability) * moved.mean() / (1 - moved.mean())
  np.testing.assert_allclose(moved, odds / (1 + odds), rtol=1e-4)


def test_em_leaves_the_right_prior_alone(script):
  probability, _ = draw(0.5, 200_000, 1)
  assert np.abs(script.adapt(probability, 0.5) - probability).max() < 0.01
