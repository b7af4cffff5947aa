"""config.init_from: starts a new run from the weights of another run, a file, a model folder or an address.

To resume or evaluate a run, see training/restore, which loads it unchanged, head included.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixer_jax import parts
from mixer_jax.config import plain
from mixer_jax.data.tables.schema import Schema
from mixer_jax.errors import MixerError
from mixer_jax.files import write_json
from mixer_jax.messages import logger
from mixer_jax.models import params as names
from mixer_jax.training import experiment as experiments
from mixer_jax.training import restore
from mixer_jax.training.settings import KINDS
from mixer_jax.weights import fitting, reading, remote


class Start(NamedTuple):
  """Initial weights: arrays by dotted names that replace the model's own, and their origin."""

  arrays: dict[str, np.ndarray]
  about: dict[str, Any] | None


def read(address: str, checkpoint: str = 'last') -> reading.Weights:
  """Reads weights from a run, a file, a model folder or an address.

  Raises:
    MixerError: nothing readable there, or `checkpoint` is set for something other than a run.
  """
  path = Path(remote.split(address)[0]).expanduser()
  if not remote.is_address(address) and (path / 'checkpoints').is_dir():
    return of_run(path, checkpoint)
  if checkpoint != 'last':
    raise MixerError(f'{address} is no run, so it has no checkpoint {checkpoint!r}; leave that out')
  if not remote.is_address(address) and not path.exists():
    near = sorted(p.name for p in path.parent.glob('*'))[:12] if path.parent.is_dir() else []
    known = f'; {path.parent} has {", ".join(near)}' if near else ''
    raise MixerError(f'{address} is no run directory, no file and no model folder{known}')
  weights = reading.read(address)
  parts.find(weights.model['name'], KINDS['model'], f'the model of {address}')  # refuses what is no model
  return weights


def of_run(folder: Path, checkpoint: str = 'last') -> reading.Weights:
  """A run's weights, averaged if it kept an average."""
  run = restore.restore(folder, step=checkpoint)
  experiment = run.experiment
  data = _data_of(experiment)
  if run.labels is None:
    data.pop('classes')
  return reading.Weights(
    arrays=names.arrays(run.params), model=dict(experiment.settings.model), data=data,
    labels=run.labels, schema=_plain_schema(experiment), source=str(folder), kind='run',
    notes=(f'step {run.step} of the run' + (', averaged parameters' if run.averaged else ''),),
  )  # fmt: skip


def start(experiment: experiments.Experiment, classes: Sequence[str]) -> Start:
  """The run's initial weights; empty without config.init_from.weights. Raises as `read` and fitting.fit."""
  settings = experiment.settings
  if not settings.init_from['weights']:
    return Start({}, None)
  init_from = fitting.InitFrom(**settings.init_from)
  weights = read(init_from.weights, init_from.checkpoint)
  # Through Schema, which completes those of earlier versions.
  given = None if weights.schema is None else Schema.from_json(weights.schema).to_json()
  if given != (experiment.data.schema and experiment.data.schema.to_json()):
    raise MixerError(
      f'{weights.source} is of a table of another schema (columns, categories, scaling), so its weights do not apply'
      ' here; give the run the same training rows'
    )
  arrays, notes = fitting.fit(
    weights, experiment.params, settings.model, _data_of(experiment), init_from, list(classes)
  )
  return Start(arrays, {'weights': weights.source, 'kind': weights.kind, 'sha256': weights.sha256, 'notes': notes})


def record(folder: Path, about: dict[str, Any]) -> None:
  """Logs the origin of the initial weights and writes it to init_from.json."""
  write_json(folder / 'init_from.json', about)
  notes = ''.join(f'\n  {note}' for note in about['notes'])
  logger.info(f'init_from {about["weights"]} ({about["kind"]}){notes}')


def network_of(address: str) -> dict[str, Any]:
  """The model of given weights, for configs that start from them.

  Returns:
    `model` as in config.model; `image`, `mean` and `std` as in config.data, the latter two None if unknown; `body`,
    the names of all but the head.

  Raises:
    MixerError: the weights are unreadable, or the model does not take images.
  """
  weights = read(address)
  if weights.schema is not None:
    raise MixerError(f'{address} is a {weights.model["name"]} for tables; this needs a model for images')
  data = {key: weights.data.get(key) and tuple(weights.data[key]) for key in ('mean', 'std')}
  body = dict.fromkeys(name.partition('.')[0] for name in weights.arrays)
  body = tuple(name for name in body if not name.startswith('head'))
  return {'model': dict(weights.model), 'image': weights.image, 'body': body, **data}


def _data_of(experiment: experiments.Experiment) -> dict[str, Any]:
  """The fields of config.data that belong to weights, with a mean and a deviation per channel."""
  fields = {field.name for field in dataclasses.fields(experiment.data)}
  return {key: plain(getattr(experiment.data, key)) for key in ('image', 'classes', 'mean', 'std') if key in fields}


def _plain_schema(experiment: experiments.Experiment) -> dict | None:
  """The table's schema as plain JSON; None for images."""
  schema = experiment.data.schema
  return None if schema is None else json.loads(json.dumps(schema.to_json()))
