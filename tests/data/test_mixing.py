"""Mixup and CutMix: what they do to images and labels."""

import numpy as np
import pytest
from augmented import CLASSES, random_batch, run

# ---- mixing


def one_hot(batch):
  return np.eye(CLASSES, dtype=np.float32)[np.asarray(batch['label'])]


@pytest.mark.parametrize('seed', range(3))
def test_mixup_is_a_convex_combination(seed):
  batch = random_batch(seed)
  result = run({'mixup': {'alpha': 0.4}}, batch, seed)
  image, label = np.asarray(batch['image']), one_hot(batch)
  neighbour = np.roll(image, 1, axis=0)
  difference = image - neighbour
  share = ((result['image'] - neighbour) * difference).sum() / (difference**2).sum()
  assert 0 < share < 1
  np.testing.assert_allclose(result['image'], share * image + (1 - share) * neighbour, atol=1e-5)
  np.testing.assert_allclose(result['label'], share * label + (1 - share) * np.roll(label, 1, axis=0), atol=1e-5)


def test_mixup_shares_are_beta_distributed():
  batch = {**random_batch(), 'label': np.arange(8, dtype=np.int32) % 2}
  shares = np.array([run({'mixup': {'alpha': 0.4}}, batch, seed)['label'][0, 0] for seed in range(1000)])
  # Beta(a, a) has the mean 1 / 2 and the variance 1 / (4 * (2 a + 1)).
  assert abs(shares.mean() - 0.5) < 0.03
  assert abs(shares.var() - 1 / (4 * 1.8)) < 0.015


@pytest.mark.parametrize('seed', range(6))
def test_cutmix_labels_are_the_shares_of_the_pixels(seed):
  batch = random_batch(seed)
  result = run({'cutmix': {}}, batch, seed)
  image, label = np.asarray(batch['image']), one_hot(batch)
  own = (result['image'] == image).all(-1)
  other = (result['image'] == np.roll(image, 1, axis=0)).all(-1)
  assert (own ^ other).all()
  assert (other == other[:1]).all()
  rows, columns = other[0].any(1).sum(), other[0].any(0).sum()
  assert other[0].sum() == rows * columns
  share = own[0].mean()
  np.testing.assert_allclose(result['label'], share * label + (1 - share) * np.roll(label, 1, axis=0), atol=1e-6)


@pytest.mark.parametrize('name', ['cutmix', 'mixup'])
def test_mixing_with_a_probability(name):
  batch = random_batch()
  settings = {name: {'alpha': 1.0, 'probability': 0.25}}
  changed = sum(bool((run(settings, batch, seed)['image'] != batch['image']).any()) for seed in range(100))
  assert 10 < changed < 40


def test_mixup_composes_with_cutmix():
  batch = random_batch()
  both = run({'mixup': {'alpha': 0.4}, 'cutmix': {}}, batch)
  cut = run({'cutmix': {}}, batch)
  share = np.asarray(run({'mixup': {'alpha': 0.4}}, {**batch, 'label': np.arange(8, dtype=np.int32) % 2})['label'])[
    0, 0
  ]
  for name in ('image', 'label'):
    values = np.asarray(cut[name])
    np.testing.assert_allclose(both[name], share * values + (1 - share) * np.roll(values, 1, axis=0), atol=1e-5)
  np.testing.assert_allclose(both['label'].sum(-1), 1, rtol=1e-6)
