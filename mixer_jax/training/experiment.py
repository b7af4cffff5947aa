"""A config -> everything that a run is made of, checked before anything is written."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mixer_jax import config as configs
from mixer_jax.data.inputs import Images, Rows, kind_of
from mixer_jax.data.tables.schema import Schema
from mixer_jax.errors import MixerError
from mixer_jax.models import MODELS
from mixer_jax.optim import groups
from mixer_jax.optim.optimizers import OPTIMIZERS, noise
from mixer_jax.optim.sam import SAMS, Report
from mixer_jax.optim.schedules import SCHEDULES, Length, steps
from mixer_jax.training import mesh as meshes
from mixer_jax.training import watch
from mixer_jax.training.state import TrainState, init_state
from mixer_jax.training.step import make_eval_loop, make_eval_step, make_train_step
from mixer_jax.training.tasks import TASKS, Task
from mixer_jax.weights.fitting import InitFrom


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The keys of a config; README explains them one by one."""

  seed: int
  total: str
  batch_size: int
  eval_batch_size: int
  accumulate: int
  ema: float
  model: dict
  task: dict
  data: dict
  augment: dict
  augment_until: str
  optimizer: dict
  schedule: dict
  init_from: dict = dataclasses.field(default_factory=dict)
  sam: dict = dataclasses.field(default_factory=dict)
  update_noise: dict = dataclasses.field(default_factory=dict)
  layers: dict = dataclasses.field(default_factory=dict)
  mesh: dict
  watch: dict
  log_every: str
  eval_every: str
  checkpoint_every: str


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What every door needs of a config; nothing here holds parameters or data."""

  settings: Settings
  data: Images | Rows
  mesh: jax.sharding.Mesh
  model: Any  # abstract: shapes, no arrays
  task: Task
  preprocess: Callable  # (raw batch, key=None, augmenting=True) -> what the model sees

  @property
  def graphdef(self) -> nnx.GraphDef:
    return nnx.split(self.model, nnx.Param)[0]

  @property
  def parameters(self) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.model, nnx.Param)))

  def metrics(self, *, training: bool = False) -> tuple[str, ...]:
    """The names of the task's numbers."""
    prepared = jax.eval_shape(self.preprocess, self.data.batch(1))
    output = jax.ShapeDtypeStruct((1, *self.task.output), jnp.float32)
    return tuple(jax.eval_shape(functools.partial(self.task.scores, training=training), output, prepared))

  @property
  def best(self) -> str | None:
    """The number that chooses the best checkpoint: that of `val`, or of `test` where there is no `val`."""
    split = 'val' if self.data.val else 'test' if self.data.test else None
    return split and f'{split}/{self.task.best}'

  @property
  def has_code(self) -> bool:
    """Whether the model is an auto-encoder, with `encode` and `decode`."""
    return hasattr(self.model, 'encode')

  def best_of(self, lines: Sequence[dict[str, float]]) -> dict[str, float]:
    """The line of the log, of some, with the best value; the first of several; {} where none has one."""
    sign = 1 if self.task.highest else -1
    return max((line for line in lines if self.best in line), key=lambda line: sign * line[self.best], default={})

  @property
  def sam(self) -> dict:
    """Its settings. A rho of 0 is no perturbation of any device, so that `sync` shall change no bit, either."""
    sam = self.settings.sam
    return sam | {'sync': True} if sam.get('rho') == 0 and sam.get('sync') is False else sam

  def init_model(self) -> Any:
    """The model with its first parameters."""
    return make_model(self.settings, self.data, self.task)

  def optimizer(self, length: Length) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """What takes the steps: the optimizer, noise and layers' rates behind it, SAM around it; and the learning rate."""
    s = self.settings
    schedule = configs.named(SCHEDULES, s.schedule, 'schedule', length=length)
    after = []
    if s.update_noise:
      after.append(configs.call(noise, s.update_noise, 'update_noise', seed=s.seed))
    if s.layers:
      after.append(configs.call(groups.scale, s.layers, 'layers', params=nnx.state(self.model, nnx.Param)))
    optimizer = configs.named(OPTIMIZERS, s.optimizer, 'optimizer', schedule=schedule, after=after)
    if s.sam:
      given = {'schedule': schedule, 'peak': s.schedule['peak'], 'length': length, 'seed': s.seed}
      optimizer = configs.named(SAMS, self.sam, 'sam', base=optimizer, has_loss=True, **given)
    return optimizer, schedule

  def init_state(
    self, optimizer: optax.GradientTransformation, *, abstract: bool = False, start: Mapping[str, Any] | None = None
  ) -> TrainState:
    """The state before the first step, laid out over the mesh.

    Args:
      abstract: only its shapes and shardings.
      start: arrays that stand in the place of the model's own, by dotted names, see warm_start.
    """
    watched = watch.names(nnx.state(self.model, nnx.Param)) if self.settings.watch else ()
    sam = [f'sam_{name}' for name in Report._fields] if self.settings.sam else []
    names = (*self.metrics(training=True), 'grad_norm', 'steps', 'examples', *sam, *watched)
    ema = self.settings.ema > 0
    make = lambda start: init_state(self.init_model(), optimizer, ema=ema, metrics=names, start=start)
    shapes = meshes.shard(jax.eval_shape(make, {}), self.mesh)
    if abstract:
      return shapes
    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes))(start or {})

  def train_step(self, optimizer: optax.GradientTransformation, length: Length) -> Callable:
    s = self.settings
    until = length.steps(s.augment_until, 'augment_until')
    if until > length.total:
      raise MixerError(
        f"augment_until is {s.augment_until!r}, but the run has {length.total} steps; '100%' is all of it"
      )
    patterns = s.layers.get('freeze', ())
    return make_train_step(
      self.graphdef, inputs=self.data.inputs, scores=self.task.scores, optimizer=optimizer, prepare=self.preprocess,
      seed=s.seed, ema=s.ema, accumulate=s.accumulate, watched=bool(s.watch),
      augment_until=until if until < length.total else None,
      frozen=groups.frozen(nnx.state(self.model, nnx.Param), tuple(patterns)) if patterns else None,
      shares=0 if self.sam.get('sync', True) else self.mesh.size,
    )  # fmt: skip

  def eval_step(self) -> Callable:
    return make_eval_step(self.graphdef, inputs=self.data.inputs, scores=self.task.scores, prepare=self.preprocess)

  def eval_loop(self) -> Callable:
    logits = math.prod(self.task.output) if self.task.report else 0
    return make_eval_loop(self.eval_step(), self.metrics(), meshes.over_batch(self.mesh), logits=logits)

  def alarm(self) -> watch.Alarm | None:
    """The alarm of the watch before the first line of the log; None when nothing is watched."""
    return configs.call(watch.Alarm, self.settings.watch, 'watch') if self.settings.watch else None

  def length(self, examples: int) -> Length:
    """The run's length on a training set of so many examples."""
    epoch = examples / self.settings.batch_size
    return Length(steps(self.settings.total, 'total', epoch=epoch), epoch)


def read_data(config: Mapping[str, Any], *, schema: Schema | None = None) -> Images | Rows:
  """config.data, checked; `schema` is what a table's training rows taught."""
  settings = configs.call(Settings, config, 'config')
  name = settings.data.get('name')
  if not isinstance(name, str):
    raise MixerError(f'data.name is {name!r}, but must name a data set')
  data = configs.call(kind_of(name), settings.data, 'data', schema=None)
  return data if schema is None else data.with_schema(schema)


def learn_schema(config: Mapping[str, Any], data_dir: str | None) -> Schema | None:
  """What the training rows of a table teach; None for images."""
  return read_data(config).fit(data_dir)


def build(config: Mapping[str, Any], *, schema: Schema | None = None) -> Experiment:
  """Everything of a config that needs no data but, for a table, their schema.

  Raises:
    MixerError: whatever is wrong with the config, by the name of the key.
  """
  settings = configs.call(Settings, config, 'config')
  data = read_data(config, schema=schema)
  if not 0 <= settings.seed < 2**32:
    raise MixerError(f'seed is {settings.seed}, but must be in [0, 2**32)')
  if not 0 <= settings.ema < 1:
    raise MixerError(f'ema is {settings.ema}, but must be in [0, 1), 0 for none')
  if settings.accumulate < 1:
    raise MixerError(f'accumulate is {settings.accumulate}, but must be at least 1')
  if settings.ema and settings.optimizer.get('name') == 'schedule_free':
    raise MixerError(f'ema is {settings.ema}, but schedule_free has an average of its own; set ema to 0')
  mesh = configs.call(meshes.make_mesh, settings.mesh, 'mesh')
  meshes.check_batch('batch_size', settings.batch_size, mesh, settings.accumulate)
  meshes.check_batch('eval_batch_size', settings.eval_batch_size, mesh)
  configs.call(InitFrom, settings.init_from, 'init_from')
  task = configs.named(TASKS, settings.task, 'task', **({'image': None, 'mean': None, 'std': None} | data.for_task))
  model = nnx.eval_shape(lambda: make_model(settings, data, task))
  preprocess = data.make_preprocess(settings.augment, settings.batch_size)
  experiment = Experiment(settings, data, mesh, model, task, preprocess)
  check_output(experiment)
  experiment.optimizer(Length(10**9, 1.0))
  experiment.alarm()
  steps(settings.augment_until, 'augment_until', epoch=1.0, total=10**9)
  if not settings.augment and settings.augment_until != '100%':
    raise MixerError(f"augment_until is {settings.augment_until!r}, but augment is empty; set augment_until to '100%'")
  jax.eval_shape(preprocess, data.batch(1))
  return experiment


def check_output(experiment: Experiment) -> None:
  """Refuses a model that does not give what the task scores, such as logits for an image."""
  s, data = experiment.settings, experiment.data
  graphdef, params = nnx.split(experiment.model, nnx.Param)

  def run(params, batch):
    prepared = experiment.preprocess(batch)
    return nnx.merge(graphdef, params)(*(prepared[name] for name in data.inputs))

  given, wanted = jax.eval_shape(run, params, data.batch(1)).shape[1:], experiment.task.output
  if given != wanted:
    raise MixerError(
      f'model {s.model["name"]} gives numbers of shape {given} for an example, but task {s.task["name"]} takes'
      f' {wanted}; set model.name or task.name'
    )


def make_model(settings: Settings, data: Images | Rows, task: Task) -> Any:
  rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(settings.seed), 2**31))
  context = {**data.for_model, 'outputs': math.prod(task.output), 'rngs': rngs}
  return configs.named(MODELS, settings.model, 'model', **context)
