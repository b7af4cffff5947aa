"""What a run minimised, as a function of its parameters alone, and some of the examples that it is a mean over."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from mixer_jax.data import loader
from mixer_jax.data.examples import Source, stack
from mixer_jax.errors import MixerError
from mixer_jax.training import mesh as meshes
from mixer_jax.training.experiment import Experiment


def make_losses(experiment: Experiment) -> Callable:
  """(params, raw batch) -> the training loss of each example, [batch], float32.

  As trained, so with label smoothing and weights of classes, but without what is random: dropout, stochastic depth and
  augmentation. Weight decay acts in the optimizer and is no part of it.
  """
  graphdef, task = experiment.graphdef, experiment.task

  def losses(params, batch):
    return task.loss(nnx.merge(graphdef, params), experiment.preprocess(batch), training=True)[0]

  return losses


def stack_examples(
  experiment: Experiment, source: Source, count: int, batch_size: int | None = None
) -> dict[str, jax.Array]:
  """Examples on the devices, each array [batches, batch, ...], with a `mask` that is 0 where the last one is padded.

  They are the first `count` in a fixed random order, since some sources are sorted by class. The batch size is that of
  evaluation by default, and made larger where the devices do not divide it.
  """
  batch_size = experiment.settings.eval_batch_size if batch_size is None else batch_size
  for what, value in (('examples', count), ('batch_size', batch_size)):
    if value < 1:
      raise MixerError(f'--{what} is {value}, but must be at least 1')
  order = loader.permutation(0, 0, len(source))[:count]
  devices = experiment.mesh.size
  size = -(-min(batch_size, len(order)) // devices) * devices
  parts = [loader.rows_of_eval(i, size, len(order)) for i in range(-(-len(order) // size))]
  rows, mask = (np.stack(part) for part in zip(*parts, strict=True))
  arrays = {name: array[rows] for name, array in stack([source[int(row)] for row in order]).items()}
  cut = jax.sharding.PartitionSpec(None, *meshes.over_batch(experiment.mesh).spec)
  return jax.device_put(arrays | {'mask': mask}, jax.sharding.NamedSharding(experiment.mesh, cut))
