"""A run directory -> its trained model, on the devices at hand."""

from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx

from mixer_jax.data.examples import Source
from mixer_jax.data.tables.schema import Schema
from mixer_jax.errors import MixerError
from mixer_jax.files import read_json
from mixer_jax.messages import logger
from mixer_jax.training import experiment as experiments
from mixer_jax.training import state as states
from mixer_jax.training.checkpoints import Checkpoints
from mixer_jax.training.log import read_metrics
from mixer_jax.training.workdir import check_classes, read_config, read_labels
from mixer_jax.weights.reading import is_model_folder


class Run(NamedTuple):
  """`averaged` tells whether `params` are an average over training; `classes` are the labels' names."""

  experiment: experiments.Experiment
  params: nnx.State
  averaged: bool
  step: int
  classes: list[str]

  @property
  def labels(self) -> list[str] | None:
    """The names of what the outputs stand for; None of an auto-encoder, whose outputs are pixels."""
    return None if self.experiment.task.has_code else self.classes


def restore(folder: str | Path, *, step: str = 'last', raw: bool = False, exact: bool = False) -> Run:
  """Rebuilds a run's model from its config.json and loads a checkpoint.

  Args:
    step: `last`, `best` (by the run's selection metric) or a number.
    raw: load the trained parameters even if the run kept an average.
    exact: compute in float32 even if the model was trained in another dtype.

  Raises:
    MixerError: no run directory, no such checkpoint, or none that is readable.
  """
  folder = Path(folder)
  experiment = rebuild(folder, exact=exact)
  shapes = experiment.init_state(experiment.optimizer()[0], abstract=True)
  if not (folder / 'checkpoints').is_dir():
    raise MixerError(f'{folder} has no checkpoints; train there first')
  checkpoints = Checkpoints(folder, read_only=True)
  if step == 'last':
    state = checkpoints.restore_last(shapes, set_aside=False)
  else:
    steps = checkpoints.steps()
    if step == 'best':
      wanted = experiment.best_of([line for line in read_metrics(folder) if line['step'] in steps]).get('step')
    else:
      wanted = int(step) if step.isdecimal() else None
    if wanted not in steps:
      raise MixerError(f'{folder} has no checkpoint {step!r}; it has last, best and the steps {steps}')
    state = checkpoints.restore(shapes, wanted)
  if state is None:
    raise MixerError(f'{folder} has no checkpoint yet; train there first')
  found = states.evaluated(state)
  averaged = 'raw_' in found and not raw
  params = found.get('raw_', found['']) if raw else found['']
  return Run(experiment, params, averaged, int(state.step), read_labels(folder))


def rebuild(folder: str | Path, *, exact: bool = False) -> experiments.Experiment:
  """A run's parts by its config.json, for the devices at hand, without its parameters; raises as `restore`."""
  folder = Path(folder)
  if is_model_folder(folder):
    raise MixerError(
      f'{folder} is a model folder, not a run; start a run from it with --config.init_from.weights={folder}'
    )
  config = read_config(folder)
  if exact and 'dtype' in config['model']:
    config['model']['dtype'] = 'float32'
  # These devices may not divide the run's batch sizes. Nothing is trained here, and evaluation batches may grow.
  devices = jax.device_count()
  evaluated = -(-config['eval_batch_size'] // devices) * devices
  here = {'mesh': {'data': -1, 'fsdp': 1}, 'batch_size': devices, 'accumulate': 1, 'eval_batch_size': evaluated}
  schema = folder / 'schema.json'
  schema = Schema.from_json(read_json(schema)) if schema.exists() else None
  return experiments.build(config | here, schema=schema)


def open_split(run: Run, folder: str | Path, split: str, data_dir: str | None) -> tuple[str, Source]:
  """The full name and the source of a split, where `train`, `val` and `test` are those of the run's config.

  Raises:
    MixerError: no such split, or its classes differ from the run's.
  """
  data = run.experiment.data
  own = {name: of_run for name in ('train', 'val', 'test') if (of_run := getattr(data, name))}
  try:
    source = data.source(own.get(split, split), data_dir)
  except MixerError as error:
    if split in own:
      raise
    known = ', '.join(name if name == of_run else f'{name}, which is {of_run}' for name, of_run in own.items())
    raise MixerError(f'{error} The run {folder} itself has: {known}.') from error
  split = own.get(split, split)
  for note in source.notes:
    logger.info(note)
  check_classes(Path(folder), source.classes)
  return split, source
