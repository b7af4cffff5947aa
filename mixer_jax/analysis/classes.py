"""Figures of a classifier on a split: the confusion matrix and, for two classes, ROC and precision-recall curves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

WRITTEN = 12  # up to this many classes, cells show their counts
LONGEST = 24  # characters of a name


def confusion(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
  """Counts [label, predicted]."""
  from sklearn import metrics

  return metrics.confusion_matrix(label, predicted, labels=range(classes))


def draw_confusion(label: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: Path) -> None:
  """Draws the confusion matrix, shaded by row percentage."""
  counts = confusion(label, predicted, len(names))
  share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
  few = len(names) <= 2 * WRITTEN
  shown = [' '.join(name.split()) for name in names] if few else []
  shown = [name if len(name) <= LONGEST else f'{name[: LONGEST - 3]}...' for name in shown]
  room = 0.08 * max(0, max(map(len, shown), default=0) - 8)  # inches that long names take
  width, height = (3.6, 3.2) if len(names) <= 4 else (6, 5.4)
  figure = Figure(figsize=(width + room, height + room), layout='constrained')
  axes = figure.subplots()
  image = axes.imshow(100 * share, cmap='Greys', vmin=0, vmax=100)
  if few:
    ticks = range(len(names))
    # parse_math: else a $ in a name begins a formula.
    axes.set_xticks(ticks, shown, rotation=90 if max(map(len, shown)) > 4 else 0, parse_math=False)
    axes.set_yticks(ticks, shown, parse_math=False)
  if len(names) <= WRITTEN:
    for row, column in np.ndindex(*counts.shape):
      colour = 'white' if share[row, column] > 0.5 else 'black'
      axes.text(column, row, f'{counts[row, column]:,}', ha='center', va='center', color=colour, fontsize=8)
  axes.set(xlabel='predicted class' + ('' if few else ' (number)'), ylabel='class' + ('' if few else ' (number)'))
  figure.colorbar(image, label='share of the class (%)', shrink=0.85)
  figure.savefig(path, dpi=150)


def draw_thresholds(label: np.ndarray, probability: np.ndarray, path: Path) -> None:
  """Draws the ROC and the precision-recall curve, and marks the threshold 0.5 on both."""
  from sklearn import metrics

  figure = Figure(figsize=(7, 3.2), layout='constrained')
  roc, pr = figure.subplots(1, 2)
  false_alarms, hits, _ = metrics.roc_curve(label, probability)
  roc.plot(false_alarms, hits, color='black', label=f'area {metrics.roc_auc_score(label, probability):.4f}')
  roc.plot([0, 1], [0, 1], '--', color='0.6', label='chance')
  precision, recall, _ = metrics.precision_recall_curve(label, probability)
  average = metrics.average_precision_score(label, probability)
  pr.plot(recall, precision, color='black', drawstyle='steps-post', label=f'average precision {average:.4f}')
  pr.axhline(label.mean(), linestyle='--', color='0.6', label='chance')
  predicted = probability > 0.5
  hit, alarm = predicted[label == 1].mean(), predicted[label == 0].mean()
  roc.plot(alarm, hit, 'o', color='#0072b2', label='probability one half')
  if predicted.any():
    pr.plot(hit, label[predicted].mean(), 'o', color='#0072b2', label='probability one half')
  roc.set(xlabel='false alarm rate', ylabel='hit rate (recall)', xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
  pr.set(xlabel='recall', ylabel='precision', xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
  for axes in (roc, pr):
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc='lower center')
  figure.savefig(path, dpi=150)
