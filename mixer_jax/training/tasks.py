"""Tasks by name: what is predicted, its loss and its metrics, one number per example, or of a whole split."""

import dataclasses
import functools
from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from mixer_jax.errors import MixerError, unknown

Scores = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Report:
  """What is said of a whole evaluated split, beside means over its examples.

  Attributes:
    predicted: logits [examples, outputs] -> classes, int [examples].
    numbers: (logits, labels) -> {name: number}.
    probability: logits -> probability of label 1; None where there are more than two classes.
  """

  predicted: Callable[[np.ndarray], np.ndarray]
  numbers: Callable[[np.ndarray, np.ndarray], dict[str, float]]
  probability: Callable[[np.ndarray], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Task:
  """What a model is asked.

  Attributes:
    output: shape of what a model gives for one example: (logits,) or (height, width, channels).
    scores: (output [batch, ...], prepared batch, training=False) -> {'loss', ...: [batch], float32}.
    report: None where means say all.
    best: the score that chooses the best checkpoint.
    highest: whether the best score is the highest.
    panels: what is drawn into curves.png, see curves.draw.
  """

  output: tuple[int, ...]
  scores: Callable[..., Scores]
  report: Report | None = None
  best: str = 'accuracy'
  highest: bool = True
  panels: tuple[tuple[str, str, str], ...] = (('loss', 'loss (nats)', 'log'), ('accuracy', 'error (%)', 'log'))


def classification(*, loss: str, label_smoothing: float, classes: int, report: bool = False) -> Task:
  """One class of several.

  Args:
    loss: `softmax` cross-entropy, or `sigmoid`: the sum over the classes of binary cross-entropies, as big_vision's.
    label_smoothing: moves this share of the label evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567);
      in training only.
    report: adds what depends on all examples, see classes_report, and a confusion matrix.

  Returns:
    A task whose scores are `loss`, `accuracy` and `top5`. Labels are int32 [batch], or float32 [batch, classes]
    distributions, whose largest entry then counts as the label; of equal logits the first wins. `top5` only with more
    than 5 classes.
  """
  losses = {
    'softmax': optax.softmax_cross_entropy,
    'sigmoid': lambda logits, label: optax.sigmoid_binary_cross_entropy(logits, label).sum(axis=-1),
  }
  if loss not in losses:
    raise unknown('task.loss', loss, losses)
  if not 0 <= label_smoothing < 1:
    raise MixerError(f'task.label_smoothing is {label_smoothing}, but must be in [0, 1)')

  def scores(logits: jax.Array, batch: dict[str, jax.Array], *, training: bool = False) -> Scores:
    label = batch['label']
    label = jax.nn.one_hot(label, classes) if label.ndim == 1 else label
    target = optax.smooth_labels(label, label_smoothing) if training and label_smoothing else label
    truth = label.argmax(axis=-1)
    result = {'loss': losses[loss](logits, target), 'accuracy': logits.argmax(axis=-1) == truth}
    if classes > 5:
      top = jax.lax.top_k(logits, 5)[1]
      result['top5'] = (top == truth[:, None]).any(axis=-1)
    return {name: value.astype(jnp.float32) for name, value in result.items()}

  probability = functools.partial(special.softmax, axis=-1) if loss == 'softmax' else special.expit
  whole = Report(
    predicted=lambda logits: logits.argmax(axis=-1),
    numbers=lambda logits, label: classes_report(probability(logits.astype(np.float64)), logits.argmax(axis=-1), label),
  )
  return Task((classes,), scores, whole if report else None)


def binary(*, positive_weight: float, classes: int) -> Task:
  """The last class, label 1, or the first, label 0, from one logit.

  Args:
    positive_weight: what the loss of an example of label 1 counts, beside 1 for label 0; for rare positives.

  Returns:
    A task whose scores are `loss`, the binary cross-entropy, and `accuracy` at probability one half, and whose report
    is that of `binary_report`.

  Raises:
    MixerError: other than two classes, a weight that is not positive.
  """
  if classes != 2:
    raise MixerError(f'task binary needs data.classes 2, not {classes}; use the task classification')
  if positive_weight <= 0:
    raise MixerError(f'task.positive_weight is {positive_weight}, but must be above 0')

  def scores(logits: jax.Array, batch: dict[str, jax.Array], *, training: bool = False) -> Scores:
    logit, label = logits[:, 0], batch['label'].astype(jnp.float32)
    weight = jnp.where(label == 1, positive_weight, 1.0) if training else 1.0
    loss = weight * optax.sigmoid_binary_cross_entropy(logit, label)
    return {'loss': loss, 'accuracy': ((logit > 0) == (label == 1)).astype(jnp.float32)}

  report = Report(
    predicted=lambda logits: (logits[:, 0] > 0).astype(int),
    numbers=lambda logits, label: binary_report(sigmoid(logits[:, 0]), label),
    probability=lambda logits: sigmoid(logits[:, 0]),
  )
  return Task((1,), scores, report)


def sigmoid(logit: np.ndarray) -> np.ndarray:
  return special.expit(logit.astype(np.float64))


def classes_report(probability: np.ndarray, predicted: np.ndarray, label: np.ndarray) -> dict[str, float]:
  """What a table of results says of a classifier of several classes; probability is [examples, classes].

  Precision, recall, specificity and F1 are means over the classes, each against all others, with 0 for what a class
  without examples leaves undefined; so are ROC AUC and average precision, over the classes that some examples have
  and some have not. The calibration error is that of the class predicted.
  """
  from sklearn import metrics

  count = probability.shape[1]
  precision, recall, f1, _ = metrics.precision_recall_fscore_support(
    label, predicted, labels=range(count), average='macro', zero_division=0.0
  )
  against = [(label == k, predicted == k, probability[:, k]) for k in range(count)]
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


def binary_report(probability: np.ndarray, label: np.ndarray) -> dict[str, float]:
  """What a table of results says of a binary classifier; positive is label 1, above probability one half."""
  from sklearn import metrics

  predicted = probability > 0.5
  precision, recall, f1, _ = metrics.precision_recall_fscore_support(label, predicted, labels=[0, 1], zero_division=0.0)
  both = len(np.unique(label)) == 2
  return {
    'precision': precision[1],
    'recall': recall[1],
    'specificity': recall[0],
    'f1': f1[1],
    'macro_f1': f1.mean(),
    **({'roc_auc': metrics.roc_auc_score(label, probability)} if both else {}),
    **({'average_precision': metrics.average_precision_score(label, probability)} if both else {}),
    'calibration_error': calibration_error(probability, label),
  }


def calibration_error(probability: np.ndarray, label: np.ndarray, bins: int = 15) -> float:
  """Distance of probability from frequency, over equal bins of probability, weighted by size (Naeini et al. 2015)."""
  place = np.minimum((probability * bins).astype(int), bins - 1)
  gap = np.bincount(place, weights=probability - label, minlength=bins)
  return float(np.abs(gap).sum() / len(label))


def reconstruction(
  *, loss: str, image: tuple[int, int, int] | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Task:
  """The image again, in [0, 1].

  Args:
    loss: `mse`, the mean squared error over pixels and channels, or `l1`, the mean absolute one.

  Returns:
    A task whose scores are `loss`, `mse`, and when evaluated `l1`, `psnr` in decibels (of each image, for a range of
    1; an error of 1e-10 is the least that counts) and `ssim` (Wang et al. 2004; Gaussian windows of 11x11 pixels,
    smaller for smaller images). Outputs are clipped to [0, 1] for none of them.

  Raises:
    MixerError: rows instead of images, pixels that are not left in [0, 1], an unknown loss.
  """
  losses = {'mse': jnp.square, 'l1': jnp.abs}
  if loss not in losses:
    raise unknown('task.loss', loss, losses)
  if image is None:
    raise MixerError('task reconstruction needs images, but config.data names a table')
  if set(mean) != {0} or set(std) != {1}:
    raise MixerError(
      f'task reconstruction compares pixels in [0, 1], but data.mean is {list(mean)} and data.std {list(std)}; set'
      ' them to zeros and ones'
    )

  def scores(output: jax.Array, batch: dict[str, jax.Array], *, training: bool = False) -> Scores:
    target = batch.get('target', batch['image'])
    of_image = lambda values: values.mean(axis=(1, 2, 3))
    mse = of_image(jnp.square(output - target))
    result = {'loss': of_image(losses[loss](output - target)), 'mse': mse}
    if not training:
      result['l1'] = of_image(jnp.abs(output - target))
      result['psnr'] = -10 * jnp.log10(jnp.maximum(mse, 1e-10))
      result['ssim'] = dm_pix.ssim(output, target, filter_size=min(11, *image[:2]))
    return result

  panels = (('mse', 'mean squared error', 'log'), ('psnr', 'PSNR (dB)', 'linear'))
  return Task(tuple(image), scores, best='mse', highest=False, panels=panels)


TASKS = {'classification': classification, 'binary': binary, 'reconstruction': reconstruction}
