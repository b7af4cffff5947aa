"""The keys of a config, and its resolution: every key of every part that it names, with its value."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from flax import nnx

from mixer_jax import models, parts
from mixer_jax.config import plain
from mixer_jax.data import inputs, own
from mixer_jax.data.augment import AUGMENTATIONS
from mixer_jax.errors import MixerError
from mixer_jax.messages import logger
from mixer_jax.models import MODELS
from mixer_jax.optim import groups
from mixer_jax.optim.optimizers import OPTIMIZERS, noise
from mixer_jax.optim.sam import SAMS
from mixer_jax.optim.schedules import SCHEDULES
from mixer_jax.ranges import COUNTED, Count, Rate, Seed
from mixer_jax.tasks import TASKS
from mixer_jax.tasks.task import Task
from mixer_jax.training import mesh, watch
from mixer_jax.weights.fitting import InitFrom


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The keys of a config, explained in the README.

  `eval_batch_size` None means `batch_size`. {} turns off `sam`, `update_noise`, `layers` and `watch`.
  """

  seed: Seed = 0
  total: str
  batch_size: Count
  eval_batch_size: Annotated[int | None, COUNTED] = None
  accumulate: Count = 1
  ema: Rate = 0.0
  model: dict
  task: dict = dataclasses.field(default_factory=dict)
  data: dict
  augment: dict = dataclasses.field(default_factory=dict)
  augment_until: str = '100%'
  optimizer: dict = dataclasses.field(default_factory=dict)
  schedule: dict
  init_from: dict = dataclasses.field(default_factory=dict)
  sam: dict = dataclasses.field(default_factory=dict)
  update_noise: dict = dataclasses.field(default_factory=dict)
  layers: dict = dataclasses.field(default_factory=dict)
  mesh: dict = dataclasses.field(default_factory=dict)
  watch: dict = dataclasses.field(default_factory=dict)
  log_every: str = '1%'
  eval_every: str = '10%'
  checkpoint_every: str = '10%'


def _module(model: Callable, name: str, what: str) -> Callable:
  if not inspect.isclass(model) or not issubclass(model, nnx.Module):
    raise MixerError(f'{what} is {name!r}, but a model must be a subclass of flax.nnx.Module')
  return model


def _task(task: Callable, name: str, what: str) -> Callable:
  if not inspect.isclass(task) or not issubclass(task, Task):
    raise MixerError(f'{what} is {name!r}, but a task must be a subclass of mixer_jax.tasks.task.Task')
  return task


# Parts that are selected by name. `context` lists the arguments that a run supplies, which are never settings.
KINDS = {
  'model': parts.Table(
    MODELS, context=('image', 'classes', 'columns', 'vocabularies', 'outputs', 'rngs'), adapt=_module
  ),
  'task': parts.Table(TASKS, context=('classes', 'inputs', 'image', 'mean', 'std'), adapt=_task),
  'augment': parts.Table(AUGMENTATIONS, context=('features', 'classes')),
  'optimizer': OPTIMIZERS,
  'schedule': SCHEDULES,
  'sam': SAMS,
}
# Parts without a name, with their context.
FUNCTIONS = {
  'update_noise': (noise, ('seed',)),
  'layers': (groups.scale, ('params', 'order')),
  'watch': (watch.Alarm, ()),
  'mesh': (mesh.make_mesh, ()),
  'init_from': (InitFrom, ()),
}
NAMED = ('model', 'task', 'optimizer', 'schedule', 'sam')  # sections that select one part by name
NAMES = {'task': 'classification', 'optimizer': 'adamw', 'sam': 'sam'}  # default names
NONE = ('sam', 'update_noise', 'layers', 'watch')  # sections that {} turns off


def read(config: Mapping[str, Any]) -> Settings:
  """The settings of a config, resolved or not."""
  return Settings(**resolve(config))


def resolve(config: Mapping[str, Any], notes: list[str] | None = None) -> dict[str, Any]:
  """The complete config as plain JSON: every key of every part that it names, validated, with defaults. Idempotent.

  Args:
    config: as config.load returns it; values from the command line are parsed here.
    notes: collects a line for each setting that is dropped because the command line names another part; None to log
      warnings instead.

  Raises:
    parts.Missing: the config lacks keys; lists all of them.
    MixerError: an unknown name or key, or a value of another type.
  """
  dropped: list[str] = []
  missing: list[str] = []

  def attempt(function: Callable, *arguments: Any) -> Any:
    try:
      return function(*arguments)
    except parts.Missing as error:
      missing.extend(error.keys)
      return None

  config = {k: {'name': v} if isinstance(v, str) and k in (*NAMED, 'data') else v for k, v in config.items()}
  config = {field.name: {} for field in dataclasses.fields(Settings) if field.type is dict} | config
  result = attempt(parts.resolve, Settings, config, 'config') or config
  result['data'] = attempt(_resolve_data, result['data'], dropped)
  for kind in NAMED:
    section = result[kind]
    if section or kind not in NONE:
      section = section if 'name' in section or kind not in NAMES else {'name': NAMES[kind], **section}
      result[kind] = attempt(parts.resolve_named, KINDS[kind], section, kind, (), dropped)
  augment = result['augment']
  result['augment'] = {name: attempt(_resolve_augment, name, part, dropped) for name, part in augment.items()}
  for name, (function, context) in FUNCTIONS.items():
    if result[name] or name not in NONE:
      result[name] = attempt(parts.resolve, function, result[name], name, context, dropped)
  if missing:
    raise parts.Missing(missing)
  if result['eval_batch_size'] is None:
    result['eval_batch_size'] = result['batch_size']
  if notes is not None:
    notes += dropped
  else:
    for line in dropped:
      logger.warning(line)
  return {field.name: plain(result[field.name]) for field in dataclasses.fields(Settings)}


def _resolve_data(settings: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
  name = settings.get('name')
  if name is None:
    raise parts.Missing(['data.name (a data set, or module:function)'])
  if not isinstance(name, str):
    raise MixerError(f'data.name is {name!r}, but must name a data set')
  kind = inputs.kind_of(str(name))
  implied = inputs.defaults(str(name))
  if isinstance(name, parts.Text):
    takes = {*parts.parameters(kind)} - {'schema'}
    settings = parts.without_leftovers(settings, takes, f'data {str(name)!r}', notes)
  return parts.resolve(kind, {**implied, **settings}, 'data', ('schema',))


def _resolve_augment(name: str, settings: Any, notes: list[str]) -> dict[str, Any]:
  if not isinstance(settings, Mapping):
    raise MixerError(f"augment.{name} is {settings!r}, but must be a dict of settings, {{'setting': value}}")
  table = KINDS['augment']
  return parts.resolve(parts.find(name, table, 'augment'), settings, f'augment.{name}', table.context, notes)


def make(kind: str, settings: Mapping[str, Any], **given: Any) -> Any:
  """Builds a part of KINDS or FUNCTIONS, passing those of the `given` arguments that it takes.

  Raises:
    MixerError: the part needs an argument that is not given, such as a table's columns where the data are images.
  """
  try:
    if kind in FUNCTIONS:
      function, context = FUNCTIONS[kind]
      return parts.call(function, settings, kind, context=context, **given)
    return parts.named(KINDS[kind], settings, kind, **given)
  except parts.Lacking as error:
    of, other = ('a table', 'images') if {'columns', 'vocabularies'} & {*error.keys} else ('images', 'a table')
    if kind not in ('model', 'task'):
      raise
    raise MixerError(
      f'{kind} {settings["name"]!r} needs {of} ({", ".join(error.keys)}), but config.data gives {other}; set'
      f' {kind}.name or data.name'
    ) from error


def outside_names(config: Mapping[str, Any]) -> list[str]:
  """The names in a resolved config that refer to the user's own modules."""
  data, model = config['data'], config['model']
  found = [config[kind].get('name', '') for kind in NAMED] + list(config['augment']) + [data.get('scaling', '')]
  found += [part['name'] for part in model.values() if isinstance(part, Mapping) and 'name' in part]
  found += [data['name']] if own.is_function(data['name']) else []
  return [name for name in found if parts.NAME.fullmatch(name)]


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
  """Converts the config.json of an earlier version to today's keys: same network, same training."""
  config = plain(config)
  config['model'] = models.upgrade(config.get('model', {}))
  augment = config.get('augment', {})
  if 'noise' in augment and config['task'].get('name') == 'reconstruction':
    config['task']['noise'] = augment.pop('noise')['deviation']
    config |= {} if augment else {'augment_until': '100%'}
  return config
