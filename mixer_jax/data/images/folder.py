"""Folders of image files: with a folder for every class, or without classes."""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mixer_jax.data.examples import Source
from mixer_jax.data.images import canvas, decode
from mixer_jax.data.splits import data_root
from mixer_jax.errors import MixerError, unknown

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.gif', '.tif', '.tiff')


class Files(NamedTuple):
  """Image files in the order of their examples, [n]."""

  classes: tuple[str, ...]
  paths: Sequence[str]
  labels: np.ndarray
  notes: tuple[str, ...]
  checked: bool  # whether all headers are read first, for further notes; that takes long for a large data set


def source(files: Files, part: range, shape: tuple[int, int, int], crop_from: int, *, where: str) -> Source:
  """A part of some files as a data set; see sets.load for `shape` and `crop_from`, `where` is for messages."""
  paths, labels = files.paths[part.start : part.stop], files.labels[part.start : part.stop]
  notes = files.notes + (notes_of(where, paths, shape, crop_from) if files.checked else ())
  read = functools.partial(_read, paths, labels, shape, crop_from)
  return Source(files.classes, None, read, len(paths), notes)


def _read(
  paths: Sequence[str], labels: np.ndarray, shape: tuple[int, int, int], crop_from: int, index: int
) -> dict[str, Any]:
  return {**decode.read_file(paths[index], shape, crop_from), 'label': labels[index]}


def notes_of(where: str, files: Sequence[str], shape: tuple[int, int, int], crop_from: int) -> tuple[str, ...]:
  """How many images are converted, enlarged or cut when they are read, by their headers; a line for each kind."""
  headers = {file: decode.read_header(file) for file in files}
  kinds = {
    f'turned from grey to colour or back ({shape[2]} channels)': lambda header: header.channels != shape[2],
    'with transparency laid on white': lambda header: header.transparent,
    f'smaller than {shape[0]}x{shape[1]} enlarged': lambda header: any(
      n < wanted for n, wanted in zip(header.size, shape[:2], strict=True)
    ),
    f'so long that of {crop_from} pixels the middle is kept': lambda header: (
      crop_from and canvas.cut_off(header.size, shape[:2], crop_from)
    ),
  }
  found = {what: [file for file, header in headers.items() if holds(header)] for what, holds in kinds.items()}
  return tuple(f'{where}: {len(which)} {what}, such as {min(which)}' for what, which in found.items() if which)


def read_images(path: str, base: str, data_dir: str | None) -> Files:
  """A folder of images without classes, by name; its split is `all`."""
  if base != 'all':
    raise unknown('split', base, ['all'])
  root, left_out = _find_folder('images', path, '*.jpg', data_dir), []
  paths = _image_files(root, left_out, 'add some.')
  return Files(('image',), paths, np.zeros(len(paths), np.int32), _left_out(root, left_out), checked=True)


def read_image_folder(path: str, base: str, data_dir: str | None) -> Files:
  """SPLIT/CLASS/*.jpg, shuffled: folder by folder, a slice such as train[:90%] would lack whole classes."""
  root = _find_folder('image_folder', path, 'SPLIT/CLASS/*.jpg', data_dir)
  if base not in _folders(root):
    raise unknown(f'split of {root}', base, _folders(root))
  classes = _folders(root / base)
  trained = _folders(root / 'train') if (root / 'train').is_dir() else classes
  if differ := sorted(set(classes) ^ set(trained)):
    raise MixerError(
      f'{root}: the classes of {base!r} and of train differ in {", ".join(differ)} '
      f'({len(classes)} and {len(trained)}); give both the same class folders.'
    )
  if not classes:
    raise MixerError(f'{root / base}: no class folders; put the images in {root / base}/CLASS/.')
  paths, labels = [], []
  left_out = [str(entry) for entry in (root / base).iterdir() if entry.name not in classes]
  for label, name in enumerate(classes):
    images = _image_files(root / base / name, left_out, 'add some or remove the folder.')
    paths += images
    labels += [label] * len(images)
  order = np.random.default_rng(0).permutation(len(paths))
  return Files(
    tuple(classes), [paths[i] for i in order], np.asarray(labels, np.int32)[order],
    _left_out(root / base, left_out), checked=False,
  )  # fmt: skip


READERS = {'image_folder': read_image_folder, 'images': read_images}


def _left_out(root: pathlib.Path, left_out: Sequence[str]) -> tuple[str, ...]:
  return (f'{root}: {len(left_out)} left out that are not images, such as {min(left_out)}',) if left_out else ()


def _folders(path: pathlib.Path) -> list[str]:
  return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith('.'))


def _find_folder(name: str, path: str, holds: str, data_dir: str | None) -> pathlib.Path:
  places = [pathlib.Path(path).expanduser(), data_root(data_dir) / path]
  root = next((place for place in places if place.is_dir()), None)
  if root is None:
    looked = ' nor '.join(dict.fromkeys(str(place) for place in places))
    raise MixerError(
      f'{name}:{path}: neither {looked} is a folder; name one that holds {holds}, '
      'or say where it is with --data_dir or MIXER_DATA_DIR.'
    )
  return root


def _image_files(folder: pathlib.Path, left_out: list[str], way_out: str) -> list[str]:
  images = []
  for parent, folders, files in os.walk(folder):
    # Links are not followed, they could lead back up.
    skipped = [f for f in folders if f.startswith('.') or os.path.islink(os.path.join(parent, f))]
    folders[:] = [f for f in folders if f not in skipped]
    for file in files:
      keep = file.lower().endswith(SUFFIXES) and not file.startswith('.')
      (images if keep else left_out).append(os.path.join(parent, file))
    left_out += [os.path.join(parent, f) for f in skipped]
  if not images:
    raise MixerError(f'{folder}: no images, that is files ending in {" ".join(SUFFIXES)}; {way_out}')
  return sorted(images)
