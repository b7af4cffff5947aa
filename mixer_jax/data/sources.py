"""A name -> a random-access data set of images: bundled, IDX, CIFAR, image folders, TFDS.

TensorFlow is never imported, and nothing is downloaded: a data set that is not there is an error that says
where it was looked for.
"""

import concurrent.futures
import dataclasses
import functools
import importlib.util
import operator
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mixer_jax import errors
from mixer_jax.data import formats
from mixer_jax.data.formats import fit_image

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.gif', '.tif', '.tiff')
DIGITS = tuple('0123456789')
FASHION = (
  'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """A random-access data set: source[i] -> {'image': uint8 [height, width, channels], 'label': int32 scalar}.

  Attributes:
    classes: class names; the index is the label.
    arrays: the whole data set where it is in memory, {'image': uint8 [n, h, w, c], 'label': int32 [n]}, else
      None; see materialize.
    read: the example at an index from 0 to size - 1; picklable, so that worker processes can have it.
    size: how many examples there are.
    files: their paths, where load is to tell what becomes of them, see tell_of_files; else empty.
  """

  classes: tuple[str, ...]
  arrays: dict[str, np.ndarray] | None
  read: Callable[[int], dict[str, Any]]
  size: int
  files: Sequence[str] = ()

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, index: int) -> dict[str, Any]:
    index = operator.index(index)
    if not 0 <= index < self.size:
      raise IndexError(f'example {index} of a data set of {self.size}')
    return self.read(index)


def load(
  name: str, split: str, *, image: tuple[int, int, int], classes: int, crop_from: int = 0, data_dir: str | None = None
) -> Source:
  """The data set `name`, its part `split`, every image of the shape `image`.

  Args:
    name: a key of SOURCES, 'image_folder:PATH' (a relative PATH is looked up in the current directory,
      then in the data directory), 'images:PATH' (a folder of images without classes, by name; its split is `all`) or
      'tfds:NAME' (any data set of TFDS that has been prepared as ArrayRecord).
    split: as parse_split has it: 'train', 'train[:90%]', 'test[100:200]'.
    image: (height, width, channels) of every example; see fit_image. Where the data have this shape already,
      they stay as they are, and those in memory are offered as Source.arrays; others are resized when read.
    classes: how many classes the config expects.
    crop_from: 0, or for files of images the side of the canvas on which each is kept with more than a crop of `image`
      would have: an example then has `size`, see formats.fit_canvas.
    data_dir: see data_root. Files are looked for in data_root/NAME. TFDS looks in data_root if this or
      MIXER_DATA_DIR is given, else in its own default (TFDS_DATA_DIR, ~/tensorflow_datasets).

  MNIST, Fashion-MNIST and CIFAR are read from their published files, and where there are none, from TFDS.

  Raises MixerError for an unknown name or split, missing or damaged files, and another number of classes.
  """
  base = split_base(split)
  kind, _, rest = name.partition(':')
  if crop_from and kind not in ('image_folder', 'images'):
    raise errors.MixerError(f'data.crop_from is {crop_from}, but {name} holds images of one size; set it to 0')
  if kind == 'image_folder' and rest:
    source = _image_folder(rest, base, image, crop_from, data_dir)
  elif kind == 'images' and rest:
    source = _images(rest, base, image, crop_from, data_dir)
  elif kind == 'tfds' and rest:
    source = _tfds(rest, base, image, data_dir)
  elif name in SOURCES:
    source = SOURCES[name](name, base, image, data_dir)
  else:
    raise errors.unknown('data set', name, [*SOURCES, 'image_folder:PATH', 'images:PATH', 'tfds:NAME'])
  if len(source.classes) != classes:
    raise errors.MixerError(
      f'{name}: the config expects {classes} classes, the data have {len(source.classes)}; '
      f"set the config's number of classes to {len(source.classes)} or name other data."
    )
  part = parse_split(split, {base: len(source)})[1]
  if source.files:
    tell_of_files(f'{name}, {split}', source.files[part.start : part.stop], image, crop_from)
  if len(part) == len(source):
    return source
  if source.arrays is not None:
    return _in_memory({k: v[part.start : part.stop] for k, v in source.arrays.items()}, source.classes, image)
  return Source(source.classes, None, functools.partial(_read_shifted, source.read, part.start), len(part))


def data_root(data_dir: str | None = None) -> pathlib.Path:
  """Where data sets lie: the argument, else MIXER_DATA_DIR, else mixer_jax in XDG_CACHE_HOME or ~/.cache."""
  if chosen := data_dir or os.environ.get('MIXER_DATA_DIR'):
    return pathlib.Path(chosen).expanduser()
  cache = os.environ.get('XDG_CACHE_HOME')
  return (pathlib.Path(cache) if cache else pathlib.Path.home() / '.cache') / 'mixer_jax'


def split_base(split: str) -> str:
  """'train' of 'train[:90%]'."""
  return _match(split)['base']


def _match(split: str) -> re.Match:
  boundary = r'(-?\d+%?)?'
  match = re.fullmatch(rf'(?P<base>[\w.-]+)(?P<slice>\[{boundary}:{boundary}\])?', split)
  if not match:
    raise errors.MixerError(
      f"cannot read the split {split!r}; write 'train', 'train[:90%]', 'train[10%:20%]', 'train[100:]' or "
      "'train[-500:]'."
    )
  return match


def parse_split(split: str, sizes: dict[str, int]) -> tuple[str, range]:
  """The base split that `split` names and the indices it takes of it, in order.

  A boundary is an index or a percentage, negative ones count from the end. A percentage p of n examples is
  the index round(p * n / 100), halves to the even index, as TFDS has it: 'train[:80%]' and 'train[80%:]'
  never overlap and leave nothing out.

  Args:
    split: 'BASE' or 'BASE[FROM:TO]'.
    sizes: the number of examples of each base split.

  Raises MixerError for an unknown base, malformed text, boundaries outside the data, and an empty result.
  """
  match = _match(split)
  base = match['base']
  if base not in sizes:
    raise errors.unknown('split', base, sizes)
  size = sizes[base]
  _, _, first, last = match.groups()
  start = 0 if first is None else _boundary(first, size, split)
  stop = size if last is None else _boundary(last, size, split)
  if start >= stop:
    raise errors.MixerError(
      f'the split {split!r} is empty: it goes from {start} to {stop} of the {size} examples of {base!r}; '
      'take wider boundaries.'
    )
  return base, range(start, stop)


def _boundary(text: str, size: int, split: str) -> int:
  percent = text.endswith('%')
  value, limit = int(text.rstrip('%')), 100 if percent else size
  if abs(value) > limit:
    raise errors.MixerError(
      f'the split {split!r} has the boundary {text}, but the data end at {limit}{"%" if percent else ""} '
      f'({size} examples); stay within them.'
    )
  index = round(value * size / 100) if percent else value
  return size + index if value < 0 else index


def materialize(source: Source, threads: int | None = None) -> dict[str, np.ndarray]:
  """The whole of `source` in memory: {'image': uint8 [n, h, w, c], 'label': int32 [n]}, and whatever else it has.

  `threads` read it at once, one for each core if None.
  Raises the first error of reading, which names the file.
  """
  if source.arrays is not None:
    return source.arrays
  first = {name: np.asarray(value) for name, value in source[0].items()}
  arrays = {name: np.empty((len(source), *value.shape), value.dtype) for name, value in first.items()}

  def fill(start: int) -> None:
    for k in range(start, min(start + 64, len(source))):
      for name, value in source[k].items():
        arrays[name][k] = value

  with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
    for _ in pool.map(fill, range(0, len(source), 64)):
      pass
  return arrays


def _read_array(arrays: dict[str, np.ndarray], shape: tuple[int, int, int], index: int) -> dict[str, Any]:
  return {'image': fit_image(arrays['image'][index], shape), 'label': arrays['label'][index]}


def read_file(path: str, shape: tuple[int, int, int], crop_from: int) -> dict[str, np.ndarray]:
  """The image file at `path` as it stands in a raw batch: 'image' of `shape`, or on a canvas with its 'size'."""
  if not crop_from:
    return {'image': formats.read_image(path, shape)}
  canvas, size = formats.fit_canvas(formats.read_pixels(path, shape[2]), shape[:2], crop_from)
  return {'image': canvas, 'size': size}


def _read_file(
  paths: list[str], labels: np.ndarray, shape: tuple[int, int, int], crop_from: int, index: int
) -> dict[str, Any]:
  return {**read_file(paths[index], shape, crop_from), 'label': labels[index]}


def _read_tfds(data: Any, name: str, classes: int, shape: tuple[int, int, int], index: int) -> dict[str, Any]:
  example = data[index]
  label = np.int32(example['label'])
  if not 0 <= label < classes:
    raise errors.MixerError(
      f'tfds:{name}: expected labels from 0 to {classes - 1}, found {label} at example {index}; '
      'name a split that has labels.'
    )
  return {'image': fit_image(np.asarray(example['image']), shape), 'label': label}


def _read_shifted(read: Callable[[int], dict[str, Any]], offset: int, index: int) -> dict[str, Any]:
  return read(offset + index)


def _in_memory(arrays: dict[str, np.ndarray], classes: tuple[str, ...], shape: tuple[int, int, int]) -> Source:
  # Resized copies can be hundreds of times the size of the originals, so they are made when read.
  native = arrays['image'].shape[1:] == tuple(shape)
  read = functools.partial(_read_array, arrays, shape)
  return Source(classes, arrays if native else None, read, len(arrays['label']))


def _digits(_name: str, base: str, shape: tuple[int, int, int], _data_dir: str | None) -> Source:
  if base != 'train':
    raise errors.unknown('split', base, ['train'])
  try:
    from sklearn import datasets
  except ImportError as error:
    raise errors.MixerError('digits: scikit-learn is not installed; pip install scikit-learn.') from error
  data = datasets.load_digits()
  # They come writer by writer: the last fifth as it stands is other people's handwriting, a harder test.
  order = np.random.default_rng(0).permutation(len(data.target))
  images = np.round(data.images[order, ..., None] * (255 / 16)).astype(np.uint8)
  return _in_memory({'image': images, 'label': data.target[order].astype(np.int32)}, DIGITS, shape)


Native = tuple[dict[str, np.ndarray], tuple[str, ...]]
Reader = Callable[[str, str, pathlib.Path], Native | None]


def _downloaded(read: Reader, name: str, base: str, shape: tuple[int, int, int], data_dir: str | None) -> Source:
  if base not in ('train', 'test'):
    raise errors.unknown('split', base, ['train', 'test'])
  root = data_root(data_dir) / name
  if found := read(name, base, root):
    return _in_memory(*found, shape)
  if importlib.util.find_spec('tensorflow_datasets') and (builder := _tfds_builder(name, data_dir)):
    source = _tfds_source(builder, name, base, builder.info.features['image'].shape, data_dir)
    return _in_memory(materialize(source), source.classes, shape)
  raise errors.MixerError(
    f'{name}: no {FILES[name].format(split=base, idx=IDX_PREFIX[base])} in {root}, and no copy prepared by '
    f'TFDS in {_tfds_dir(data_dir) or "its default directory"}; put the files there, say where they are with '
    f'--data_dir or MIXER_DATA_DIR, or prepare them: {_prepare(name, data_dir)}'
  )


IDX_PREFIX = {'train': 'train', 'test': 't10k'}
FILES = {
  'mnist': '{idx}-images-idx3-ubyte[.gz] and {idx}-labels-idx1-ubyte[.gz]',
  'fashion_mnist': '{idx}-images-idx3-ubyte[.gz] and {idx}-labels-idx1-ubyte[.gz]',
  'cifar10': '{split} files of cifar-10-batches-bin, cifar-10-batches-py or their .tar.gz archives',
  'cifar100': '{split} files of cifar-100-binary, cifar-100-python or their .tar.gz archives',
}


def _read_mnist(name: str, split: str, root: pathlib.Path) -> Native | None:
  files = [f'{IDX_PREFIX[split]}-{part}-ubyte' for part in ('images-idx3', 'labels-idx1')]
  paths = [next((p for p in (root / f, root / f'{f}.gz') if p.is_file()), None) for f in files]
  if paths == [None, None]:
    return None
  if None in paths:
    here, missing = (0, 1) if paths[0] else (1, 0)
    raise errors.MixerError(
      f'{name}: found {paths[here]}, but neither {files[missing]} nor {files[missing]}.gz beside it; '
      'download that file too.'
    )
  images, labels = formats.read_idx(paths[0], 3), formats.read_idx(paths[1], 1)
  arrays = formats.checked(images[..., None], labels, 10, f'{paths[0]} and {paths[1].name}')
  return arrays, FASHION if name == 'fashion_mnist' else DIGITS


SOURCES = {
  'digits': _digits,
  'mnist': functools.partial(_downloaded, _read_mnist),
  'fashion_mnist': functools.partial(_downloaded, _read_mnist),
  'cifar10': functools.partial(_downloaded, formats.read_cifar),
  'cifar100': functools.partial(_downloaded, formats.read_cifar),
}


def _folders(path: pathlib.Path) -> list[str]:
  return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith('.'))


def _find_folder(name: str, path: str, holds: str, data_dir: str | None) -> pathlib.Path:
  places = [pathlib.Path(path).expanduser(), data_root(data_dir) / path]
  root = next((place for place in places if place.is_dir()), None)
  if root is None:
    looked = ' nor '.join(dict.fromkeys(str(place) for place in places))
    raise errors.MixerError(
      f'{name}:{path}: neither {looked} is a folder; name one that holds {holds}, '
      'or say where it is with --data_dir or MIXER_DATA_DIR.'
    )
  return root


def _images(path: str, base: str, shape: tuple[int, int, int], crop_from: int, data_dir: str | None) -> Source:
  if base != 'all':
    raise errors.unknown('split', base, ['all'])
  root = _find_folder('images', path, '*.jpg', data_dir)
  left_out: list[str] = []
  paths = _image_files(root, left_out)
  if not paths:
    raise errors.MixerError(f'{root}: no images, that is files ending in {" ".join(SUFFIXES)}; add some.')
  if left_out:
    print(f'{root}: {len(left_out)} left out that are not images, such as {min(left_out)}', file=sys.stderr)
  read = functools.partial(_read_file, paths, np.zeros(len(paths), np.int32), shape, crop_from)
  return Source(('image',), None, read, len(paths), paths)


def tell_of_files(where: str, files: Sequence[str], shape: tuple[int, int, int], crop_from: int) -> None:
  """Prints on stderr how many images are converted, enlarged or cut when they are read, by their headers.

  Raises MixerError naming the file for one that is missing, damaged or no image.
  """
  headers = {file: formats.read_header(file) for file in files}
  notes = {
    f'turned from grey to colour or back ({shape[2]} channels)': lambda header: header.channels != shape[2],
    'with transparency laid on white': lambda header: header.transparent,
    f'smaller than {shape[0]}x{shape[1]} enlarged': lambda header: any(
      n < wanted for n, wanted in zip(header.size, shape[:2], strict=True)
    ),
    f'so long that of {crop_from} pixels the middle is kept': lambda header: (
      crop_from and formats.cut_off(header.size, shape[:2], crop_from)
    ),
  }
  for what, holds in notes.items():
    if which := [file for file, header in headers.items() if holds(header)]:
      print(f'{where}: {len(which)} {what}, such as {min(which)}', file=sys.stderr)


def _image_folder(path: str, base: str, shape: tuple[int, int, int], crop_from: int, data_dir: str | None) -> Source:
  root = _find_folder('image_folder', path, 'SPLIT/CLASS/*.jpg', data_dir)
  if base not in _folders(root):
    raise errors.unknown(f'split of {root}', base, _folders(root))
  classes = _folders(root / base)
  if base != 'train' and (root / 'train').is_dir():
    differ = sorted(set(classes) ^ set(_folders(root / 'train')))
    if differ:
      raise errors.MixerError(
        f'{root}: the classes of {base!r} and of train differ in {", ".join(differ)} '
        f'({len(classes)} and {len(_folders(root / "train"))}); give both the same class folders.'
      )
  if not classes:
    raise errors.MixerError(f'{root / base}: no class folders; put the images in {root / base}/CLASS/.')
  paths, labels, left_out = [], [], []
  left_out += [str(entry) for entry in (root / base).iterdir() if entry.name not in classes]
  for label, name in enumerate(classes):
    images = _image_files(root / base / name, left_out)
    if not images:
      raise errors.MixerError(
        f'{root / base / name}: no images, that is files ending in {" ".join(SUFFIXES)}; add some or remove the folder.'
      )
    paths += images
    labels += [label] * len(images)
  if left_out:
    example = min(left_out)
    print(f'{root / base}: {len(left_out)} left out that are not images, such as {example}', file=sys.stderr)
  # Folder by folder, a slice such as train[:90%] would lack whole classes.
  order = np.random.default_rng(0).permutation(len(paths))
  read = functools.partial(_read_file, [paths[i] for i in order], np.asarray(labels, np.int32)[order], shape, crop_from)
  return Source(tuple(classes), None, read, len(paths))


def _image_files(folder: pathlib.Path, left_out: list[str]) -> list[str]:
  images = []
  for parent, folders, files in os.walk(folder):
    # Links are not followed, they could lead back up.
    skipped = [f for f in folders if f.startswith('.') or os.path.islink(os.path.join(parent, f))]
    folders[:] = [f for f in folders if f not in skipped]
    for file in files:
      keep = file.lower().endswith(SUFFIXES) and not file.startswith('.')
      (images if keep else left_out).append(os.path.join(parent, file))
    left_out += [os.path.join(parent, f) for f in skipped]
  return sorted(images)


def _tfds_dir(data_dir: str | None) -> str | None:
  return str(data_root(data_dir)) if data_dir or os.environ.get('MIXER_DATA_DIR') else None


def _prepare(name: str, data_dir: str | None) -> str:
  where = f", data_dir='{_tfds_dir(data_dir)}'" if _tfds_dir(data_dir) else ''
  return (
    "pip install 'mixer-jax[tfds]' && python -c \"import tensorflow_datasets as tfds; "
    f"tfds.builder('{name}'{where}, file_format='array_record').download_and_prepare()\""
  )


def _tfds_builder(name: str, data_dir: str | None) -> Any:
  """The builder of a data set that TFDS has prepared, or None if it has not."""
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name, data_dir=_tfds_dir(data_dir))
  except (tfds.core.DatasetNotFoundError, ValueError) as error:
    first = str(error).strip().partition('\n')[0]
    raise errors.MixerError(
      f'tfds:{name}: {first} See https://www.tensorflow.org/datasets/catalog/overview for the names.'
    ) from error
  return builder if builder.info.splits else None


def _tfds(name: str, base: str, shape: tuple[int, int, int], data_dir: str | None) -> Source:
  if not importlib.util.find_spec('tensorflow_datasets'):
    raise errors.MixerError(f"tfds:{name}: TFDS is not installed; pip install 'mixer-jax[tfds]'.")
  builder = _tfds_builder(name, data_dir)
  if builder is None:
    raise errors.MixerError(
      f'tfds:{name}: not prepared in {_tfds_dir(data_dir) or "the default directory of TFDS"}; '
      f'prepare it once: {_prepare(name, data_dir)}'
    )
  return _tfds_source(builder, name, base, shape, data_dir)


def _tfds_source(builder: Any, name: str, base: str, shape: tuple[int, int, int], data_dir: str | None) -> Source:
  features = builder.info.features
  missing = [key for key in ('image', 'label') if key not in features]
  if missing:
    raise errors.MixerError(
      f'tfds:{name}: no feature {" and no ".join(missing)}; it has {", ".join(sorted(features))}. '
      'Name a data set that has both an image and a label.'
    )
  if base not in builder.info.splits:
    raise errors.unknown(f'split of tfds:{name}', base, builder.info.splits)
  image, names = features['image'], getattr(features['label'], 'names', None)
  if names is None or image.np_dtype != np.uint8 or len(image.shape) != 3:
    raise errors.MixerError(
      f'tfds:{name}: expected uint8 images and class labels, found {image} and {features["label"]}; '
      'name a data set for classifying images.'
    )
  try:
    data = builder.as_data_source(split=base)
  except NotImplementedError as error:
    raise errors.MixerError(
      f'tfds:{name}: prepared in {builder.data_path} as {builder.info.file_format.value}, which has no '
      f'random access; remove that folder and prepare it anew as array_record: {_prepare(name, data_dir)}'
    ) from error
  read = functools.partial(_read_tfds, data, name, len(names), shape)
  return Source(tuple(names), None, read, len(data))
