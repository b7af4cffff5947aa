"""Binary classification: two classes from one logit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from mixer_jax.errors import MixerError
from mixer_jax.ranges import Positive
from mixer_jax.tasks.classification import Classifier, calibration_error
from mixer_jax.tasks.task import Batch, Report, Scores


class Binary(Classifier):
  """The last class, label 1, or the first, label 0, from one logit.

  Scores are `loss`, the binary cross-entropy, and `accuracy` at probability one half; the report is `binary_report`.

  Args:
    positive_weight: what the loss of an example of label 1 counts, beside 1 for label 0; for rare positives.

  Refuses other than two classes, and a weight that is not positive.
  """

  outputs = (1,)

  def __init__(self, *, classes: int, positive_weight: Positive = 1.0):
    if classes != 2:
      raise MixerError(f'task binary needs data.classes 2, not {classes}; use the task classification')
    self._positive_weight = positive_weight
    self.report = Report(
      predicted=lambda logits: (logits[:, 0] > 0).astype(int),
      numbers=lambda logits, label: binary_report(sigmoid(logits[:, 0]), label, logits[:, 0]),
      probability=lambda logits: sigmoid(logits[:, 0]),
    )

  def scores(self, output: jax.Array, batch: Batch, *, training: bool = False) -> Scores:
    logit, label = output[:, 0], batch['label'].astype(jnp.float32)
    weight = jnp.where(label == 1, self._positive_weight, 1.0)
    if label.ndim == 2:  # mixed: shares of both classes
      label = label[:, 1]
      weight = 1 + (self._positive_weight - 1) * label
    weight = weight if training else 1.0
    loss = weight * optax.sigmoid_binary_cross_entropy(logit, label)
    return {'loss': loss, 'accuracy': ((logit > 0) == (label > 0.5)).astype(jnp.float32)}

  def probabilities(self, logits: jax.Array) -> jax.Array:
    positive = jax.nn.sigmoid(logits)
    return jnp.concatenate([1 - positive, positive], axis=1)


def sigmoid(logit: np.ndarray) -> np.ndarray:
  return special.expit(logit.astype(np.float64))


def binary_report(probability: np.ndarray, label: np.ndarray, logit: np.ndarray | None = None) -> dict[str, float]:
  """Metrics of a binary classifier; positive is label 1, above a logit of 0, or else a probability of one half.

  ROC AUC and average precision rank by the logits, where there are any: from 37 on all their probabilities are 1.0.
  """
  from sklearn import metrics

  score, predicted = (probability, probability > 0.5) if logit is None else (logit, logit > 0)
  precision, recall, f1, _ = metrics.precision_recall_fscore_support(label, predicted, labels=[0, 1], zero_division=0.0)
  ranks = {'roc_auc': metrics.roc_auc_score, 'average_precision': metrics.average_precision_score}
  ranks = ranks if len(np.unique(label)) == 2 else {}
  return {
    'precision': precision[1],
    'recall': recall[1],
    'specificity': recall[0],
    'f1': f1[1],
    'macro_f1': f1.mean(),
    **{name: rank(label, score) for name, rank in ranks.items()},
    'calibration_error': calibration_error(probability, label),
  }
