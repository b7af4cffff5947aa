"""A config -> everything that a run is made of, checked before anything is written."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mixer_jax import config as configs
from mixer_jax.data import augment, sources
from mixer_jax.errors import MixerError
from mixer_jax.models import MODELS
from mixer_jax.optim.optimizers import OPTIMIZERS
from mixer_jax.optim.schedules import SCHEDULES, Length, steps
from mixer_jax.training import mesh as meshes
from mixer_jax.training.state import TrainState, init_state
from mixer_jax.training.step import make_eval_step, make_train_step
from mixer_jax.training.tasks import TASKS


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
  mesh: dict
  log_every: str
  eval_every: str
  checkpoint_every: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """The keys of config.data: which examples, what they look like, how they reach the device."""

  name: str
  train: str
  val: str
  test: str
  image: tuple[int, int, int]
  classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  resident_mib: float
  workers: int

  def source(self, split: str, data_dir: str | None) -> sources.Source:
    return sources.load(self.name, split, image=self.image, classes=self.classes, data_dir=data_dir)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What every door needs of a config; nothing here holds parameters or data."""

  settings: Settings
  data: Data
  mesh: jax.sharding.Mesh
  model: Any  # abstract: shapes, no arrays
  scores: Callable
  prepare: Callable  # (raw batch, key=None, augmenting=True) -> what the model sees

  @property
  def graphdef(self) -> nnx.GraphDef:
    return nnx.split(self.model, nnx.Param)[0]

  @property
  def parameters(self) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.model, nnx.Param)))

  @property
  def metrics(self) -> tuple[str, ...]:
    """The names of the task's numbers."""
    logits = jax.ShapeDtypeStruct((1, self.data.classes), jnp.float32)
    return tuple(jax.eval_shape(self.scores, logits, {'label': jax.ShapeDtypeStruct((1,), jnp.int32)}))

  def batch(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A raw batch, as it reaches the device."""
    image = jax.ShapeDtypeStruct((size, *self.data.image), jnp.uint8)
    return {'image': image, 'label': jax.ShapeDtypeStruct((size,), jnp.int32)}

  def init_model(self) -> Any:
    """The model with its first parameters."""
    return make_model(self.settings, self.data)

  def optimizer(self, length: Length) -> tuple[optax.GradientTransformation, optax.Schedule]:
    schedule = configs.named(SCHEDULES, self.settings.schedule, 'schedule', length=length)
    return configs.named(OPTIMIZERS, self.settings.optimizer, 'optimizer', schedule=schedule), schedule

  def init_state(self, optimizer: optax.GradientTransformation, *, abstract: bool = False) -> TrainState:
    """The state before the first step, laid out over the mesh; abstract: only its shapes and shardings."""
    names = (*self.metrics, 'grad_norm', 'steps', 'examples')
    make = lambda: init_state(self.init_model(), optimizer, ema=self.settings.ema > 0, metrics=names)
    shapes = meshes.shard(jax.eval_shape(make), self.mesh)
    if abstract:
      return shapes
    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes))()

  def train_step(self, optimizer: optax.GradientTransformation, length: Length) -> Callable:
    s = self.settings
    until = length.steps(s.augment_until, 'augment_until')
    return make_train_step(
      self.graphdef, scores=self.scores, optimizer=optimizer, prepare=self.prepare, seed=s.seed, ema=s.ema,
      accumulate=s.accumulate, augment_until=until if until < length.total else None,
    )  # fmt: skip

  def eval_step(self) -> Callable:
    return make_eval_step(self.graphdef, scores=self.scores, prepare=self.prepare)

  def length(self, examples: int) -> Length:
    """The run's length on a training set of so many examples."""
    epoch = examples / self.settings.batch_size
    return Length(steps(self.settings.total, 'total', epoch=epoch), epoch)


def build(config: Mapping[str, Any]) -> Experiment:
  """Everything of a config that needs no data.

  Raises:
    MixerError: whatever is wrong with the config, by the name of the key.
  """
  settings = configs.call(Settings, config, 'config')
  data = configs.call(Data, settings.data, 'data')
  if len(data.image) != 3 or min(data.image) < 1:
    raise MixerError(f'data.image is {data.image}, but must be (height, width, channels), each at least 1')
  if not 0 <= settings.seed < 2**32:
    raise MixerError(f'seed is {settings.seed}, but must be in [0, 2**32)')
  if not 0 <= settings.ema < 1:
    raise MixerError(f'ema is {settings.ema}, but must be in [0, 1), 0 for none')
  if settings.accumulate < 1:
    raise MixerError(f'accumulate is {settings.accumulate}, but must be at least 1')
  mesh = configs.call(meshes.make_mesh, settings.mesh, 'mesh')
  meshes.check_batch('batch_size', settings.batch_size, mesh, settings.accumulate)
  meshes.check_batch('eval_batch_size', settings.eval_batch_size, mesh)
  model = nnx.eval_shape(lambda: make_model(settings, data))
  scores = configs.named(TASKS, settings.task, 'task', classes=data.classes)
  experiment = Experiment(settings, data, mesh, model, scores, make_prepare(settings, data))
  experiment.optimizer(Length(10**9, 1.0))
  steps(settings.augment_until, 'augment_until', epoch=1.0, total=10**9)
  jax.eval_shape(experiment.prepare, experiment.batch(1))
  return experiment


def make_model(settings: Settings, data: Data) -> Any:
  rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(settings.seed), 2**31))
  return configs.named(MODELS, settings.model, 'model', image=data.image, classes=data.classes, rngs=rngs)


def make_prepare(settings: Settings, data: Data) -> Callable:
  """(raw batch, key, augmenting) -> pixels in [0, 1], augmented when there is a key, then normalised."""
  features = {
    'image': jax.ShapeDtypeStruct((settings.batch_size, *data.image), jnp.float32),
    'label': jax.ShapeDtypeStruct((settings.batch_size,), jnp.int32),
  }
  augmented = augment.make_augment(settings.augment, features=features, classes=data.classes)
  mixed = jax.eval_shape(augmented, features, jax.random.key(0))['label'].ndim == 2

  def left_alone(batch, _key):
    return {**batch, 'label': augment.distribution(batch['label'], data.classes)} if mixed else batch

  def prepare(
    batch: dict[str, jax.Array], key: jax.Array | None = None, augmenting: jax.Array | bool = True
  ) -> dict[str, jax.Array]:
    batch = {**batch, 'image': augment.to_float(batch['image'])}
    if key is not None and augmenting is True:
      batch = augmented(batch, key)
    elif key is not None:
      batch = jax.lax.cond(augmenting, augmented, left_alone, batch, key)
    return {**batch, 'image': augment.normalize(batch['image'], data.mean, data.std)}

  return prepare
