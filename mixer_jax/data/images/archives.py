"""The published files of MNIST and CIFAR: IDX, and CIFAR's layouts in binary and in Python's pickles.

Ours, since TFDS, the library that reads them, needs TensorFlow to prepare them.

A pickle can run any code. CIFAR's are opened only where they are the published files, by their checksums.

A file is read as far as its header says, and refused beyond MOST_IDX, MOST_FILE or MOST_ARCHIVE bytes: what is packed
may be a thousand times as large as the file.
"""

import gzip
import hashlib
import math
import pathlib
import pickle
import tarfile
import zlib
from typing import Any, BinaryIO

import numpy as np

from mixer_jax.errors import MixerError
from mixer_jax.files import check_start

MOST_IDX = 2**30  # bytes of an array: twice those of EMNIST, the largest set in this format
MOST_FILE = 160_000_000  # bytes of a file of CIFAR: the largest published one has 155,249,918
MOST_ARCHIVE = 2**28  # bytes of an unpacked archive of CIFAR: the published ones have 186,000,000
MOST_MEMBERS = 100  # of such an archive: the published ones have 9

Native = tuple[dict[str, np.ndarray], tuple[str, ...]]  # arrays as published, and the names of the classes

DIGITS = tuple('0123456789')
FASHION = (
  'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
)  # fmt: skip
IDX_PREFIX = {'train': 'train', 'test': 't10k'}
FILES = {  # in words
  **dict.fromkeys(('mnist', 'fashion_mnist'), '{idx}-images-idx3-ubyte[.gz] and {idx}-labels-idx1-ubyte[.gz]'),
  'cifar10': '{split} files of cifar-10-batches-bin, cifar-10-batches-py or their .tar.gz archives',
  'cifar100': '{split} files of cifar-100-binary, cifar-100-python or their .tar.gz archives',
}
CIFAR10_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')

# For each published layout: its folder, its files by split, the file of class names, in pickles the key of these.
CIFAR = {
  'cifar10': {
    'bin': {
      'folder': 'cifar-10-batches-bin', 'archive': 'cifar-10-binary.tar.gz', 'names': 'batches.meta.txt',
      'train': [f'data_batch_{k}.bin' for k in range(1, 6)], 'test': ['test_batch.bin'],
    },
    'py': {
      'folder': 'cifar-10-batches-py', 'archive': 'cifar-10-python.tar.gz', 'names': 'batches.meta',
      'train': [f'data_batch_{k}' for k in range(1, 6)], 'test': ['test_batch'], 'names_key': 'label_names',
    },
  },
  'cifar100': {
    'bin': {
      'folder': 'cifar-100-binary', 'archive': 'cifar-100-binary.tar.gz', 'names': 'fine_label_names.txt',
      'train': ['train.bin'], 'test': ['test.bin'],
    },
    'py': {
      'folder': 'cifar-100-python', 'archive': 'cifar-100-python.tar.gz', 'names': 'meta',
      'train': ['train'], 'test': ['test'], 'names_key': 'fine_label_names',
    },
  },
}  # fmt: skip
# MD5 of the pickles, as published with them.
CHECKSUMS = {
  'cifar10': {
    'data_batch_1': 'c99cafc152244af753f735de768cd75f',
    'data_batch_2': 'd4bba439e000b95fd0a9bffe97cbabec',
    'data_batch_3': '54ebc095f3ab1f0389bbae665268c751',
    'data_batch_4': '634d18415352ddfa80567beed471001a',
    'data_batch_5': '482c414d41f54cd18b22e5b47cb7c3cb',
    'test_batch': '40351d587109b95175f43aff81a1287e',
    'batches.meta': '5ff9c542aee3614f3951f8cda6e48888',
  },
  'cifar100': {
    'train': '16019d7e3df5f24257cddd939b257f8d',
    'test': 'f0ef6b0ae62326f3e7ffdfab6717acfc',
    'meta': '7973b15100ade9c7d40fb424638fde48',
  },
}


def read_mnist(name: str, split: str, root: pathlib.Path) -> Native | None:
  """MNIST or Fashion-MNIST from IDX files, gzipped or not; None where `root` has none, an error where it lacks one."""
  files = [f'{IDX_PREFIX[split]}-{part}-ubyte' for part in ('images-idx3', 'labels-idx1')]
  paths = [next((p for p in (root / f, root / f'{f}.gz') if p.is_file()), None) for f in files]
  if paths == [None, None]:
    return None
  if None in paths:
    here, missing = (0, 1) if paths[0] else (1, 0)
    raise MixerError(
      f'{name}: found {paths[here]}, but neither {files[missing]} nor {files[missing]}.gz beside it; '
      'download that file too.'
    )
  images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
  arrays = checked(images[..., None], labels, 10, f'{paths[0]} and {paths[1].name}')
  return arrays, FASHION if name == 'fashion_mnist' else DIGITS


def read_idx(path: pathlib.Path, ndim: int) -> np.ndarray:
  """The uint8 array of `ndim` dimensions in an IDX file, gzipped if its name ends in .gz.

  Raises MixerError for a wrong magic number, a length other than the header's, a corrupt gzip stream and more than
  MOST_IDX bytes. Format: http://yann.lecun.com/exdb/mnist/ (magic 0x00 0x00 0x08 ndim, big-endian sizes, bytes).
  """
  again = 'download the file again'
  check_start(path)
  try:
    with gzip.open(path) if path.suffix == '.gz' else path.open('rb') as file:
      return _idx(file, ndim)
  except _Wrong as error:
    raise MixerError(f'{path}: expected {error}; {again}.') from error
  except (OSError, EOFError, zlib.error) as error:
    raise MixerError(f'{path}: expected a readable gzip or IDX file, found: {error}; {again}.') from error


class _Wrong(Exception):
  """What was expected, and found instead."""


def _idx(file: BinaryIO, ndim: int) -> np.ndarray:
  length = 4 + 4 * ndim
  header = file.read(length)
  if len(header) < length:
    raise _Wrong(f'an IDX header of {length} bytes, found {len(header)} bytes')
  (magic, *shape), expected = np.frombuffer(header, '>u4').tolist(), 0x800 + ndim
  if magic != expected:
    raise _Wrong(f'magic number {expected} (IDX, uint8, {ndim} dimensions), found {magic}')
  size = math.prod(shape)
  if size > MOST_IDX:
    raise _Wrong(f'at most {MOST_IDX:,} bytes of data, found {size:,} for the shape {tuple(shape)} in its header')
  data = file.read(size)
  if len(data) < size or file.read(1):
    found = len(data) if len(data) < size else 'more'
    raise _Wrong(f'{size} bytes of data for the shape {tuple(shape)} in its header, found {found}')
  return np.frombuffer(data, np.uint8).reshape(shape)


def checked(images: np.ndarray, labels: np.ndarray, classes: int, where: object) -> dict[str, np.ndarray]:
  """{'image': uint8 [n, h, w, c], 'label': int32 [n]}, counts and labels checked; `where` is for messages."""
  if len(images) != len(labels) or not len(labels):
    raise MixerError(
      f'{where}: expected as many labels as images and at least one, found {len(images)} images and '
      f'{len(labels)} labels; download the files again.'
    )
  wrong = np.flatnonzero((labels < 0) | (labels >= classes))
  if len(wrong):
    raise MixerError(
      f'{where}: expected labels from 0 to {classes - 1}, found {labels[wrong[0]]} at example {wrong[0]}; '
      'download the files again.'
    )
  return {'image': images, 'label': labels.astype(np.int32)}


class _Bounded(gzip.GzipFile):
  """What is packed, up to MOST_ARCHIVE bytes: tarfile reads and skips as much as a header asks for."""

  def read(self, size: int) -> bytes:
    self._check(self.tell() + size)
    return super().read(size)

  def seek(self, offset: int, whence: int = 0) -> int:
    self._check(offset)
    return super().seek(offset, whence)

  def _check(self, end: int) -> None:
    if end > MOST_ARCHIVE:
      raise OSError(f'more than {MOST_ARCHIVE:,} bytes when unpacked')


def _archive(path: pathlib.Path, folder: str, names: list[str]) -> dict[str, bytes]:
  found = {}
  check_start(path)
  try:
    with _Bounded(path) as stream:
      with tarfile.open(fileobj=stream, mode='r:') as tar:
        for number, member in enumerate(tar):
          if number >= MOST_MEMBERS:
            raise OSError(f'more than {MOST_MEMBERS} files')
          inner = pathlib.PurePosixPath(member.name)
          if member.isfile() and inner.name in names and inner.parent.name == folder:
            _check_size(f'{path}/{inner.name}', member.size)
            found[inner.name] = tar.extractfile(member).read()
      # tarfile stops before the end of the file, where gzip's checksum is.
      while stream.read(1 << 20):
        pass
  except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
    raise MixerError(f'{path}: expected a gzipped tar archive, found: {error}; download the file again.') from error
  return found


def _check_size(where: str, size: int) -> None:
  if size > MOST_FILE:
    raise MixerError(f'{where}: expected at most {MOST_FILE:,} bytes, found {size:,}; download the file again.')


def _read_file(path: pathlib.Path) -> bytes:
  check_start(path)
  _check_size(str(path), path.stat().st_size)
  return path.read_bytes()


def read_cifar(name: str, split: str, root: pathlib.Path) -> Native | None:
  """CIFAR-10 or CIFAR-100, with its fine labels, from one of its published layouts; None where `root` has none of them.

  The binary layout is looked for first, then the Python one: each as its own folder, as files directly in `root`, or as
  the .tar.gz archive, which is not extracted. The first place that has any file of `split` wins.

  Raises MixerError for missing or damaged files. Source: https://www.cs.toronto.edu/~kriz/cifar.html
  """
  for layout in CIFAR[name].values():
    wanted = layout[split]
    for place in (root / layout['folder'], root, root / layout['archive']):
      names = [*wanted, layout['names']]
      if place.suffix == '.gz':
        if not place.is_file():
          continue
        files = _archive(place, layout['folder'], names)
      else:
        files = {file: _read_file(place / file) for file in names if (place / file).is_file()}
        if files.keys().isdisjoint(wanted):
          continue
      if missing := [file for file in wanted if file not in files]:
        raise MixerError(
          f'{place}: {split!r} has {len(wanted)} files, found {len(wanted) - len(missing)}, '
          f'missing {", ".join(missing)}; download the archive again.'
        )
      batches = [_batch(name, layout, files[file], f'{place}/{file}') for file in wanted]
      images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
      # Stored one colour plane after another.
      images = np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
      classes = 10 if name == 'cifar10' else 100
      return checked(images, labels, classes, place), _class_names(name, layout, files, place, classes)
  return None


def _batch(name: str, layout: dict[str, Any], data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
  """(images [n, 3072], labels [n]) of a file."""
  if 'names_key' in layout:
    batch = _unpickle(name, data, where)
    return batch['data'], np.asarray(batch['labels' if name == 'cifar10' else 'fine_labels'], np.int64)
  label_bytes = 1 if name == 'cifar10' else 2  # CIFAR-100 stores the coarse label, then the fine one
  record = label_bytes + 3072
  if not data or len(data) % record:
    raise MixerError(
      f'{where}: expected a whole number of records of {record} bytes, found {len(data)} bytes, '
      f'{len(data) % record} left over; download the file again.'
    )
  rows = np.frombuffer(data, np.uint8).reshape(-1, record)
  return rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int32)


def _unpickle(name: str, data: bytes, where: str) -> dict[str, Any]:
  """A published pickle, with its keys as str; refuses any other file: opening it could run code."""
  file = where.rpartition('/')[2]
  found, published = hashlib.md5(data, usedforsecurity=False).hexdigest(), CHECKSUMS[name][file]
  if found != published:
    raise MixerError(
      f'{where} is not the published file: its MD5 is {found}, not {published}. A pickle can run code, so it is not'
      f' opened; download {CIFAR[name]["bin"]["archive"]} instead, which holds plain bytes.'
    )
  return {_text(key): value for key, value in pickle.loads(data, encoding='bytes').items()}


def _text(value: object) -> str:
  return value.decode(errors='replace') if isinstance(value, bytes) else str(value)


def _class_names(name: str, layout: dict, files: dict, place: pathlib.Path, classes: int) -> tuple[str, ...]:
  file = layout['names']
  if file not in files:
    return CIFAR10_CLASSES if name == 'cifar10' else tuple(map(str, range(classes)))
  if 'names_key' in layout:
    names = tuple(map(_text, _unpickle(name, files[file], f'{place}/{file}')[layout['names_key']]))
  else:
    names = tuple(_text(files[file]).split())
  if len(names) != classes:
    raise MixerError(f'{place}/{file}: expected {classes} class names, found {len(names)}; fix or delete the file.')
  return names
