"""config.init_from: a new run starts from the weights of another run, a file, a model folder or an address.

That is not how a run is resumed or evaluated: training/restore opens a run as it was, head included.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models import params as network
from mixer_jax.training import experiment as experiments
from mixer_jax.training import restore
from mixer_jax.weights import fitting, reading, remote


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


def of_run(workdir: Path, checkpoint: str = 'last') -> reading.Weights:
  """A run as weights: the averaged ones where it kept an average."""
  run = restore.restore(workdir, step=checkpoint)
  settings, schema = run.experiment.settings, getattr(run.experiment.data, 'schema', None)
  data = {key: settings.data[key] for key in ('image', 'classes', 'mean', 'std') if key in settings.data}
  return reading.Weights(
    arrays=network.arrays(run.params), model=dict(settings.model), data=data, labels=list(run.classes),
    schema=None if schema is None else json.loads(json.dumps(schema.to_json())), source=str(workdir), kind='run',
    notes=(f'step {run.step} of the run' + (', averaged parameters' if run.averaged else ''),),
  )  # fmt: skip


def start(experiment: experiments.Experiment, classes: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """What a run starts from: arrays by dotted names, and what is told of them, as summary.json has it.

  Raises:
    MixerError: as `read` and fitting.fit.
  """
  settings = experiment.settings
  init_from = fitting.InitFrom(**settings.init_from)
  weights = read(init_from.weights, init_from.checkpoint)
  params = nnx.state(experiment.model, nnx.Param)
  schema = getattr(experiment.data, 'schema', None)
  if weights.schema != (None if schema is None else json.loads(json.dumps(schema.to_json()))):
    raise MixerError(
      f'{weights.source} is of a table of another schema (columns, categories, scaling): its numbers would mean'
      ' something else here; give the run the same training rows'
    )
  arrays, told = fitting.fit(weights, params, settings.model, settings.data, init_from, list(classes))
  return arrays, {'weights': weights.source, 'kind': weights.kind, 'sha256': weights.sha256, 'told': told}


def network_of(address: str) -> dict[str, Any]:
  """The Mixer in weights of any kind: `model` as in config.model, `image`, `mean` and `std` as in config.data.

  For configs that start from weights. `mean` and `std` are None where they are not known.

  Raises:
    MixerError: weights that cannot be read, or of something else than a Mixer of images.
  """
  weights = read(address)
  if not weights.is_mixer:
    raise MixerError(f'{address} is a {weights.model["name"]}; this takes a Mixer of images')
  data = {key: weights.data.get(key) and tuple(weights.data[key]) for key in ('mean', 'std')}
  return {'model': dict(weights.model), 'image': weights.image, **data}
