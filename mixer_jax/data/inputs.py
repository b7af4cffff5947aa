"""config.data -> the examples, their shapes, and how they become what a model sees: images or rows."""

import dataclasses
import functools
import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.data import augment, own
from mixer_jax.data.examples import Arrays, Source, check_readable, stack
from mixer_jax.data.images import canvas, decode, folder, pixels
from mixer_jax.data.images import report as image_report
from mixer_jax.data.images import sets as image_sets
from mixer_jax.data.splits import split_base
from mixer_jax.data.tables import csv, report
from mixer_jax.data.tables import schema as schemas
from mixer_jax.data.tables import sets as table_sets
from mixer_jax.data.tables.schema import Schema
from mixer_jax.data.tables.table import MISSING, Notation, Table, rows_at_once, some
from mixer_jax.errors import MixerError, unknown
from mixer_jax.messages import logger
from mixer_jax.ranges import COUNTED, Amount, Count, Seed, Whole, Within

Batch = dict[str, jax.Array]
Pieces = Iterator[tuple[Sequence[Any], Arrays, dict[str, int]]]  # names, a raw batch, what was counted

AT_ONCE = 64  # images
Workers = Annotated[int, Within('[0, 1024]')]  # processes
ROWS = 256  # of a batch: what a Mixer makes of more does not stay in a CPU's cache, and takes almost twice as long

# What a data set implies, where a config does not say otherwise.
_BOTH = {'train': 'train', 'test': 'test'}
DEFAULTS: dict[str, dict[str, Any]] = {
  'digits': {
    'image': (8, 8, 1), 'classes': 10, 'mean': (0.305,), 'std': (0.376,), 'train': 'train[:80%]',
    'test': 'train[80%:]',
  },
  'mnist': {'image': (28, 28, 1), 'classes': 10, 'mean': (0.1307,), 'std': (0.3081,), **_BOTH},
  'fashion_mnist': {'image': (28, 28, 1), 'classes': 10, 'mean': (0.286,), 'std': (0.353,), **_BOTH},
  'cifar10': {
    'image': (32, 32, 3), 'classes': 10, 'mean': (0.4914, 0.4822, 0.4465), 'std': (0.2470, 0.2435, 0.2616), **_BOTH,
  },
  'cifar100': {
    'image': (32, 32, 3), 'classes': 100, 'mean': (0.5071, 0.4865, 0.4409), 'std': (0.2673, 0.2564, 0.2762), **_BOTH,
  },
  'breast_cancer': {'classes': 2, 'categorical': (), 'drop': ()},
  'unsw_nb15': {'classes': 2, 'categorical': ('proto', 'service', 'state'), 'drop': ('id',), **_BOTH},
}  # fmt: skip


def defaults(name: str) -> dict[str, Any]:
  """The keys of config.data that a data set implies."""
  return {'classes': 1, 'train': 'all'} if name.startswith('images:') else dict(DEFAULTS.get(name, {}))


def kind_of(name: str) -> 'type[Images] | type[Rows]':
  """The class that has the keys of config.data for that data set; refuses an unknown name."""
  if table_sets.is_table(name):
    return Rows
  if name in image_sets.SOURCES or own.is_function(name) or own.is_form(name):
    return Images
  known = [*image_sets.SOURCES, *table_sets.KNOWN, *table_sets.FUNCTIONS, *own.FORMS]
  raise unknown('data set', name, known, 'or module:function of your own')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
  """The keys of config.data for images.

  `crop_from`: 0, or for image files a side in pixels: each is shrunk until its longer side is that long and its shorter
  one still long enough for `image`; a crop of the size of `image` is cut out of it, at random in training, else in the
  middle. `bits`: how many of their 16 bits image files of such depth use. `mean` and `std` have a number for each
  channel, or one for all; by default pixels become [-1, 1].
  """

  name: str
  image: tuple[int, int, int]
  classes: Count
  mean: Annotated[tuple[float, ...], Within('(-inf, inf)')] = (0.5,)
  std: Annotated[tuple[float, ...], Within('(0, inf)')] = (0.5,)
  train: str = 'train'
  val: str = ''
  test: str = ''
  resident_mib: Amount = 2048.0
  workers: Workers = 0
  crop_from: Whole = 0
  bits: Annotated[int, Within('[1, 16]')] = 16

  inputs: ClassVar = ('image',)  # of the batch, in the order in which the model takes them
  schema: ClassVar = None
  written: ClassVar = ('file', 'class', 5)  # in predictions: the column of examples, of classes, and how many of these

  def __post_init__(self):
    if len(self.image) != 3 or min(self.image) < 1:
      raise MixerError(f'data.image is {self.image}, but must be (height, width, channels), each at least 1')
    for key in ('mean', 'std'):
      if len(getattr(self, key)) == 1:
        object.__setattr__(self, key, getattr(self, key) * self.image[2])
    if self.crop_from and self.crop_from < max(self.image[:2]):
      raise MixerError(
        f'data.crop_from is {self.crop_from}, but the crop {self.image[0]}x{self.image[1]} is larger; 0 for none'
      )

  def fit(self, data_dir: str | None) -> None:
    """Images have no schema."""

  def with_schema(self, schema: None) -> 'Images':
    return self

  def report(self, data_dir: str | None) -> list[str]:
    """What to look at before trusting folders of images, a line each."""
    is_folder = self.name.partition(':')[0] in folder.READERS
    return image_report.report(self.name, self._splits, data_dir) if is_folder else []

  def without_crop(self) -> 'Images':
    """Images of the size that the model takes."""
    return dataclasses.replace(self, crop_from=0)

  @property
  def _splits(self) -> dict[str, str]:
    return {role: split for role in ('train', 'val', 'test') if (split := getattr(self, role))}

  def check_readable(self, data_dir: str | None) -> None:
    """Reads every image once; refuses with all that cannot be read."""
    check_readable([self.source(split, data_dir, look=False) for split in self._splits.values()])

  def source(self, split: str, data_dir: str | None, *, look: bool = True) -> Source:
    return image_sets.load(
      self.name, split, image=self.image, classes=self.classes, crop_from=self.crop_from, bits=self.bits,
      data_dir=data_dir, look=look,
    )  # fmt: skip

  def find(self, inputs: Sequence[str]) -> list[str]:
    """Files, and the images in folders, by name or by pattern, in order; refuses an input that leads to no file."""
    files: list[str] = []
    for item in inputs:
      found = [item] if Path(item).exists() else sorted(glob.glob(item))
      if not found:
        raise MixerError(f'--input={item}: no such file, and no folder or pattern with images')
      for place in found:
        left_out: list[str] = []
        files += folder.image_files(place, left_out, 'name others.') if Path(place).is_dir() else [place]
        for note in folder.notes_of_left_out(place, left_out):
          logger.info(note)
    return files

  def notes_of(self, files: Sequence[str]) -> tuple[str, ...]:
    """How many of these files are converted, enlarged or cut for the model, a line for each kind."""
    return folder.notes_of('--input', files, self.image, self.crop_from, self.bits)

  def read(self, files: Sequence[str]) -> Arrays:
    """A raw batch, without labels, of image files."""
    return stack([decode.read_file(file, self.image, self.crop_from, self.bits) for file in files])

  def pieces(self, files: Sequence[str]) -> tuple[int, Pieces]:
    """(size of all raw batches but the last, the batches with the names of their files)."""
    parts = (files[start : start + AT_ONCE] for start in range(0, len(files), AT_ONCE))
    return AT_ONCE, ((part, self.read(part), {}) for part in parts)

  @property
  def for_model(self) -> dict[str, Any]:
    """Arguments of a model that the data give."""
    return {'image': self.image, 'classes': self.classes}

  @property
  def for_task(self) -> dict[str, Any]:
    """Arguments of a task that the data give."""
    return {**self.for_model, 'inputs': self.inputs, 'mean': self.mean, 'std': self.std}

  def batch(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A raw batch, as it reaches the device."""
    side, channels = self.crop_from, self.image[2]
    image = jax.ShapeDtypeStruct((size, *((side, side, channels) if side else self.image)), jnp.uint8)
    batch = {'image': image, 'label': jax.ShapeDtypeStruct((size,), jnp.int32)}
    return batch | ({'size': jax.ShapeDtypeStruct((size, 2), jnp.int32)} if side else {})

  def make_preprocess(self, augmentations: Mapping[str, Mapping], batch_size: int) -> Callable[..., Batch]:
    """(raw batch, key=None, augmenting=True) -> pixels in [0, 1], augmented when there is a key, then normalised.

    `augmenting` is True, or a traced bool: then both ways are compiled.
    """
    features = self.batch(batch_size) | {'image': jax.ShapeDtypeStruct((batch_size, *self.image), jnp.float32)}
    augmented = augment.make_optional(augmentations, features=features, classes=self.classes)

    def preprocess(batch: Batch, key: jax.Array | None = None, augmenting: jax.Array | bool = True) -> Batch:
      if self.crop_from:
        key, crop_key = (None, None) if key is None else jax.random.split(key)
        batch = {**batch, 'image': canvas.crop(batch['image'], batch['size'], self.image[:2], crop_key)}
      batch = augmented({**batch, 'image': pixels.to_float(batch['image'])}, key, augmenting)
      return {**batch, 'image': pixels.normalize(batch['image'], self.mean, self.std)}

    return preprocess


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """The keys of config.data for tables.

  `drop` names columns that are not used, `categorical` those that hold categories (None: those whose cells are not
  numbers). `scaling` is a key of scaling.SCALINGS or `module:name`, learnt from the training split only. `column_order`
  is 0 for that of the file, else the seed of a random one. `decimal` and `thousands` are the signs in the file's
  numbers, `missing` what stands for one that is missing. `classes` is None for as many as the training split has.
  `stratified` cuts parts such as train[:80%] so that each has every class in proportion.
  `schema` is not a key: it is what was learnt, see `fit`.
  """

  name: str
  train: str = 'train'
  val: str = ''
  test: str = ''
  label: str = 'label'
  drop: tuple[str, ...] = ()
  categorical: tuple[str, ...] | None = None
  scaling: str = 'quantile'
  column_order: Seed = 0
  decimal: str = '.'
  thousands: str = ''
  missing: tuple[str, ...] = MISSING
  stratified: bool = False
  classes: Annotated[int | None, COUNTED] = None
  resident_mib: Amount = 2048.0
  workers: Workers = 0
  schema: Schema | None = None

  inputs: ClassVar = ('features', 'categories')
  written: ClassVar = ('row', 'prediction', 1)

  def fit(self, data_dir: str | None) -> Schema:
    """The schema of the training rows; refuses another number of classes than `classes`."""
    table = self.table(self.train, data_dir)
    categorical = [name for name, column in table.columns.items() if column.dtype == object and name != self.label]
    schema = schemas.fit(
      table, label=self.label, dropped=self.drop, categorical=categorical, scaling=self.scaling,
      column_order=self.column_order, notation=self.notation,
    )  # fmt: skip
    if self.classes not in (None, len(schema.classes)):
      whole = self.table(split_base(self.train.partition('+')[0]), data_dir)
      outside = [name for name in schemas.classes_of(whole, self.label) if name not in schema.classes]
      cure = 'fix the labels, or set data.classes and a task for so many'
      if outside:
        cure = f'{some(map(repr, outside), 8)} stand in other rows of the file: set data.stratified=True'
      raise MixerError(
        f'{table.where}: the label {self.label!r} has {len(schema.classes)} values in {self.train}'
        f' ({some(schema.classes, 8)}), but data.classes is {self.classes}; {cure}'
      )
    return schema

  def with_schema(self, schema: Schema) -> 'Rows':
    """These rows with what their training split taught."""
    return dataclasses.replace(self, schema=schema, classes=len(schema.classes))

  def check_readable(self, data_dir: str | None) -> None:
    """Rows are read as a whole when they are used."""

  def without_crop(self) -> 'Rows':
    return self

  def source(self, split: str, data_dir: str | None) -> Source:
    table = self.table(split, data_dir)
    arrays, counts = self.schema.arrays(table)
    arrays['label'] = self.schema.labels(table)
    met = [f'{count:,} cells of {what}' for what, count in counts.items()]
    notes = tuple(f'{self.name}, {split}: {note}' for note in [*met, *report.lacking(self.schema, arrays['label'])])
    return Source(self.schema.classes, arrays, functools.partial(_read_row, arrays), len(table), notes)

  def table(self, split: str, data_dir: str | None) -> Table:
    """The rows of a split, before any scaling."""
    return table_sets.load(
      self.name, split, label=self.label, drop=self.drop, categorical=self.categorical, data_dir=data_dir,
      notation=self.notation, schema=self.schema, stratified=self.stratified,
    )  # fmt: skip

  @property
  def notation(self) -> Notation:
    return Notation(self.decimal, self.thousands, self.missing) if self.schema is None else self.schema.notation

  def report(self, data_dir: str | None) -> list[str]:
    """What to look at before trusting the table, a line each. The files are read again unless they are kept."""
    heldout = {split: self.table(split, data_dir) for split in (self.val, self.test) if split}
    unused = table_sets.unused(self.name, [self.train, *heldout], data_dir)
    lines = report.report(self.schema, self.train, self.table(self.train, data_dir), heldout)
    others = f'warning: {self.name} also holds {some(unused)}, not used here; name them in data.val or data.test'
    return [*lines, others] if unused else lines

  def find(self, inputs: Sequence[str]) -> list[str]:
    """The one CSV file that rows come from."""
    if len(inputs) != 1:
      raise MixerError(f'--input names {len(inputs)} files, but rows come from one CSV file')
    return list(inputs)

  def notes_of(self, files: Sequence[str]) -> tuple[str, ...]:
    return ()

  def read(self, files: Sequence[str]) -> Arrays:
    """The rows of CSV files, scaled, without labels."""
    parts = [arrays for file in files for _, arrays, _ in self.pieces([file])[1]]
    return {name: np.concatenate([part[name] for part in parts]) for name in self.inputs}

  def pieces(self, files: Sequence[str]) -> tuple[int, Pieces]:
    """(size of a batch, rows of a CSV file, scaled, with their numbers and counts of unknown cells).

    The rows come rows_at_once at a time, which may be more than a batch. Refuses other columns than in training.
    """
    (path,) = self.find(files)
    header = csv.read_header(path)
    self.schema.check_columns(path, header)

    def rows():
      first = None
      for first, cells in csv.read_cells(path):
        used = {name: cells[name] for name in self.schema.columns}
        table = csv.to_columns(
          used, self.schema.categories, where=str(path), first=first, notation=self.schema.notation
        )
        yield (table.numbers.tolist(), *self.schema.arrays(table))
      if first is None:
        raise csv.no_rows(path)

    return min(ROWS, rows_at_once(len(header))), rows()

  @property
  def for_model(self) -> dict[str, Any]:
    schema = self.schema
    vocabularies = tuple((schema.columns.index(name), len(values)) for name, values in schema.categories.items())
    return {'columns': len(schema.columns), 'vocabularies': vocabularies, 'classes': self.classes}

  @property
  def for_task(self) -> dict[str, Any]:
    return {'classes': self.classes, 'inputs': self.inputs}

  def batch(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
      'features': jax.ShapeDtypeStruct((size, len(self.schema.columns)), jnp.float32),
      'categories': jax.ShapeDtypeStruct((size, len(self.schema.categories)), jnp.int32),
      'label': jax.ShapeDtypeStruct((size,), jnp.int32),
    }

  def make_preprocess(self, augmentations: Mapping[str, Mapping], batch_size: int) -> Callable[..., Batch]:
    """Rows are scaled when they are read, and augmented by the user's own; what augments images is refused."""
    augmented = augment.make_optional(augmentations, features=self.batch(batch_size), classes=self.classes)
    return lambda batch, key=None, augmenting=True: augmented(batch, key, augmenting)


def _read_row(arrays: Arrays, index: int) -> dict[str, Any]:
  return {name: array[index] for name, array in arrays.items()}
