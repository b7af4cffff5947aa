"""config.init_from: a new run starts from the weights of another run, a file, a model folder or an address.

That is not how a run is resumed or evaluated: training/restore opens a run as it was, head included.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixer_jax.config import plain
from mixer_jax.errors import MixerError
from mixer_jax.files import write_json
from mixer_jax.messages import logger
from mixer_jax.models import params as names
from mixer_jax.training import experiment as experiments
from mixer_jax.training import restore
from mixer_jax.weights import fitting, reading, remote


class Start(NamedTuple):
  """What a run starts from: arrays by dotted names that replace the model's own, and where they came from."""

  arrays: dict[str, np.ndarray]
  about: dict[str, Any] | None


def read(address: str, checkpoint: str = 'last') -> reading.Weights:
  """Weights of anything that holds some.

  Raises:
    MixerError: nothing there, or nothing that can be read; a checkpoint of what is no run.
  """
  path = Path(address).expanduser()
  if not remote.is_address(address) and (path / 'checkpoints').is_dir():
    return of_run(path, checkpoint)
  if checkpoint != 'last':
    raise MixerError(f'{address} is no run, so it has no checkpoint {checkpoint!r}; leave that out')
  if not remote.is_address(address) and not path.exists():
    near = sorted(p.name for p in path.parent.glob('*'))[:12] if path.parent.is_dir() else []
    known = f'; {path.parent} has {", ".join(near)}' if near else ''
    raise MixerError(f'{address} is no run directory, no file and no model folder{known}')
  return reading.read(address)


def of_run(folder: Path, checkpoint: str = 'last') -> reading.Weights:
  """A run as weights: the averaged ones where it kept an average."""
  run = restore.restore(folder, step=checkpoint)
  experiment = run.experiment
  return reading.Weights(
    arrays=names.arrays(run.params), model=dict(experiment.settings.model), data=_data_of(experiment),
    labels=list(run.classes), schema=_plain_schema(experiment), source=str(folder), kind='run',
    notes=(f'step {run.step} of the run' + (', averaged parameters' if run.averaged else ''),),
  )  # fmt: skip


def start(experiment: experiments.Experiment, classes: Sequence[str]) -> Start:
  """What a run starts from; without weights in config.init_from, the model's own parameters.

  Raises:
    MixerError: as `read` and fitting.fit.
  """
  settings = experiment.settings
  if not settings.init_from['weights']:
    return Start({}, None)
  init_from = fitting.InitFrom(**settings.init_from)
  weights = read(init_from.weights, init_from.checkpoint)
  if weights.schema != _plain_schema(experiment):
    raise MixerError(
      f'{weights.source} is of a table of another schema (columns, categories, scaling): its numbers would mean'
      ' something else here; give the run the same training rows'
    )
  arrays, notes = fitting.fit(
    weights, experiment.params, settings.model, _data_of(experiment), init_from, list(classes)
  )
  return Start(arrays, {'weights': weights.source, 'kind': weights.kind, 'sha256': weights.sha256, 'notes': notes})


def record(folder: Path, about: dict[str, Any]) -> None:
  """Keeps where a run's first weights came from in init_from.json, and logs it."""
  write_json(folder / 'init_from.json', about)
  notes = ''.join(f'\n  {note}' for note in about['notes'])
  logger.info(f'init_from {about["weights"]} ({about["kind"]}){notes}')


def network_of(address: str) -> dict[str, Any]:
  """The model in weights of any kind: `model` as in config.model, `image`, `mean` and `std` as in config.data.

  For configs that start from weights. `mean` and `std` are None where they are not known.

  Raises:
    MixerError: weights that cannot be read, or of a model that does not take images.
  """
  weights = read(address)
  if weights.schema is not None:
    raise MixerError(f'{address} is a {weights.model["name"]} of a table; this takes a model of images')
  data = {key: weights.data.get(key) and tuple(weights.data[key]) for key in ('mean', 'std')}
  return {'model': dict(weights.model), 'image': weights.image, **data}


def _data_of(experiment: experiments.Experiment) -> dict[str, Any]:
  """What belongs to weights of config.data, every channel with a mean and a deviation of its own."""
  fields = {field.name for field in dataclasses.fields(experiment.data)}
  return {key: plain(getattr(experiment.data, key)) for key in ('image', 'classes', 'mean', 'std') if key in fields}


def _plain_schema(experiment: experiments.Experiment) -> dict | None:
  """The schema of a table's columns as JSON has it; None for images."""
  schema = experiment.data.schema
  return None if schema is None else json.loads(json.dumps(schema.to_json()))
