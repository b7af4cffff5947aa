"""The probabilities that a trained classifier gives, and the features it gives them by."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mixer_jax.data.sources import Source
from mixer_jax.training.experiment import Experiment
from mixer_jax.training.restore import Run

Arrays = dict[str, np.ndarray]


def to_probabilities(experiment: Experiment, logits: jax.Array) -> jax.Array:
  """[batch, classes], two of them for a binary task, whose logit is one."""
  if experiment.task.output == (1,):
    positive = jax.nn.sigmoid(logits)
    return jnp.concatenate([1 - positive, positive], axis=1)
  return jax.nn.sigmoid(logits) if experiment.settings.task.get('loss') == 'sigmoid' else jax.nn.softmax(logits)


def make_classify(run: Run) -> Callable[[Arrays, int], np.ndarray]:
  """(arrays, size) -> probabilities [examples, classes], computed for `size` examples at a time, the last padded.

  The arrays are those of a raw batch, without labels.
  """
  experiment = run.experiment

  @jax.jit
  def probabilities(params, batch):
    prepared = experiment.prepare(batch)
    logits = nnx.merge(experiment.graphdef, params)(*(prepared[name] for name in experiment.data.inputs))
    return to_probabilities(experiment, logits)

  return _in_batches(probabilities, run)


def features_of(run: Run, source: Source) -> tuple[np.ndarray, np.ndarray]:
  """What stands before a model's head, [examples, width], of all images of a source, and their labels, [examples]."""
  experiment = run.experiment

  @jax.jit
  def features(params, batch):
    image = experiment.prepare(batch)['image']
    return nnx.merge(experiment.graphdef, params).features(image)

  examples = [source[i] for i in range(len(source))]
  raw = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
  return _in_batches(features, run)(raw, experiment.settings.eval_batch_size), raw['label']


def _in_batches(function: Callable, run: Run) -> Callable[[Arrays, int], np.ndarray]:
  def of_all(arrays, size):
    count = len(next(iter(arrays.values())))
    pad = lambda a: np.concatenate([a, np.zeros((size - len(a), *a.shape[1:]), a.dtype)])
    cut = lambda start: {name: pad(array[start : start + size]) for name, array in arrays.items()}
    return np.concatenate([function(run.params, cut(start)) for start in range(0, count, size)])[:count]

  return of_all
