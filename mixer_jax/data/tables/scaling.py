"""Scalings of a table's columns, learnt from its training rows.

One of your own is named `module:name`: a class without arguments (or a function that gives such an object) with
`fit(values) -> {name: numbers}` and `scale(values, {name: numbers}) -> values`, values float64 [rows, columns].
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mixer_jax import parts
from mixer_jax.errors import MixerError

QUANTILES = 256


class Scaling(NamedTuple):
  """How a scaling is learnt from training rows, and applied."""

  fit: Callable[[np.ndarray], dict[str, Any]]
  scale: Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]


def find(name: str) -> Scaling:
  """The scaling of that name, a key of SCALINGS or the user's own; refuses what has no fit and scale."""
  found = parts.find(name, SCALINGS, 'data.scaling')()
  if not all(callable(getattr(found, method, None)) for method in Scaling._fields):
    raise MixerError(f'data.scaling is {name!r}, which lacks fit(values) or scale(values, statistics); give it both')
  return found


def _fit_global(values: np.ndarray) -> dict:
  """One maximum, mean and deviation for the whole table, as if it were an image."""
  highest = np.abs(values).max() or 1.0
  scaled = values / highest
  return {'highest': highest, 'mean': scaled.mean(), 'std': scaled.std() or 1.0}


def _scale_global(values: np.ndarray, of: Mapping[str, Any]) -> np.ndarray:
  return (values / of['highest'] - of['mean']) / of['std']


def _fit_standard(values: np.ndarray) -> dict:
  """Mean and deviation of each column; a column that never changes is left at 0."""
  mean, std = values.mean(axis=0), values.std(axis=0)
  return {'mean': mean, 'std': np.where(std > 1e-9 * np.abs(mean), std, 1)}  # rounding alone is no deviation


def _scale_standard(values: np.ndarray, of: Mapping[str, Any]) -> np.ndarray:
  return (values - np.array(of['mean'])) / np.array(of['std'])


def _signed_log(values: np.ndarray) -> np.ndarray:
  return np.sign(values) * np.log1p(np.abs(values))


def _fit_quantile(values: np.ndarray) -> dict:
  """Evenly spaced quantiles of each column."""
  # Of halves, which is the same: differences of the largest numbers would overflow.
  return {'quantiles': 2 * np.quantile(values / 2, np.linspace(0, 1, QUANTILES), axis=0)}


def _scale_quantile(values: np.ndarray, of: Mapping[str, Any]) -> np.ndarray:
  """The share of training rows below a value, from -1 to 1; of equal values the middle.

  scikit-learn's QuantileTransformer, but for the lowest and the highest value, which it puts at the ends.
  """
  levels, result = np.linspace(-1, 1, QUANTILES), np.empty_like(values)
  for i, quantiles in enumerate(np.array(of['quantiles']).T / 2):
    below = np.interp(values[:, i] / 2, quantiles, levels)
    above = -np.interp(-values[:, i] / 2, -quantiles[::-1], levels)
    result[:, i] = (below + above) / 2
  return result


# Each gives its pair when it is called, as a class of the user's does.
SCALINGS: dict[str, Callable[[], Scaling]] = {
  'global': lambda: Scaling(_fit_global, _scale_global),
  'standard': lambda: Scaling(_fit_standard, _scale_standard),
  'log': lambda: Scaling(lambda x: _fit_standard(_signed_log(x)), lambda x, of: _scale_standard(_signed_log(x), of)),
  'quantile': lambda: Scaling(_fit_quantile, _scale_quantile),
}
