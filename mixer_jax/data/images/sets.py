"""A name -> a random-access data set of images: bundled, IDX, CIFAR, image folders, TFDS, functions of the user's.

TensorFlow is never imported, and nothing is downloaded: a data set that is not there is an error that says where it
was looked for.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from mixer_jax import parts
from mixer_jax.data import own
from mixer_jax.data.examples import Arrays, Source, materialize
from mixer_jax.data.images import archives, folder, tfds
from mixer_jax.data.images.decode import fit_image
from mixer_jax.data.splits import data_root, parse_split, split_base
from mixer_jax.errors import MixerError, unknown

Images = tuple[Arrays, tuple[str, ...]] | Source  # what a function of a data set gives
WANTED = "({'image': uint8 [n, height, width, channels], 'label': int [n]}, names of the classes), or a Source"


def load(
  name: str, split: str, *, image: tuple[int, int, int], classes: int, crop_from: int = 0, bits: int = 16,
  data_dir: str | None = None, look: bool = True,
) -> Source:  # fmt: skip
  """The data set `name`, its part `split`, every image of the shape `image`.

  Args:
    name: a key of SOURCES, 'image_folder:PATH' (a relative PATH is looked up in the current directory, then in the data
      directory), 'images:PATH' (a folder of images without classes, by name; its split is `all`), 'tfds:NAME' (any data
      set of TFDS that has been prepared as ArrayRecord), or 'module:function': (split, *, data_dir=None) -> WANTED.
    split: as parse_split has it: 'train', 'train[:90%]', 'test[100:200]'.
    image: (height, width, channels) of every example; images of another shape are resized when read, see fit_image.
    classes: how many classes the config expects.
    crop_from: 0, or the side of a canvas that keeps more of each image file than `image`: an example then has `size`,
      see canvas.fit_canvas.
    bits: how many of the 16 bits of such image files are used, see decode.read_pixels.
    data_dir: see data_root. Files are looked for in data_root/NAME. TFDS looks in data_root if this or MIXER_DATA_DIR
      is given, then in its own default (TFDS_DATA_DIR, ~/tensorflow_datasets).
    look: whether headers of image files are read, for notes.

  MNIST, Fashion-MNIST and CIFAR are read from their published files, and where there are none, from TFDS.

  Refuses an unknown name or split, missing or damaged files, another number of classes, a function that gives something
  else.
  """
  base = split_base(split)
  kind, _, rest = name.partition(':')
  in_files = kind in folder.READERS
  if crop_from and not in_files:
    raise MixerError(f'data.crop_from is {crop_from}, but {name} holds images of one size; set it to 0')
  if bits != 16 and not in_files:
    raise MixerError(f'data.bits is {bits}, but {name} is no folder of image files; leave it at 16')
  found = folder.READERS[kind](rest, base, data_dir) if in_files and rest else _native(name, base, data_dir)
  if len(found.classes) != classes:
    raise MixerError(
      f'{name}: the config expects {classes} classes, the data have {len(found.classes)}; '
      f"set the config's number of classes to {len(found.classes)} or name other data."
    )
  if in_files:
    return folder.source(folder.cut(found, split), image, crop_from, bits, where=f'{name}, {split}', look=look)
  part = parse_split(split, {base: len(found)})[1]
  if found.arrays is None:
    read = functools.partial(_read_one, found.read, name, classes, image, part.start)
    return Source(found.classes, None, read, len(part), found.notes)
  arrays = {key: values[part.start : part.stop] for key, values in found.arrays.items()}
  # Resized copies can be hundreds of times the size of the originals, so they are made when read.
  native = arrays['image'].shape[1:] == tuple(image)
  return Source(
    found.classes, arrays if native else None, functools.partial(_read_array, arrays, image), len(part), found.notes
  )


def _native(name: str, base: str, data_dir: str | None) -> Source:
  """A data set as it is, before its images are brought to one shape."""
  if name.startswith('tfds:') and name != 'tfds:':
    return tfds.read(name.removeprefix('tfds:'), base, data_dir)
  if name not in SOURCES and not own.is_function(name):
    known = [*SOURCES, *(form for form in own.FORMS if not form.startswith('csv'))]
    raise unknown('data set', name, known, 'or module:function of your own')
  found = own.call(parts.find(name, SOURCES, 'data.name'), base, data_dir)
  if isinstance(found, Source):
    arrays, classes, notes = found.arrays, found.classes, found.notes
  elif isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], dict):
    (arrays, classes), notes = found, ()
  else:
    table = '; annotate it with `-> Table` if it is a table' if hasattr(found, 'columns') else ''
    raise MixerError(f'data.name: {name} gave {type(found).__name__} for {base!r}, but must give {WANTED}{table}')
  if isinstance(classes, str) or not all(isinstance(of_class, str) for of_class in classes):
    raise MixerError(f'data.name: {name} gave {classes!r:.80} as the names of the classes; give a list of texts')
  classes = tuple(classes)
  if arrays is None:
    return Source(classes, None, found.read, len(found), notes)
  arrays = _checked(name, arrays, len(classes))
  return Source(classes, arrays, None, len(arrays['label']), notes)


def _checked(name: str, arrays: Arrays, classes: int) -> Arrays:
  """The arrays of a function, labels as int32; refuses others than WANTED, by the name of the function."""
  found = {key: np.asarray(value) for key, value in arrays.items()}
  shapes = ', '.join(f'{key!r} {value.dtype} {list(value.shape)}' for key, value in found.items())
  if found.keys() != {'image', 'label'}:
    raise MixerError(f"data.name: {name} gave the arrays {shapes or 'none'}, but must give 'image' and 'label'")
  image, label = found['image'], found['label']
  whole = image.dtype == np.uint8 and image.ndim == 4 and label.ndim == 1 and label.dtype.kind in 'iu'
  if not (whole and len(image) == len(label) > 0):
    raise MixerError(f'data.name: {name} gave {shapes}, but must give {WANTED}')
  if len(wrong := np.flatnonzero((label < 0) | (label >= classes))):
    raise _no_label(name, classes, label[wrong[0]], int(wrong[0]))
  return {'image': image, 'label': label.astype(np.int32, copy=False)}


def _no_label(name: str, classes: int, label: object, index: int) -> MixerError:
  return MixerError(
    f'{name}: expected labels from 0 to {classes - 1}, found {label} at example {index}; name a split that has labels.'
  )


def _read_array(arrays: Arrays, shape: tuple[int, int, int], index: int) -> dict[str, Any]:
  return {'image': fit_image(arrays['image'][index], shape), 'label': arrays['label'][index]}


def _read_one(
  read: Callable, name: str, classes: int, shape: tuple[int, int, int], start: int, index: int
) -> dict[str, Any]:
  example = read(start + index)
  if not isinstance(example, dict) or not {'image', 'label'} <= example.keys():
    raise MixerError(f"{name}: example {start + index} is {example!r:.80}, not {{'image': uint8, 'label': int}}")
  label = np.int32(example['label'])
  if not 0 <= label < classes:
    raise _no_label(name, classes, label, start + index)
  return {'image': fit_image(np.asarray(example['image']), shape), 'label': label}


def digits(split: str) -> Images:
  """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn."""
  if split != 'train':
    raise unknown('split', split, ['train'])
  try:
    from sklearn import datasets
  except ImportError as error:
    raise MixerError('digits: scikit-learn is not installed; pip install scikit-learn.') from error
  data = datasets.load_digits()
  # They come writer by writer: the last fifth as it stands is other people's handwriting, a harder test.
  order = np.random.default_rng(0).permutation(len(data.target))
  images = np.round(data.images[order, ..., None] * (255 / 16)).astype(np.uint8)
  return {'image': images, 'label': data.target[order].astype(np.int32)}, archives.DIGITS


def _published(name: str, read: Callable, split: str, *, data_dir: str | None = None) -> Images:
  """A data set from its published files, or as TFDS has prepared it."""
  if split not in ('train', 'test'):
    raise unknown('split', split, ['train', 'test'])
  root = data_root(data_dir) / name
  if found := read(name, split, root):
    return found
  has_tfds = importlib.util.find_spec('tensorflow_datasets')
  if has_tfds and (builder := tfds.prepared(name, data_dir)):
    source = tfds.source(builder, name, split, data_dir)
    return dataclasses.replace(source, arrays=materialize(source))
  looked = f', and no copy prepared by TFDS in {tfds.places(data_dir)}' if has_tfds else ''
  files = archives.FILES[name].format(split=split, idx=archives.IDX_PREFIX[split])
  raise MixerError(
    f'{name}: no {files} in {root}{looked}; put the files there, say where they are with '
    f'--data_dir or MIXER_DATA_DIR, or prepare them: {tfds.how_to_prepare(name, data_dir)}'
  )


SOURCES: dict[str, Callable[..., Images]] = {
  'digits': digits,
  'mnist': functools.partial(_published, 'mnist', archives.read_mnist),
  'fashion_mnist': functools.partial(_published, 'fashion_mnist', archives.read_mnist),
  'cifar10': functools.partial(_published, 'cifar10', archives.read_cifar),
  'cifar100': functools.partial(_published, 'cifar100', archives.read_cifar),
}
