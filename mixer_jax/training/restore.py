"""A run directory -> the model that was trained there, on whatever devices are here."""

import sys
from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx

from mixer_jax.data.examples import Source
from mixer_jax.data.tables.schema import Schema
from mixer_jax.errors import MixerError
from mixer_jax.optim.schedules import Length
from mixer_jax.training import experiment as experiments
from mixer_jax.training import state as states
from mixer_jax.training.checkpoints import Checkpoints
from mixer_jax.training.logging import read_metrics
from mixer_jax.training.workdir import check_classes, read_config, read_json
from mixer_jax.weights.reading import is_model_folder


class Run(NamedTuple):
  """`params` are `averaged` when the run kept an average; `classes` are the labels' names."""

  experiment: experiments.Experiment
  params: nnx.State
  averaged: bool
  step: int
  classes: list[str]


def restore(workdir: str | Path, *, step: str = 'last', raw: bool = False, exact: bool = False) -> Run:
  """Rebuilds a run's model from its config.json and loads a checkpoint.

  Args:
    step: `last`, `best` (by the metric that the run kept it for) or a number.
    raw: the parameters that were trained, also where the run kept an average of them.
    exact: compute in float32, also where the model was trained in another dtype.

  Raises:
    MixerError: no run directory, no such checkpoint, none that can be read.
  """
  workdir = Path(workdir)
  if is_model_folder(workdir):
    raise MixerError(
      f'{workdir} is a model folder, which is no run; start one from it with --config.init_from.weights={workdir}'
    )
  config = read_config(workdir)
  if exact and 'dtype' in config.get('model', {}):
    config['model']['dtype'] = 'float32'
  # What the devices of the training divided, those here may not: nothing is trained, and evaluation batches may grow.
  devices = jax.device_count()
  evaluated = -(-config.get('eval_batch_size', 1) // devices) * devices
  here = {'mesh': {'data': -1, 'fsdp': 1}, 'batch_size': devices, 'accumulate': 1, 'eval_batch_size': evaluated}
  schema = workdir / 'schema.json'
  schema = Schema.from_json(read_json(schema)) if schema.exists() else None
  experiment = experiments.build(config | here, schema=schema)
  shapes = experiment.init_state(experiment.optimizer(Length(10**9, 1.0))[0], abstract=True)
  if not (workdir / 'checkpoints').is_dir():
    raise MixerError(f'{workdir} has no checkpoints; train there first')
  checkpoints = Checkpoints(workdir, read_only=True)
  if step == 'last':
    state = checkpoints.restore_last(shapes, set_aside=False)
  else:
    steps = checkpoints.steps()
    if step == 'best':
      wanted = experiment.best_of([line for line in read_metrics(workdir) if line['step'] in steps]).get('step')
    else:
      wanted = int(step) if step.isdecimal() else None
    if wanted not in steps:
      raise MixerError(f'{workdir} has no checkpoint {step!r}; it has last, best and the steps {steps}')
    state = checkpoints.restore(shapes, wanted)
  if state is None:
    raise MixerError(f'{workdir} has no checkpoint yet; train there first')
  found = states.evaluated(state)
  averaged = 'raw_' in found and not raw
  params = found.get('raw_', found['']) if raw else found['']
  return Run(experiment, params, averaged, int(state.step), read_json(workdir / 'labels.json'))


def open_split(run: Run, workdir: str | Path, split: str, data_dir: str | None) -> tuple[str, Source]:
  """A split for a run, `train`, `val` and `test` as its config has them, and what it is called in full.

  What the data have to say goes to stderr.

  Raises:
    MixerError: no such split, or data of other classes than those of the run.
  """
  data = run.experiment.data
  split = (split in ('train', 'val', 'test') and getattr(data, split)) or split
  source = data.source(split, data_dir)
  for note in source.notes:
    print(note, file=sys.stderr)
  check_classes(Path(workdir), run.classes, source.classes)
  return split, source
