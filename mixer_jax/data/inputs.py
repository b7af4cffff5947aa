"""config.data -> which examples there are, what they look like, how they become what a model sees: images or rows."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.data import augment, sources, table_sets, tables
from mixer_jax.errors import MixerError

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
  """The keys of config.data for images.

  `crop_from`: 0, or for files of images a side in pixels: each is made so small that its longer side is that long, its
  shorter one at least as long as `image` needs, and a crop of the size of `image` is cut out of it, at random in
  training, in the middle otherwise.
  """

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
  crop_from: int = 0

  inputs: ClassVar = ('image',)  # of the batch, in the order in which the model takes them

  def __post_init__(self):
    if len(self.image) != 3 or min(self.image) < 1:
      raise MixerError(f'data.image is {self.image}, but must be (height, width, channels), each at least 1')
    if self.crop_from and self.crop_from < max(self.image[:2]):
      raise MixerError(
        f'data.crop_from is {self.crop_from}, but the crop {self.image[0]}x{self.image[1]} is larger; 0 for none'
      )

  def source(self, split: str, data_dir: str | None) -> sources.Source:
    return sources.load(
      self.name, split, image=self.image, classes=self.classes, crop_from=self.crop_from, data_dir=data_dir
    )

  def read(self, files: Sequence[str]) -> dict[str, np.ndarray]:
    """A raw batch, without labels, of image files."""
    examples = [sources.read_file(file, self.image, self.crop_from) for file in files]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

  @property
  def for_model(self) -> dict[str, Any]:
    """What the data tell a model when it is made."""
    return {'image': self.image, 'classes': self.classes}

  @property
  def for_task(self) -> dict[str, Any]:
    """What the data tell a task."""
    return {'classes': self.classes, 'image': self.image, 'mean': self.mean, 'std': self.std}

  def batch(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A raw batch, as it reaches the device."""
    side, channels = self.crop_from, self.image[2]
    image = jax.ShapeDtypeStruct((size, *((side, side, channels) if side else self.image)), jnp.uint8)
    batch = {'image': image, 'label': jax.ShapeDtypeStruct((size,), jnp.int32)}
    return batch | ({'size': jax.ShapeDtypeStruct((size, 2), jnp.int32)} if side else {})

  def make_prepare(self, augmentations: Mapping[str, Mapping], batch_size: int) -> Callable[..., Batch]:
    """(raw batch, key=None, augmenting=True) -> pixels in [0, 1], augmented when there is a key, then normalised.

    `augmenting` is True, or a traced bool: then both ways are compiled.
    """
    features = self.batch(batch_size)
    features['image'] = jax.ShapeDtypeStruct((batch_size, *self.image), jnp.float32)
    augmented = augment.make_augment(augmentations, features=features, classes=self.classes)
    shapes = jax.eval_shape(augmented, features, jax.random.key(0))

    def left_alone(batch: Batch, _key) -> Batch:
      if shapes['label'].ndim == 2:
        batch = {**batch, 'label': augment.distribution(batch['label'], self.classes)}
      return {**batch, 'target': batch['image']} if 'target' in shapes else batch

    def prepare(batch: Batch, key: jax.Array | None = None, augmenting: jax.Array | bool = True) -> Batch:
      if self.crop_from:
        key, crop_key = (None, None) if key is None else jax.random.split(key)
        batch = {**batch, 'image': crop(batch['image'], batch['size'], self.image[:2], crop_key)}
      batch = {**batch, 'image': augment.to_float(batch['image'])}
      if key is not None and augmenting is True:
        batch = augmented(batch, key)
      elif key is not None:
        batch = jax.lax.cond(augmenting, augmented, left_alone, batch, key)
      normal = {
        name: augment.normalize(batch[name], self.mean, self.std) for name in ('image', 'target') if name in batch
      }
      return {**batch, **normal}

    return prepare


def crop(image: jax.Array, size: jax.Array, shape: tuple[int, int], key: jax.Array | None) -> jax.Array:
  """Windows of `shape` of the filled parts of canvases, at random, or with no key in the middle.

  Args:
    image: [batch, side, side, channels].
    size: [batch, 2], (height, width) that is filled of each, from its first corner on.
  """
  room = size - jnp.array(shape)
  start = room // 2 if key is None else jax.random.randint(key, size.shape, 0, room + 1)
  cut = lambda picture, at: jax.lax.dynamic_slice(picture, (*at, 0), (*shape, picture.shape[-1]))
  return jax.vmap(cut)(image, start)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """The keys of config.data for tables.

  `drop` names columns that are not used, `categorical` those that hold categories (None: those whose cells are no
  numbers). `scaling` is a key of tables.SCALINGS, learnt from the training split only. `column_order` is 0 for the
  file's, else the seed of a random one. `schema` is no key: it is what was learnt, see `fit`.
  """

  name: str
  train: str
  val: str
  test: str
  label: str
  drop: tuple[str, ...]
  categorical: tuple[str, ...] | None
  scaling: str
  column_order: int
  classes: int
  resident_mib: float
  workers: int
  schema: tables.Schema | None = None

  inputs: ClassVar = ('features', 'categories')

  def fit(self, data_dir: str | None) -> tables.Schema:
    """The schema of the training rows.

    Raises:
      MixerError: what is wrong with the table, another number of classes.
    """
    if not 0 <= self.column_order < 2**32:
      raise MixerError(f'data.column_order is {self.column_order}, but must be 0 or a seed in [1, 2**32)')
    table = self.table(self.train, data_dir)
    categorical = [name for name, column in table.columns.items() if column.dtype == object and name != self.label]
    schema = tables.fit(
      table, label=self.label, dropped=self.drop, categorical=categorical, scaling=self.scaling,
      column_order=self.column_order,
    )  # fmt: skip
    if len(schema.classes) != self.classes:
      raise MixerError(
        f'{table.where}: the label {self.label!r} has {len(schema.classes)} values in {self.train}'
        f' ({tables.some(schema.classes, 8)}), but data.classes is {self.classes}; mend the labels, or set data.classes'
        ' and a task for so many'
      )
    return schema

  def source(self, split: str, data_dir: str | None) -> sources.Source:
    table = self.table(split, data_dir)
    arrays, counts = self.schema.arrays(table)
    arrays['label'] = self.schema.labels(table)
    if jax.process_index() == 0:
      for what, count in counts.items():
        print(f'{self.name}, {split}: {count:,} cells of {what}')
    read = functools.partial(_read_row, arrays)
    return sources.Source(self.schema.classes, arrays, read, len(table))

  def table(self, split: str, data_dir: str | None) -> tables.Table:
    """The rows of a split, before any scaling."""
    return table_sets.load(
      self.name, split, label=self.label, drop=self.drop, categorical=self.categorical, data_dir=data_dir,
      schema=self.schema,
    )  # fmt: skip

  @property
  def for_model(self) -> dict[str, Any]:
    schema = self.schema
    vocabularies = tuple((schema.columns.index(name), len(values)) for name, values in schema.categories.items())
    return {'columns': len(schema.columns), 'vocabularies': vocabularies, 'classes': self.classes}

  @property
  def for_task(self) -> dict[str, Any]:
    return {'classes': self.classes, 'image': None, 'mean': None, 'std': None}

  def batch(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
      'features': jax.ShapeDtypeStruct((size, len(self.schema.columns)), jnp.float32),
      'categories': jax.ShapeDtypeStruct((size, len(self.schema.categories)), jnp.int32),
      'label': jax.ShapeDtypeStruct((size,), jnp.int32),
    }

  def make_prepare(self, augmentations: Mapping[str, Mapping], batch_size: int) -> Callable[..., Batch]:
    """Rows are scaled when they are read; what augments images is refused."""
    augment.make_augment(augmentations, features=self.batch(batch_size), classes=self.classes)
    return lambda batch, _key=None, _augmenting=True: batch


def _read_row(arrays: dict[str, np.ndarray], index: int) -> dict[str, Any]:
  return {name: array[index] for name, array in arrays.items()}


def kind_of(name: str) -> type:
  return Rows if table_sets.is_table(name) else Images
