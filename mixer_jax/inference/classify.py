"""The predictions of a finished run, and the features behind them."""

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.tasks.task import model_inputs
from mixer_jax.training.experiment import Experiment
from mixer_jax.training.restore import Run

Arrays = dict[str, np.ndarray]


def make_answers(run: Run) -> Callable[[Arrays, int], Arrays]:
  """(raw arrays without labels, size) -> the task's answers for all examples, computed `size` at a time, padded."""
  experiment = run.experiment

  @jax.jit
  def answers(params, batch):
    model = nnx.merge(experiment.graphdef, params)
    return experiment.task.answers(model(*model_inputs(experiment.preprocess(batch))))

  return _in_batches(answers, run)


def check_features(experiment: Experiment) -> None:
  """Refuses a model that does not tell what stands before its head."""
  if not callable(getattr(experiment.model, 'features', None)):
    raise MixerError(
      f'model {experiment.settings.model["name"]} has no method features(*inputs), which gives [batch, width] before'
      ' its head; add it, or take the run of a model that has it'
    )


def features_of(run: Run, raw: Arrays) -> np.ndarray:
  """What a model gives before its head, [examples, width], for raw examples."""
  experiment = run.experiment
  check_features(experiment)

  @jax.jit
  def features(params, batch):
    model = nnx.merge(experiment.graphdef, params)
    return {'features': model.features(*model_inputs(experiment.preprocess(batch)))}

  return _in_batches(features, run)(raw, experiment.settings.eval_batch_size)['features']


def _in_batches(function: Callable, run: Run) -> Callable[[Arrays, int], Arrays]:
  def of_all(arrays, size):
    count = len(next(iter(arrays.values())))
    pad = lambda a: np.concatenate([a, np.zeros((size - len(a), *a.shape[1:]), a.dtype)])
    cut = lambda start: {name: pad(array[start : start + size]) for name, array in arrays.items()}
    parts = [jax.device_get(function(run.params, cut(start))) for start in range(0, count, size)]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}

  return of_all
