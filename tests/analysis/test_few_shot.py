"""Linear regression on few examples, against the normal equations and another solver."""

import numpy as np
import pytest

from mixer_jax.analysis import few_shot
from mixer_jax.errors import MixerError

NAMES = ('a', 'b', 'c')


@pytest.fixture(scope='module')
def data():
  """Three blobs that lie into each other, [examples, 5] and their labels, to learn from and to answer."""
  random = np.random.default_rng(0)
  centres = random.normal(size=(3, 5))
  label = random.integers(0, 3, 160)
  features = centres[label] + random.normal(size=(160, 5)) + 3
  return features[:60].astype(np.float32), label[:60], features[60:].astype(np.float32), label[60:]


def by_hand(train, train_label, test, ridge):
  """(X'X + ridge I) W = X'Y, of centred features and targets: so the bias is free of the penalty."""
  x, y = train.astype(np.float64), np.where(train_label[:, None] == np.arange(3), 1.0, -1.0)
  x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
  weight = np.linalg.inv((x - x_mean).T @ (x - x_mean) + ridge * np.eye(5)) @ ((x - x_mean).T @ (y - y_mean))
  return ((test - x_mean) @ weight + y_mean).argmax(axis=1)


@pytest.mark.parametrize('ridge', [1e-3, 1.0, 100.0])
def test_against_the_normal_equations(ridge, data):
  train, train_label, test, test_label = data
  expected = (by_hand(train, train_label, test, ridge) == test_label).mean()
  assert few_shot.accuracy(*data, 3, ridge) == expected
  assert 0.5 < expected < 0.95


def test_shifted_features_change_nothing(data):
  train, train_label, test, test_label = data
  assert few_shot.accuracy(train + 100, train_label, test + 100, test_label, 3, 1.0) == few_shot.accuracy(*data, 3, 1.0)


def test_a_draw_has_so_many_of_each_class_and_is_a_function_of_the_seed(data):
  label = data[1]
  chosen = few_shot.draw(label, 4, 1, NAMES)
  assert np.bincount(label[chosen]).tolist() == [4, 4, 4] and len(set(chosen)) == 12
  assert np.array_equal(chosen, few_shot.draw(label, 4, 1, NAMES))
  assert not np.array_equal(chosen, few_shot.draw(label, 4, 2, NAMES))
  with pytest.raises(MixerError, match=r"--shots asks for 30 of each class, but '\w' has \d+"):
    few_shot.draw(label, 30, 1, NAMES)
  with pytest.raises(MixerError, match="'c' has 0"):
    few_shot.draw(np.array([0, 1]), 1, 0, NAMES)


def test_the_study_is_of_its_draws(data):
  found = few_shot.study(*data, NAMES, shots=[2, 9], draws=3, ridge=1.0, seed=5)
  train, label, test, test_label = data
  for count in (2, 9):
    rows = [few_shot.draw(label, count, 5 + i, NAMES) for i in range(3)]
    values = [few_shot.accuracy(train[r], label[r], test, test_label, 3, 1.0) for r in rows]
    assert found[str(count)]['accuracies'] == values
    assert found[str(count)]['mean'] == pytest.approx(np.mean(values))
    assert found[str(count)]['deviation'] == pytest.approx(np.std(values, ddof=1))
  one = few_shot.study(*data, NAMES, shots=[2], draws=1, ridge=1.0, seed=5)['2']
  assert one['deviation'] is None and one['accuracies'] == found['2']['accuracies'][:1]


def test_the_figure(data, tmp_path):
  found = few_shot.study(*data, NAMES, shots=[2, 9], draws=1, ridge=1.0, seed=5)
  few_shot.draw_figure(found, 'blobs', tmp_path / 'few_shot.png')
  assert (tmp_path / 'few_shot.png').read_bytes().startswith(b'\x89PNG')
