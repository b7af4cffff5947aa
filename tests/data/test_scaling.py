"""Scalings against scikit-learn, and one of the user."""

import json

import numpy as np
import pytest
from sklearn import preprocessing

from mixer_jax.data.tables import Table, scaling
from mixer_jax.data.tables import schema as schemas
from mixer_jax.errors import MixerError


def values(table):
  return np.stack([column for name, column in table.columns.items() if name != 'label'], axis=1)


def scaled(table, scaling, other=None):
  schema = schemas.fit(table, label='label', dropped=(), categorical=[], scaling=scaling)
  assert schemas.Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
  return schema.arrays(other or table)[0]['features']


def test_standard_is_scikit_learns(numbers):
  expected = preprocessing.StandardScaler().fit_transform(values(numbers))
  np.testing.assert_allclose(scaled(numbers, 'standard'), expected, rtol=1e-5, atol=1e-6)


def test_log_is_the_standard_of_signed_logarithms(numbers):
  logs = np.sign(values(numbers)) * np.log(1 + np.abs(values(numbers)))
  expected = preprocessing.StandardScaler().fit_transform(logs)
  np.testing.assert_allclose(scaled(numbers, 'log'), expected, rtol=1e-5, atol=1e-6)


def test_quantile_is_scikit_learns(numbers):
  transform = preprocessing.QuantileTransformer(n_quantiles=scaling.QUANTILES).fit(values(numbers))
  other = Table('other', {k: v * 1.5 if k != 'label' else v for k, v in numbers.columns.items()})
  for table in (numbers, other):
    expected = 2 * transform.transform(values(table)) - 1
    ours = scaled(numbers, 'quantile', table)
    np.testing.assert_allclose(ours[:, :4], expected[:, :4], atol=1e-5)
    inner = values(table)[:, 4] == 1  # where scikit-learn does not put a value at an end
    np.testing.assert_allclose(ours[inner, 4], expected[inner, 4], atol=1e-5)
  counts = np.bincount(values(numbers)[:, 4].astype(int)) / 300
  middles = 2 * (np.cumsum(counts) - counts / 2) - 1
  for value, middle in enumerate(middles):
    assert scaled(numbers, 'quantile')[values(numbers)[:, 4] == value, 4] == pytest.approx(middle, abs=0.02)


def test_global_is_one_image(numbers):
  image = values(numbers) / np.abs(values(numbers)).max()
  np.testing.assert_allclose(scaled(numbers, 'global'), (image - image.mean()) / image.std(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('scaling', scaling.SCALINGS)
def test_only_training_rows_teach(scaling, numbers):
  half = numbers.take(np.arange(150))
  together = scaled(half, scaling, numbers)
  np.testing.assert_array_equal(together[:150], scaled(half, scaling))
  assert np.isfinite(together).all()


OWN = """
import numpy as np


class Halved:
  def fit(self, values):
    return {'highest': np.abs(values).max(axis=0)}

  def scale(self, values, of):
    return values / np.array(of['highest']) / 2


def nothing():
  return None
"""


def test_a_scaling_of_ones_own(numbers, tmp_path, monkeypatch):
  (tmp_path / 'own_scalings.py').write_text(OWN)
  monkeypatch.syspath_prepend(tmp_path)
  expected = values(numbers) / np.abs(values(numbers)).max(axis=0) / 2
  np.testing.assert_allclose(scaled(numbers, 'own_scalings:Halved'), expected, rtol=1e-6)
  for name, message in (
    ('own_scalings:nothing', "data.scaling is 'own_scalings:nothing', which lacks fit"),
    ('own_scalings:Halve', "did you mean 'Halved'"),
    ('no_such_module:Halved', "there is no module 'no_such_module'"),
    ('standart', "unknown data.scaling 'standart'; did you mean 'standard'"),
  ):
    with pytest.raises(MixerError, match=message):
      scaled(numbers, name)


def test_the_largest_numbers_are_scaled_by_quantile():
  """Neither their differences nor the sum of the two in the middle overflows."""
  columns = np.random.default_rng(0).normal(size=(40, 2))
  columns[:, 1] = np.where(np.arange(40) % 2, 1.5e308, -1.5e308) * np.linspace(0.9, 1, 40)
  table = lambda numbers: Table('t', {'x': numbers, 'label': np.array(['0', '1'] * (len(numbers) // 2), object)})
  fit = lambda numbers: schemas.fit(table(numbers), label='label', dropped=(), categorical=[], scaling='quantile')
  large, small = (columns[:, 1] * factor for factor in (1, 2.0**-1000))
  for numbers in (large, np.abs(large)):
    scaled = fit(numbers).arrays(table(numbers))[0]['features']
    assert np.isfinite(scaled).all() and scaled.min() == -1 and scaled.max() == 1
    np.testing.assert_array_equal(scaled.argsort(axis=0)[:, 0], numbers.argsort())
  np.testing.assert_array_equal(
    fit(large).arrays(table(large))[0]['features'], fit(small).arrays(table(small))[0]['features']
  )
  assert fit(np.abs(large)).fill['x'] == 2 * np.median(np.abs(large) / 2) < np.inf
