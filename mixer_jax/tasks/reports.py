"""What the reports of classifiers share."""

import numpy as np

from mixer_jax.tasks.task import Report, View


def calibration_error(probability: np.ndarray, label: np.ndarray, bins: int = 15) -> float:
  """Distance of probability from frequency, over equal bins of probability, weighted by size (Naeini et al. 2015)."""
  place = np.minimum((probability * bins).astype(int), bins - 1)
  gap = np.bincount(place, weights=probability - label, minlength=bins)
  return float(np.abs(gap).sum() / len(label))


def draw_report(view: View, report: Report) -> None:
  """The confusion matrix of a split, and for two classes what any threshold would give."""
  from mixer_jax.analysis import classes

  outputs, label = view.kept[:, :-1], view.kept[:, -1].astype(int)
  predicted = report.predicted(outputs)
  classes.draw_confusion(label, predicted, view.classes, view.folder / f'confusion_{view.split}.png')
  if report.probability and len(np.unique(label)) == 2:
    classes.draw_thresholds(label, report.probability(outputs), view.folder / f'thresholds_{view.split}.png')
