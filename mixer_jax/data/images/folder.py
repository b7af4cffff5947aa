"""Folders of image files: with a folder for every class, or without classes."""

import functools
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL

from mixer_jax.data.examples import Source
from mixer_jax.data.images import canvas, copies, decode, tiny_imagenet
from mixer_jax.data.splits import data_root, parse_split, split_base
from mixer_jax.errors import MixerError, unknown

VALIDATION = ('val', 'validation', 'valid', 'dev')  # names of one and the same folder
OF_SYSTEMS = ('__MACOSX', '@eaDir')  # what archives of macOS and Synology's disks add, hidden files apart
LOOKED_AT = 100  # files, where not all headers are read, and of which the values are looked at


class Files(NamedTuple):
  """Image files in the order of their examples, [n]."""

  classes: tuple[str, ...]
  paths: Sequence[str]
  labels: np.ndarray
  notes: tuple[str, ...]
  checked: bool  # whether all headers are read first, for further notes; that takes long for a large data set
  starts: np.ndarray  # where files begin that no part may separate from those before them


def cut(files: Files, split: str) -> Files:
  """A part of the files; a boundary among equal files moves to their end."""
  size = len(files.paths)
  part = parse_split(split, {split_base(split): size})[1]
  ends = np.append(files.starts, size)
  first, last = (int(ends[np.searchsorted(ends, edge)]) for edge in (part.start, part.stop))
  if first == last:
    raise MixerError(
      f'the split {split!r} is empty: of its {size:,} files {len(files.starts):,} differ, and equal files stay'
      ' together; take wider boundaries.'
    )
  starts = files.starts[(files.starts >= first) & (files.starts < last)] - first
  return files._replace(paths=files.paths[first:last], labels=files.labels[first:last], starts=starts)


def source(
  files: Files, shape: tuple[int, int, int], crop_from: int, bits: int, *, where: str, look: bool = True
) -> Source:
  """Files as a data set; see sets.load for the arguments, `where` is for messages."""
  most = None if files.checked else LOOKED_AT
  notes = files.notes + (notes_of(where, files.paths, shape, crop_from, bits, most) if look else ())
  read = functools.partial(_read, files.paths, files.labels, shape, crop_from, bits)
  return Source(files.classes, None, read, len(files.paths), notes)


def _read(
  paths: Sequence[str], labels: np.ndarray, shape: tuple[int, int, int], crop_from: int, bits: int, index: int
) -> dict[str, Any]:
  return {**decode.read_file(paths[index], shape, crop_from, bits), 'label': labels[index]}


def notes_of(
  where: str, files: Sequence[str], shape: tuple[int, int, int], crop_from: int, bits: int, most: int | None = None
) -> tuple[str, ...]:
  """How many images are converted, enlarged or cut when they are read, by their headers; a line for each kind.

  Of more than `most` files, so many are looked at.
  """
  looked = _spread(files, most or len(files))
  where += f', {len(looked)} of {len(files):,} files looked at' if len(looked) < len(files) else ''
  headers = {file: decode.read_header(file) for file in looked}
  kinds = {
    f'turned from grey to colour or back ({shape[2]} channels)': lambda header: header.channels != shape[2],
    'with transparency laid on white': lambda header: header.transparent,
    f'with 16 bits a channel scaled to 8 (data.bits is {bits})': lambda header: header.deep,
    f'smaller than {shape[0]}x{shape[1]} enlarged': lambda header: any(
      n < wanted for n, wanted in zip(header.size, shape[:2], strict=True)
    ),
    f'so long that of {crop_from} pixels the middle is kept': lambda header: (
      crop_from and canvas.cut_off(header.size, shape[:2], crop_from)
    ),
  }
  found = {what: [file for file, header in headers.items() if holds(header)] for what, holds in kinds.items()}
  notes = [f'{where}: {len(which)} {what}, such as {min(which)}' for what, which in found.items() if which]
  deep = _spread([file for file, header in headers.items() if header.deep], LOOKED_AT)
  colour = [file for file in deep if headers[file].channels == 3]
  used = max(map(decode.bits_used, deep), default=bits)
  if used < bits:
    notes.append(
      f'warning: {where}: the values of {len(deep)} files of 16 bits need {used} bits at most, so with data.bits='
      f'{bits} the brightest comes out {2 ** (bits - used)} times too dark; '
      + (
        f'{len(colour)} of them are in colour, of which only the upper 8 bits can be read: scale them to 8 bits first'
        if colour
        else 'set data.bits to the bits of the camera or scanner (12 for values up to 4,095)'
      )
    )
  return tuple(notes)


def _spread(files: Sequence[str], most: int) -> Sequence[str]:
  return [files[i] for i in np.linspace(0, len(files) - 1, min(most, len(files))).astype(int)]


def read_images(path: str, base: str, data_dir: str | None) -> Files:
  """A folder of images without classes, by name; its split is `all`."""
  if base != 'all':
    raise unknown('split', base, ['all'])
  root, left_out = find_folder('images', path, '*.jpg', data_dir), []
  paths = image_files(root, left_out, 'add some.')
  every = np.arange(len(paths))
  return Files(('image',), paths, np.zeros(len(paths), np.int32), notes_of_left_out(root, left_out), True, every)


def read_image_folder(path: str, base: str, data_dir: str | None) -> Files:
  """SPLIT/CLASS/*.jpg, or Tiny ImageNet as published, in an order of which every part holds classes in proportion."""
  root = find_folder('image_folder', path, 'SPLIT/CLASS/*.jpg', data_dir)
  if base in VALIDATION:
    base = validation(root) or base
  if base not in folders(root):
    raise unknown(f'split of {root}', base, folders(root))
  trained = folders(root / 'train') if (root / 'train').is_dir() else None
  left_out: list[str] = []
  if annotated := tiny_imagenet.labels(root, base):
    classes = trained or sorted(set(annotated.values()))
    paths = image_files(root / base, left_out, 'add some.')
    left_out = [path for path in left_out if path != str(tiny_imagenet.annotations(root, base))]
    names = tiny_imagenet.check(root, base, annotated, paths, classes)
  else:
    classes = folders(root / base)
    if differ := sorted(set(classes) ^ set(classes if trained is None else trained)):
      raise MixerError(
        f'{root}: the classes of {base!r} and of train differ in {", ".join(differ)} '
        f'({len(classes)} and {len(trained)}); give both the same class folders.'
      )
    if not classes:
      raise MixerError(f'{root / base}: no class folders; put the images in {root / base}/CLASS/.')
    left_out += [str(entry) for entry in (root / base).iterdir() if entry.name not in classes]
    of_class = [image_files(root / base / name, left_out, 'add some or remove the folder.') for name in classes]
    paths = [path for images in of_class for path in images]
    names = [name for name, images in zip(classes, of_class, strict=True) for _ in images]
  number = {name: label for label, name in enumerate(classes)}
  labels = np.array([number[name] for name in names], np.int32)
  order, starts = copies.stratified(copies.keys(paths), labels)
  return Files(
    tiny_imagenet.class_names(root, classes), [paths[i] for i in order], labels[order],
    notes_of_left_out(root / base, left_out), False, starts,
  )  # fmt: skip


READERS = {'image_folder': read_image_folder, 'images': read_images}


def validation(root: pathlib.Path) -> str | None:
  """The folder that VALIDATION names; refuses several."""
  found = [name for name in folders(root) if name in VALIDATION]
  if len(found) > 1:
    raise MixerError(f'{root} has {" and ".join(found)}, which mean the same; keep one of them')
  return found[0] if found else None


def has_labels(root: pathlib.Path, split: str) -> bool:
  """Whether a split's images have classes: by folders, or listed in a file as in Tiny ImageNet."""
  return bool(tiny_imagenet.labels(root, split)) or folders(root / split) not in ([], ['images'])


def notes_of_left_out(root: str | pathlib.Path, left_out: Sequence[str]) -> tuple[str, ...]:
  """How many files are not read, and what kind they are; a line of its own for images that Pillow cannot read."""
  lacking = {suffix for suffix, kind in decode.SUFFIXES.items() if kind not in decode.formats()}
  unreadable = {file for file in left_out if _suffix(file) in lacking and not is_hidden(os.path.basename(file))}
  notes, others = [], [file for file in left_out if file not in unreadable]
  if others:
    most = Counter(filter(None, map(_suffix, others))).most_common(5)
    shown = f' ({", ".join(f"{count} {suffix}" for suffix, count in most)})' if most else ''
    notes.append(
      f'{root}: {len(others)} left out{shown}, such as {min(others)}: no images, hidden, links or in no class folder'
    )
  if unreadable:
    notes.append(
      f'warning: {root}: {len(unreadable)} left out that Pillow {PIL.__version__} as installed cannot read, such'
      f' as {min(unreadable)}; convert them to JPEG or PNG'
    )
  return tuple(notes)


def _suffix(file: str) -> str:
  return os.path.splitext(file)[1].lower()


def is_hidden(name: str) -> bool:
  """Whether a file or folder is none of the user's, but of the system's."""
  return name.startswith('.') or name in OF_SYSTEMS


def folders(path: pathlib.Path) -> list[str]:
  """The folders in a folder that are not hidden, by name."""
  return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def find_folder(name: str, path: str, holds: str, data_dir: str | None) -> pathlib.Path:
  places = [pathlib.Path(path).expanduser(), data_root(data_dir) / path]
  root = next((place for place in places if place.is_dir()), None)
  if root is None:
    looked = ' nor '.join(dict.fromkeys(str(place) for place in places))
    raise MixerError(
      f'{name}:{path}: neither {looked} is a folder; name one that holds {holds}, '
      'or say where it is with --data_dir or MIXER_DATA_DIR.'
    )
  return root


def image_files(folder: str | pathlib.Path, left_out: list[str], way_out: str) -> list[str]:
  """The images in a folder at any depth, by name; `left_out` gets everything else. Refuses a folder without images."""
  images, readable = [], decode.formats()
  for parent, inner, files in os.walk(folder, onerror=_refuse):
    # Links are not followed, they could lead back up.
    skipped = [f for f in inner if is_hidden(f) or os.path.islink(os.path.join(parent, f))]
    inner[:] = [f for f in inner if f not in skipped]
    for file in files:
      keep = decode.SUFFIXES.get(_suffix(file)) in readable and not is_hidden(file)
      (images if keep else left_out).append(os.path.join(parent, file))
    left_out += [os.path.join(parent, f) for f in skipped]
  if not images:
    suffixes = ' '.join(suffix for suffix, kind in decode.SUFFIXES.items() if kind in readable)
    inside = [file for file in left_out if pathlib.Path(file).is_relative_to(folder)]
    notes = ' '.join(f'({note.removeprefix("warning: ")})' for note in notes_of_left_out(folder, inside))
    raise MixerError(f'{folder}: no images, that is files ending in {suffixes} {notes}; {way_out}')
  return sorted(images)


def _refuse(error: OSError) -> None:
  raise MixerError(f'{error.filename}: cannot be read ({error.strerror}); change its permissions') from error
