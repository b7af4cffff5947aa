"""A config -> all parts of a run, validated before anything is written."""

import contextlib
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import optax
from flax import nnx

from mixer_jax import parts
from mixer_jax.data.inputs import Images, Rows, kind_of
from mixer_jax.errors import MixerError
from mixer_jax.optim import groups
from mixer_jax.optim import sam as sams
from mixer_jax.optim.schedules import Length, steps
from mixer_jax.tasks.task import Task, model_inputs
from mixer_jax.training import mesh as meshes
from mixer_jax.training import step as train_steps
from mixer_jax.training import watch
from mixer_jax.training.settings import Settings, make, read
from mixer_jax.training.state import TrainState, init_state

ANY_LENGTH = Length(10**9, 1.0)  # for runs that are not trained: shapes do not depend on the length


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A config's parts, as every command needs them; holds no parameters and no data."""

  settings: Settings
  data: Images | Rows
  mesh: jax.sharding.Mesh
  model: nnx.Module  # abstract: shapes, no arrays
  task: Task
  preprocess: Callable  # (raw batch, key=None, augmenting=True) -> the model's input batch
  order: tuple[str, ...]  # the model's attributes, in the order in which its constructor sets them

  @property
  def graphdef(self) -> nnx.GraphDef:
    return nnx.split(self.model, nnx.Param)[0]

  @property
  def params(self) -> nnx.State:
    """The abstract parameters."""
    return nnx.state(self.model, nnx.Param)

  @property
  def parameters(self) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(self.params))

  def metrics(self, *, training: bool = False) -> tuple[str, ...]:
    """The names of the task's metrics."""
    loss = lambda params, batch: self.task.loss(
      nnx.merge(self.graphdef, params), self.preprocess(batch), training=training
    )
    return ('loss', *jax.eval_shape(loss, self.params, self.data.batch(1))[1])

  @property
  def best(self) -> str | None:
    """The metric that selects the best checkpoint, on `val`, or on `test` if there is no `val`."""
    split = 'val' if self.data.val else 'test' if self.data.test else None
    return split and f'{split}/{self.task.best}'

  def best_of(self, lines: Sequence[dict[str, float]]) -> dict[str, float]:
    """The log line with the best value, the first of equal ones; {} if no line has one."""
    sign = 1 if self.task.highest else -1
    return max((line for line in lines if self.best in line), key=lambda line: sign * line[self.best], default={})

  @property
  def devices_of_sam(self) -> int:
    """The number of per-device perturbations; 0 for a shared one or none (rho 0)."""
    sam = self.settings.sam
    return 0 if sam.get('sync', True) or sam.get('rho') == 0 else self.mesh.size

  def init_model(self) -> nnx.Module:
    return make_model(self.settings, self.data, self.task)

  def optimizer(self, length: Length = ANY_LENGTH) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer, with update noise and layer-wise rates applied after it and SAM around it, and the schedule."""
    s = self.settings
    schedule = make('schedule', s.schedule, length=length)
    after = []
    if s.update_noise:
      after.append(make('update_noise', s.update_noise, seed=s.seed))
    if s.layers:
      after.append(make('layers', s.layers, params=self.params, order=self.order))
    optimizer = make('optimizer', s.optimizer, schedule=schedule, after=after)
    if s.sam:
      settings = s.sam | ({'sync': True} if not self.devices_of_sam else {})
      known = {'schedule': schedule, 'length': length, 'seed': s.seed}
      known |= {'peak': s.schedule['peak']} if 'peak' in s.schedule else {}
      optimizer = make('sam', settings, base=optimizer, has_loss=True, **known)
    return optimizer if self.frozen is None else groups.freeze(optimizer, self.frozen), schedule

  @functools.cached_property
  def frozen(self) -> nnx.State | None:
    patterns = tuple(self.settings.layers.get('freeze', ()))
    return groups.frozen(self.params, patterns) if patterns else None

  def init_state(
    self, optimizer: optax.GradientTransformation, *, abstract: bool = False, start: Mapping[str, Any] | None = None
  ) -> TrainState:
    """The state before the first step, sharded over the mesh.

    Args:
      abstract: return shapes and shardings only.
      start: arrays that replace the model's own, by dotted names, see warm_start.
    """
    watched = watch.names(self.params) if self.settings.watch else ()
    sam = [f'sam_{name}' for name in sams.Report._fields] if self.settings.sam else []
    names = (*self.metrics(training=True), 'grad_norm', 'steps', 'examples', *sam, *watched)
    ema = self.settings.ema > 0
    first = lambda start: init_state(self.init_model(), optimizer, ema=ema, metrics=names, start=start)
    shapes = meshes.shard(jax.eval_shape(first, {}), self.mesh)
    if abstract:
      return shapes
    return jax.jit(first, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes))(start or {})

  def train_step(self, optimizer: optax.GradientTransformation, length: Length) -> Callable:
    s = self.settings
    until = length.steps(s.augment_until, 'augment_until')
    if until > length.total:
      raise MixerError(
        f"augment_until is {s.augment_until!r}, but the run has {length.total} steps; '100%' is all of it"
      )
    gradient = train_steps.make_gradient(self.graphdef, self.task, frozen=self.frozen)
    gradient = train_steps.accumulated(gradient, s.accumulate)
    if self.devices_of_sam:
      gradient = train_steps.per_device(gradient, self.devices_of_sam, self.params)
    always = until == length.total
    preprocess = lambda batch, key, step: self.preprocess(batch, key, True if always else step < until)
    return train_steps.make_train_step(gradient, optimizer, preprocess, seed=s.seed, ema=s.ema, measure=self._measure)

  def _measure(self, before, after, grads, updates, opt_state) -> dict[str, jax.Array]:
    """The numbers that are summed between log lines, in addition to the task's metrics."""
    if self.devices_of_sam:
      grads = jax.tree.map(lambda g: g.mean(axis=0), grads)
    numbers = {'grad_norm': optax.tree.norm(grads)}
    numbers |= sams.measures(opt_state) if self.settings.sam else {}
    return numbers | (watch.numbers(before, after, grads, updates) if self.settings.watch else {})

  def eval_loop(self) -> Callable:
    eval_step = train_steps.make_eval_step(self.graphdef, self.task, self.preprocess)
    outputs = math.prod(self.task.outputs) if self.task.report else 0
    return train_steps.make_eval_loop(eval_step, self.metrics(), meshes.over_batch(self.mesh), outputs=outputs)

  def alarm(self) -> watch.Alarm | None:
    """A new alarm; None if nothing is watched."""
    return make('watch', self.settings.watch) if self.settings.watch else None

  def length(self, examples: int) -> Length:
    """The run's length on a training set of this size."""
    epoch = examples / self.settings.batch_size
    return Length(steps(self.settings.total, 'total', epoch=epoch), epoch)


def build(config: Mapping[str, Any], *, data_dir: str | None = None, schema: Any = None) -> Experiment:
  """Builds and validates a config's parts.

  Args:
    data_dir: the data directory; for tables, the training rows are read to fit the schema.
    schema: the fitted schema of a trained run, so that no data are read.

  Raises:
    MixerError: a mistake in the config, with the name of its key.
  """
  settings = read(config)
  data = parts.call(kind_of(settings.data['name']), settings.data, 'data', schema=None)
  data = data.with_schema(data.fit(data_dir) if schema is None else schema)
  if settings.ema and settings.optimizer.get('name') == 'schedule_free':
    raise MixerError(f'ema is {settings.ema}, but schedule_free keeps its own average; set ema to 0')
  mesh = make('mesh', settings.mesh)
  meshes.check_batch('batch_size', settings.batch_size, mesh, settings.accumulate)
  meshes.check_batch('eval_batch_size', settings.eval_batch_size, mesh)
  make('init_from', settings.init_from)
  task = make('task', settings.task, **data.for_task)
  order: list[str] = []  # eval_shape sorts them

  def made():
    model = make_model(settings, data, task)
    order[:] = vars(model)
    return model

  with _explained(settings.model['name']):
    model = nnx.eval_shape(made)
  _check_model(model, settings.model['name'])
  preprocess = data.make_preprocess(settings.augment, settings.batch_size)
  experiment = Experiment(settings, data, mesh, model, task, preprocess, tuple(order))
  with _explained(settings.model['name']):
    shape = _output_shape(experiment)
  task.check(model, settings.model['name'], shape)
  experiment.optimizer()
  experiment.alarm()
  steps(settings.total, 'total', epoch=1.0)
  steps(settings.augment_until, 'augment_until', epoch=1.0, total=10**9)
  if not settings.augment and settings.augment_until != '100%':
    raise MixerError(f"augment_until is {settings.augment_until!r}, but augment is empty; set augment_until to '100%'")
  return experiment


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
  """What a model raises when it is built or called, as an error that names it."""
  try:
    yield
  except MixerError:
    raise
  except Exception as error:
    reason = f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
    raise MixerError(f'model {name!r} fails on data of these shapes: {reason}; --debug shows where') from error


def _check_model(model: nnx.Module, name: str) -> None:
  """Refuses a model with other state than parameters, or whose call takes no `rngs`."""
  takes = inspect.signature(type(model).__call__).parameters
  if 'rngs' not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
    raise MixerError(f'the call of model {name!r} takes no rngs; add them: def __call__(self, x, *, rngs=None)')
  for path, leaf in nnx.to_flat_state(nnx.state(model)):
    if not isinstance(leaf, nnx.Param):
      raise MixerError(
        f'model {name!r} keeps {type(leaf).__name__} in {".".join(map(str, path))}, but a model holds parameters alone:'
        ' give rngs to the call of nnx.Dropout, not to its constructor, and use nnx.LayerNorm for nnx.BatchNorm'
      )


def _output_shape(experiment: Experiment) -> tuple[int, ...]:
  graphdef, params = nnx.split(experiment.model, nnx.Param)
  run = lambda params, batch: nnx.merge(graphdef, params)(*model_inputs(experiment.preprocess(batch)))
  return jax.eval_shape(run, params, experiment.data.batch(1)).shape[1:]


def make_model(settings: Settings, data: Images | Rows, task: Task) -> nnx.Module:
  """The model with as many outputs as the task needs, initialised from the seed."""
  rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(settings.seed), 2**31))
  outputs = math.prod(task.outputs)
  return make('model', settings.model, **{**data.for_model, 'classes': outputs, 'outputs': outputs, 'rngs': rngs})
