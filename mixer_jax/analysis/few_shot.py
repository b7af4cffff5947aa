"""Few-shot evaluation of frozen features: closed-form ridge regression on a few examples of each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import Ridge

from mixer_jax.errors import MixerError


def check(shots: Sequence[int], draws: int, ridge: float) -> None:
  if not shots or min(shots) < 1:
    raise MixerError(f'--shots is {",".join(map(str, shots))!r}, but must be numbers of at least 1, such as 5,10,25')
  if draws < 1:
    raise MixerError(f'--draws is {draws}, but must be at least 1')
  if not 0 < ridge < np.inf:
    raise MixerError(f'--ridge is {ridge}, but must be above 0 and finite')


def check_counts(label: np.ndarray, shots: int, names: Sequence[str]) -> None:
  """Refuses classes of fewer examples than `shots`."""
  counts = np.bincount(label, minlength=len(names))
  if counts.min() < shots:
    few = int(counts.argmin())
    raise MixerError(f'--shots asks for {shots} of each class, but {names[few]!r} has {counts[few]}; ask for fewer')


def draw(label: np.ndarray, shots: int, seed: int, names: Sequence[str]) -> np.ndarray:
  """Indices of the training examples, `shots` of each class; deterministic given the arguments.

  Raises:
    MixerError: a class has fewer examples.
  """
  check_counts(label, shots, names)
  order = np.random.default_rng(seed).permutation(len(label))
  return np.concatenate([order[label[order] == k][:shots] for k in range(len(names))])


def accuracy(
  train: np.ndarray, train_label: np.ndarray, test: np.ndarray, test_label: np.ndarray, classes: int, ridge: float
) -> float:
  """Test accuracy of ridge regression from features [examples, width] to targets -1 and 1; predicts the argmax.

  Minimises |x W + b - y|^2 + ridge |W|^2 in float64. Deviations from the paper's few-shot evaluation (arXiv 2105.01601,
  following arXiv 1912.11370): b is not penalised, features are not whitened, and the user chooses `ridge`, not the
  test images.
  """
  targets = 2.0 * (train_label[:, None] == np.arange(classes)) - 1
  fitted = Ridge(alpha=ridge).fit(train.astype(np.float64), targets)
  return float((fitted.predict(test.astype(np.float64)).argmax(axis=1) == test_label).mean())


def study(
  train: np.ndarray, train_label: np.ndarray, test: np.ndarray, test_label: np.ndarray, names: Sequence[str], *,
  shots: Sequence[int], draws: int, ridge: float, seed: int,
) -> dict[str, dict[str, Any]]:  # fmt: skip
  """Accuracies for each number of shots over `draws` draws, their mean and standard deviation (None for one draw)."""
  check(shots, draws, ridge)
  found = {}
  for count in shots:
    chosen = [draw(train_label, count, seed + i, names) for i in range(draws)]
    values = [accuracy(train[c], train_label[c], test, test_label, len(names), ridge) for c in chosen]
    deviation = float(np.std(values, ddof=1)) if draws > 1 else None
    found[str(count)] = {'mean': float(np.mean(values)), 'deviation': deviation, 'accuracies': values}
  return found


def draw_figure(found: Mapping[str, Mapping[str, Any]], data: str, path: Path) -> None:
  """Draws accuracy against the number of shots, with standard deviations over the draws."""
  figure = Figure(figsize=(3.6, 2.8), layout='constrained')
  axes = figure.subplots()
  shots = [int(count) for count in found]
  mean, spread = ([100 * (of[key] or 0) for of in found.values()] for key in ('mean', 'deviation'))
  axes.errorbar(shots, mean, yerr=spread, fmt='o-', color='black', ecolor='0.5', capsize=3, markersize=4)
  draws = len(next(iter(found.values()))['accuracies'])
  spread_over = f'\nmean ± standard deviation, {draws} draws' if draws > 1 else ''
  axes.set(xscale='log', xlabel='images per class', ylabel=f'accuracy on {data} (%){spread_over}')
  axes.set_xticks(shots, [str(count) for count in shots])
  axes.minorticks_off()
  axes.grid(alpha=0.3)
  figure.savefig(path, dpi=150)
