"""Decoders of files: images, the IDX files of MNIST, the layouts of CIFAR. No code is ever unpickled."""

import contextlib
import gzip
import io
import math
import os
import pathlib
import pickle
import struct
import tarfile
import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mixer_jax import errors

CIFAR10_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')

MODES = {1: 'L', 3: 'RGB'}

# For each published layout: its folder, its files by split, the file of class names, in pickles the keys.
CIFAR = {
  'cifar10': {
    'bin': {
      'folder': 'cifar-10-batches-bin',
      'archive': 'cifar-10-binary.tar.gz',
      'train': [f'data_batch_{k}.bin' for k in range(1, 6)],
      'test': ['test_batch.bin'],
      'names': 'batches.meta.txt',
    },
    'py': {
      'folder': 'cifar-10-batches-py',
      'archive': 'cifar-10-python.tar.gz',
      'train': [f'data_batch_{k}' for k in range(1, 6)],
      'test': ['test_batch'],
      'names': 'batches.meta',
      'names_key': 'label_names',
      'label_key': 'labels',
    },
  },
  'cifar100': {
    'bin': {
      'folder': 'cifar-100-binary',
      'archive': 'cifar-100-binary.tar.gz',
      'train': ['train.bin'],
      'test': ['test.bin'],
      'names': 'fine_label_names.txt',
    },
    'py': {
      'folder': 'cifar-100-python',
      'archive': 'cifar-100-python.tar.gz',
      'train': ['train'],
      'test': ['test'],
      'names': 'meta',
      'names_key': 'fine_label_names',
      'label_key': 'fine_labels',
    },
  },
}


def fit_image(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
  """`image`, uint8 [h, w, c], brought to `shape` = (height, width, channels), uint8.

  An image of that shape is returned as it is. Else the largest centred window of the target's aspect ratio is
  resized (bilinear, antialiased): what resizing the shorter side and cropping the centre gives, without
  building the uncropped image. 1 channel becomes 3 by repetition, 3 become 1 by the luma of ITU-R 601.

  Raises MixerError for any other change of channels.
  """
  height, width, channels = shape
  if image.dtype != np.uint8 or image.ndim != 3:
    raise errors.MixerError(
      f'expected an image of uint8 [h, w, c], found {image.dtype} {list(image.shape)}; convert it first.'
    )
  h, w, c = image.shape
  if image.shape == tuple(shape):
    return image
  if c != channels and not {c, channels} <= set(MODES):
    raise errors.MixerError(
      f'cannot turn an image of {c} channels into one of {channels}, only 1 into 3 and back; '
      f'set the config to {c} channels or convert the images.'
    )
  if not h or not w:
    raise errors.MixerError(f'expected an image of at least one pixel, found the shape {image.shape}.')
  if c not in MODES:
    planes = [fit_image(image[:, :, k : k + 1], (height, width, 1)) for k in range(c)]
    return np.concatenate(planes, axis=-1)
  picture = Image.fromarray(image[:, :, 0] if c == 1 else image).convert(MODES[channels])
  scale = min(h / height, w / width)
  top, left = (h - scale * height) / 2, (w - scale * width) / 2
  if scale == 1:
    # A pure crop must not land between two pixels, where it would blur the image.
    picture = picture.crop((int(left), int(top), int(left) + width, int(top) + height))
  else:
    box = (left, top, min(left + scale * width, w), min(top + scale * height, h))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
  return np.array(picture).reshape(shape)


def read_image(path: str | os.PathLike, shape: tuple[int, int, int]) -> np.ndarray:
  """The image file at `path`, uint8, of `shape` = (height, width, channels); see read_pixels and fit_image."""
  return fit_image(read_pixels(path, shape[2]), shape)


class Header(NamedTuple):
  """What an image file holds, as it will be read: (height, width), 1 or 3 channels, whether any may be transparent."""

  size: tuple[int, int]
  channels: int
  transparent: bool


def read_header(path: str | os.PathLike) -> Header:
  """The header of the image file at `path`, without its pixels.

  Raises MixerError as read_pixels.
  """
  with _named(path), Image.open(path) as picture:
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    grey = picture.mode in ('1', 'L', 'LA', 'F') or picture.mode.startswith('I')
    size = picture.size if turned else picture.size[::-1]
    return Header(size, 1 if grey else 3, picture.has_transparency_data)


def read_pixels(path: str | os.PathLike, channels: int) -> np.ndarray:
  """The image file at `path` in its own size, uint8 [height, width, channels].

  The EXIF orientation is applied, palettes are looked up, 16-bit grey is scaled to 8 bits (v / 257, rounded),
  and transparency is laid on white. Of an animation it is the first frame. 1 channel becomes 3 by repetition,
  3 become 1 by the luma of ITU-R 601.

  Raises MixerError naming `path` for a file that is missing, damaged, no image or over Pillow's pixel limit.
  """
  if channels not in MODES:
    raise errors.MixerError(
      f'{path}: an image file has 1 or 3 channels, the config wants {channels}; set it to 1 or 3.'
    )
  with _named(path), Image.open(path) as picture:
    return _pixels(ImageOps.exif_transpose(picture), MODES[channels])


@contextlib.contextmanager
def _named(path: str | os.PathLike):
  """What Pillow raises, as an error that names the file."""
  try:
    yield
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise errors.MixerError(f'{path}: {error} Make the image smaller.') from error
  # What Pillow's decoders raise for damaged files.
  except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise errors.MixerError(f'{path}: cannot be read as an image ({reason}); mend or remove it.') from error


def fit_canvas(image: np.ndarray, crop: tuple[int, int], side: int) -> tuple[np.ndarray, np.ndarray]:
  """`image`, uint8 [h, w, c], in the corner of a square canvas, and the (height, width) that it takes of it, int32.

  It is made smaller until its longer side is `side`, but neither smaller nor larger than (height, width) = `crop`
  needs; what is then beyond the canvas is cut off on both sides alike.

  Args:
    crop: what will be cut out of it, at most `side`.
  """
  channels = image.shape[2]
  scale, size = _scaled(image.shape[:2], crop, side)
  picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
  picture = picture if scale == 1 else picture.resize(size[::-1], Image.Resampling.BILINEAR)
  pixels = np.array(picture).reshape(*size, channels)
  top, left = (max(0, n - side) // 2 for n in size)
  pixels = pixels[top : top + side, left : left + side]
  canvas = np.zeros((side, side, channels), np.uint8)
  canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
  return canvas, np.array(pixels.shape[:2], np.int32)


def cut_off(size: tuple[int, int], crop: tuple[int, int], side: int) -> bool:
  """Whether fit_canvas cuts off something of an image of this (height, width)."""
  return max(_scaled(size, crop, side)[1]) > side


def _scaled(size: tuple[int, int], crop: tuple[int, int], side: int) -> tuple[float, tuple[int, int]]:
  height, width = size
  scale = max(min(1, side / max(height, width)), crop[0] / height, crop[1] / width)
  return scale, (max(crop[0], round(height * scale)), max(crop[1], round(width * scale)))


def _pixels(picture: Image.Image, mode: str) -> np.ndarray:
  if picture.mode == 'F' or picture.mode.startswith('I'):
    values = np.asarray(picture)
    if values.dtype.kind == 'f' or values.min() < 0 or values.max() > 65535:
      raise ValueError(f'expected 8 or 16 bits per channel, found {values.dtype} up to {values.max()}')
    picture = Image.fromarray(np.round(values / 257).astype(np.uint8))
  if picture.has_transparency_data:
    picture = picture.convert('RGBA')
    picture = Image.alpha_composite(Image.new('RGBA', picture.size, 'white'), picture)
  pixels = np.asarray(picture.convert(mode))
  return pixels[:, :, None] if mode == 'L' else pixels


def read_idx(path: pathlib.Path, ndim: int) -> np.ndarray:
  """The uint8 array of `ndim` dimensions in an IDX file, gzipped if its name ends in .gz.

  Raises MixerError for a wrong magic number, a length other than the header's, or a corrupt gzip stream.
  Format: http://yann.lecun.com/exdb/mnist/ (magic 0x00 0x00 0x08 ndim, big-endian sizes, bytes).
  """
  again = 'download the file again'
  try:
    data = path.read_bytes()
    if path.suffix == '.gz':
      data = gzip.decompress(data)
  except (OSError, EOFError, zlib.error) as error:
    raise errors.MixerError(f'{path}: expected a readable gzip or IDX file, found: {error}; {again}.') from error
  header = 4 + 4 * ndim
  if len(data) < header:
    raise errors.MixerError(f'{path}: expected an IDX header of {header} bytes, found {len(data)} bytes; {again}.')
  magic, expected = int.from_bytes(data[:4], 'big'), 0x800 + ndim
  if magic != expected:
    raise errors.MixerError(
      f'{path}: expected magic number {expected} (IDX, uint8, {ndim} dimensions), found {magic}; {again}.'
    )
  shape = tuple(int.from_bytes(data[k : k + 4], 'big') for k in range(4, header, 4))
  if len(data) - header != math.prod(shape):
    raise errors.MixerError(
      f'{path}: expected {math.prod(shape)} bytes of data for the shape {shape} in its header, '
      f'found {len(data) - header}; {again}.'
    )
  return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def checked(images: np.ndarray, labels: np.ndarray, classes: int, where: object) -> dict[str, np.ndarray]:
  """The arrays {'image': uint8 [n, h, w, c], 'label': int32 [n]}, counts and label range checked.

  Raises MixerError naming `where` the data come from.
  """
  if len(images) != len(labels) or not len(labels):
    raise errors.MixerError(
      f'{where}: expected as many labels as images and at least one, found {len(images)} images and '
      f'{len(labels)} labels; download the files again.'
    )
  wrong = np.flatnonzero((labels < 0) | (labels >= classes))
  if len(wrong):
    raise errors.MixerError(
      f'{where}: expected labels from 0 to {classes - 1}, found {labels[wrong[0]]} at example {wrong[0]}; '
      'download the files again.'
    )
  return {'image': images, 'label': labels.astype(np.int32)}


def _refused(what: str) -> pickle.UnpicklingError:
  return pickle.UnpicklingError(f'refused to load {what}, which a plain uint8 array does not need')


def _uint8(name: str | bytes, *_: object) -> np.dtype:
  if name not in ('u1', b'u1'):
    raise _refused(f'the dtype {name!r}')
  # A copy, since the pickle goes on to set its state, and np.dtype('u1') is shared by the whole process.
  return np.dtype('u1', copy=True)


def _latin1(text: str, encoding: str) -> bytes:
  if encoding != 'latin1':
    raise _refused(f'the encoding {encoding!r}')
  return text.encode(encoding)


# NumPy moved this private function between modules; its own arrays always know where it is.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
  ('numpy.core.multiarray', '_reconstruct'): _RECONSTRUCT,
  ('numpy._core.multiarray', '_reconstruct'): _RECONSTRUCT,
  ('numpy', 'ndarray'): np.ndarray,
  ('numpy', 'dtype'): _uint8,
  ('_codecs', 'encode'): _latin1,
}


class _Unpickler(pickle.Unpickler):
  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _ALLOWED:
      raise _refused(f'{module}.{name}')
    return _ALLOWED[module, name]


def unpickle(data: bytes, where: object) -> dict[str, Any]:
  """The dict of builtin containers and uint8 arrays pickled in `data`, with its keys as str.

  Raises MixerError naming `where` for any other content; nothing that the pickle names is imported or run.
  """
  try:
    found = _Unpickler(io.BytesIO(data), encoding='bytes').load()
  except Exception as error:  # a damaged pickle can raise anything
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise errors.MixerError(
      f'{where}: expected a pickled dict of uint8 arrays and lists, found: {reason}; download the file again.'
    ) from error
  if not isinstance(found, dict):
    raise errors.MixerError(f'{where}: expected a pickled dict, found {type(found).__name__}; download the file again.')
  return {_text(key): value for key, value in found.items()}


def _text(value: object) -> str:
  return value.decode(errors='replace') if isinstance(value, bytes) else str(value)


def _archive(path: pathlib.Path, folder: str, names: list[str]) -> dict[str, bytes]:
  found = {}
  try:
    with gzip.open(path) as stream:
      with tarfile.open(fileobj=stream, mode='r:') as tar:
        for member in tar:
          inner = pathlib.PurePosixPath(member.name)
          if member.isfile() and inner.name in names and inner.parent.name == folder:
            found[inner.name] = tar.extractfile(member).read()
      # tarfile stops before the end of the file, where gzip's checksum is.
      while stream.read(1 << 20):
        pass
  except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
    raise errors.MixerError(
      f'{path}: expected a gzipped tar archive, found: {error}; download the file again.'
    ) from error
  return found


def _binary_batch(data: bytes, where: str, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
  record = label_bytes + 3072
  if not data or len(data) % record:
    raise errors.MixerError(
      f'{where}: expected a whole number of records of {record} bytes, found {len(data)} bytes, '
      f'{len(data) % record} left over; download the file again.'
    )
  rows = np.frombuffer(data, np.uint8).reshape(-1, record)
  # CIFAR-100 stores the coarse label, then the fine one.
  return rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int32)


def _pickled_batch(data: bytes, where: str, label_key: str) -> tuple[np.ndarray, np.ndarray]:
  batch = unpickle(data, where)
  if 'data' not in batch or label_key not in batch:
    raise errors.MixerError(
      f"{where}: expected the keys 'data' and {label_key!r}, found {', '.join(sorted(batch))}; download the file again."
    )
  images, labels = batch['data'], batch[label_key]
  if not (isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (3072,)):
    found = f'{images.dtype} {images.shape}' if isinstance(images, np.ndarray) else type(images).__name__
    raise errors.MixerError(f"{where}: expected 'data' to be uint8 (n, 3072), found {found}; download the file again.")
  if not (isinstance(labels, list) and all(type(label) is int for label in labels)):
    raise errors.MixerError(f'{where}: expected {label_key!r} to be a list of integers; download the file again.')
  if len(images) != len(labels):
    raise errors.MixerError(
      f'{where}: expected as many labels as images, found {len(images)} images and {len(labels)} labels.'
    )
  return images, np.asarray(labels, np.int64)


def read_cifar(name: str, split: str, root: pathlib.Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]] | None:
  """CIFAR-10 or CIFAR-100 from one of its published layouts, or None where `root` has none of them.

  Looked for in this order, the first that has any file of `split` wins: the binary layout, then the Python
  one, each as its own folder, as files directly in `root`, or as the .tar.gz archive, which is not extracted.

  Returns ({'image': uint8 [n, 32, 32, 3], 'label': int32 [n]}, class names), for CIFAR-100 the fine ones.
  Raises MixerError for missing or damaged files. Source: https://www.cs.toronto.edu/~kriz/cifar.html
  """
  classes = 10 if name == 'cifar10' else 100
  for kind, layout in CIFAR[name].items():
    wanted = layout[split]
    for place in (root / layout['folder'], root, root / layout['archive']):
      names = [*wanted, layout['names']]
      if place.suffix == '.gz':
        if not place.is_file():
          continue
        files = _archive(place, layout['folder'], names)
      else:
        files = {file: (place / file).read_bytes() for file in names if (place / file).is_file()}
        if not any(file in files for file in wanted):
          continue
      missing = [file for file in wanted if file not in files]
      if missing:
        raise errors.MixerError(
          f'{place}: {split!r} has {len(wanted)} files, found {len(wanted) - len(missing)}, '
          f'missing {", ".join(missing)}; download the archive again.'
        )
      batches = [_batch(name, kind, files[file], f'{place}/{file}') for file in wanted]
      images = np.concatenate([images for images, _ in batches])
      # Stored one colour plane after another.
      images = np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
      labels = np.concatenate([labels for _, labels in batches])
      return checked(images, labels, classes, place), _cifar_names(name, layout, files, place, classes)
  return None


def _batch(name: str, kind: str, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
  if kind == 'bin':
    return _binary_batch(data, where, label_bytes=1 if name == 'cifar10' else 2)
  return _pickled_batch(data, where, CIFAR[name][kind]['label_key'])


def _cifar_names(
  name: str, layout: dict[str, Any], files: dict[str, bytes], place: pathlib.Path, classes: int
) -> tuple[str, ...]:
  file = layout['names']
  if file not in files:
    return CIFAR10_CLASSES if name == 'cifar10' else tuple(str(k) for k in range(classes))
  if 'names_key' in layout:
    names = tuple(_text(n) for n in unpickle(files[file], f'{place}/{file}').get(layout['names_key'], ()))
  else:
    names = tuple(_text(files[file]).split())
  if len(names) != classes:
    raise errors.MixerError(
      f'{place}/{file}: expected {classes} class names, found {len(names)}; mend or delete the file.'
    )
  return names
