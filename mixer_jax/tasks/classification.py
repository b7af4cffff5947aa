"""Classification: one class of several, by softmax or sigmoid cross-entropy."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from mixer_jax.errors import unknown
from mixer_jax.ranges import Rate
from mixer_jax.tasks.task import Batch, Report, Scores, Task, View

LOSSES = {
  'softmax': optax.softmax_cross_entropy,
  'sigmoid': lambda logits, label: optax.sigmoid_binary_cross_entropy(logits, label).sum(axis=-1),
}


class Classifier(Task):
  """Shared by the classifying tasks: probabilities, the rows of a file of predictions, figures of the report."""

  def probabilities(self, logits: jax.Array) -> jax.Array:
    """Logits [batch, logits] -> [batch, classes]."""
    raise NotImplementedError

  def answers(self, output: jax.Array) -> dict[str, jax.Array]:
    logits = output.astype(jnp.float32)
    return {'logits': logits, 'probabilities': self.probabilities(logits)}

  def header(self, classes: Sequence[str], kind: str, most: int) -> list[str]:
    further = range(2, min(most, len(classes)) + 1)
    return [kind, 'probability', *(f'{what}_{i}' for i in further for what in (kind, 'probability'))]

  def row(self, answer: dict[str, np.ndarray], classes: Sequence[str], most: int) -> list[Any]:
    probability = answer['probabilities']
    best = np.argsort(-probability, kind='stable')[:most]
    return [value for k in best for value in (classes[k], f'{probability[k]:.6f}')]

  def draw(self, view: View) -> None:
    """The confusion matrix of a split, and for two classes what any threshold would give."""
    if not view.last or view.kept is None:
      return
    from mixer_jax.analysis import classes

    outputs, label = view.kept[:, :-1], view.kept[:, -1].astype(int)
    predicted = self.report.predicted(outputs)
    classes.draw_confusion(label, predicted, view.classes, view.folder / f'confusion_{view.split}.png')
    if self.report.probability and len(np.unique(label)) == 2:
      score = self.report.probability(outputs)
      classes.draw_thresholds(label, score, view.folder / f'thresholds_{view.split}.png')


class Classification(Classifier):
  """One class of several.

  Labels are int32 [batch], or float32 [batch, classes] distributions, whose largest entry then counts as the label; of
  equal logits the first wins. Scores are `loss`, `accuracy` and, with more than 5 classes, `top5`.

  Args:
    loss: `softmax` cross-entropy, or `sigmoid`: the sum over the classes of binary cross-entropies, as big_vision's.
    label_smoothing: moves this share of the label evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567);
      in training only.
    report: adds what depends on all examples, see `classes_report`, and a confusion matrix.
  """

  def __init__(self, *, classes: int, loss: str = 'softmax', label_smoothing: Rate = 0.0, report: bool = False):
    if loss not in LOSSES:
      raise unknown('task.loss', loss, LOSSES)
    self.outputs, self._loss, self._smoothing = (classes,), loss, label_smoothing
    if report:
      odds = log_odds if loss == 'softmax' else lambda logits: logits
      self.report = Report(
        predicted=lambda logits: logits.argmax(axis=-1),
        numbers=lambda logits, label: classes_report(odds(logits.astype(np.float64)), logits.argmax(axis=-1), label),
      )

  def scores(self, output: jax.Array, batch: Batch, *, training: bool = False) -> Scores:
    (classes,), label = self.outputs, batch['label']
    label = jax.nn.one_hot(label, classes) if label.ndim == 1 else label
    target = optax.smooth_labels(label, self._smoothing) if training and self._smoothing else label
    truth = label.argmax(axis=-1)
    result = {'loss': LOSSES[self._loss](output, target), 'accuracy': output.argmax(axis=-1) == truth}
    if classes > 5:
      top = jax.lax.top_k(output, 5)[1]
      result['top5'] = (top == truth[:, None]).any(axis=-1)
    return {name: value.astype(jnp.float32) for name, value in result.items()}

  def probabilities(self, logits: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(logits) if self._loss == 'sigmoid' else jax.nn.softmax(logits)


def calibration_error(probability: np.ndarray, label: np.ndarray, bins: int = 15) -> float:
  """Expected calibration error over equal bins of probability (Naeini et al. 2015)."""
  place = np.minimum((probability * bins).astype(int), bins - 1)
  gap = np.bincount(place, weights=probability - label, minlength=bins)
  return float(np.abs(gap).sum() / len(label))


def log_odds(logits: np.ndarray) -> np.ndarray:
  """log p / (1 - p) of every class's softmax probability p, [examples, classes], also where p rounds to 1."""
  top = logits.argmax(axis=-1)[:, None]
  rest = logits.copy()
  np.put_along_axis(rest, top, -np.inf, axis=-1)
  share = special.softmax(logits, axis=-1)
  np.put_along_axis(share, top, 0.0, axis=-1)
  odds = special.log_softmax(logits, axis=-1) - np.log1p(-share)
  highest = np.take_along_axis(logits, top, axis=-1) - special.logsumexp(rest, axis=-1, keepdims=True)
  np.put_along_axis(odds, top, highest, axis=-1)
  return odds


def classes_report(odds: np.ndarray, predicted: np.ndarray, label: np.ndarray) -> dict[str, float]:
  """Metrics of a classifier of several classes; odds are log p / (1 - p), [examples, classes].

  Precision, recall, specificity and F1 are means over the classes, each against all others, with 0 for what a class
  without examples leaves undefined; so are ROC AUC and average precision, over the classes that some examples have
  and some have not. Ranks are those of the odds: from 37 on all probabilities are 1.0. The calibration error is that of
  the class predicted.
  """
  from sklearn import metrics

  count, probability = odds.shape[1], special.expit(odds)
  precision, recall, f1, _ = metrics.precision_recall_fscore_support(
    label, predicted, labels=range(count), average='macro', zero_division=0.0
  )
  against = [(label == k, predicted == k, odds[:, k]) for k in range(count)]
  others = [(~taken[~is_k]).mean() if (~is_k).any() else 0.0 for is_k, taken, _ in against]
  ranked = [(is_k, score) for is_k, _, score in against if is_k.any() and not is_k.all()]
  of_ranks = {'macro_roc_auc': metrics.roc_auc_score, 'macro_average_precision': metrics.average_precision_score}
  return {
    'macro_precision': float(precision),
    'macro_recall': float(recall),
    'macro_specificity': float(np.mean(others)),
    'macro_f1': float(f1),
    **{name: float(np.mean([rank(*pair) for pair in ranked])) for name, rank in of_ranks.items() if ranked},
    'calibration_error': calibration_error(
      probability[np.arange(len(label)), predicted], (predicted == label).astype(int)
    ),
  }
