"""Tasks by name: what is predicted, its loss and its metrics, one number per example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mixer_jax.errors import MixerError, unknown

Scores = dict[str, jax.Array]


def classification(*, loss: str, label_smoothing: float, classes: int) -> Callable[[jax.Array, dict], Scores]:
  """One class of several.

  Args:
    loss: `softmax` cross-entropy, or `sigmoid`: the sum over the classes of binary cross-entropies, as big_vision's.
    label_smoothing: moves this share of the label evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567);
      in training only.

  Returns:
    scores(logits [batch, classes], batch, training=False) -> {'loss', 'accuracy', 'top5': [batch], float32}. Labels are
    int32 [batch], or float32 [batch, classes] distributions, whose largest entry then counts as the label; of equal
    logits the first wins. `top5` only with more than 5 classes.
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

  return scores


TASKS = {'classification': classification}
