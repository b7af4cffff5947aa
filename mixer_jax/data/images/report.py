"""What to look at before trusting folders of images: unused folders, classes that a part lacks, copies of files.

Lines of text, printed when training starts; the data stay as they are.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mixer_jax.data.images import copies, folder
from mixer_jax.data.splits import split_base
from mixer_jax.data.tables.table import some

SHOWN = 12  # names in a line


def report(name: str, splits: Mapping[str, str], data_dir: str | None) -> list[str]:
  """The lines for `image_folder:PATH` or `images:PATH`; `splits` by role, `train` the first."""
  kind, _, path = name.partition(':')
  whole = {base: folder.READERS[kind](path, base, data_dir) for base in {*map(split_base, splits.values())}}
  files = {role: folder.cut(whole[split_base(split)], split) for role, split in splits.items()}
  of_classes = kind == 'image_folder'
  root = folder.find_folder(kind, path, '', data_dir)
  return [*(unused(root, splits) + absent(files) if of_classes else []), *equal(files)]


def unused(root: Path, splits: Mapping[str, str]) -> list[str]:
  """The folders beside those of the splits."""
  bases = {split_base(split) for split in splits.values()}
  if bases & {*folder.VALIDATION}:
    bases.add(folder.validation(root))
  lines = []
  for name in folder.folders(root):
    if name not in bases:
      why = 'no split of config.data names it' if folder.has_labels(root, name) else 'it has no folders of classes'
      lines.append(f'warning: {root / name} is not used: {why}')
  return lines


def absent(files: Mapping[str, folder.Files]) -> list[str]:
  """The classes without an image in a part."""
  lines = []
  for role, of_role in files.items():
    lacking = [of_role.classes[i] for i in np.setdiff1d(np.arange(len(of_role.classes)), of_role.labels)]
    if lacking:
      lines.append(f'warning: {role} has no image of these classes: {some(lacking, SHOWN)}; add some')
  return lines


def equal(files: Mapping[str, folder.Files]) -> list[str]:
  """Files of equal bytes: in training more than once, in several classes, in training and elsewhere."""
  paths = [path for of_role in files.values() for path in of_role.paths]
  if len(paths) > copies.MOST:
    return [f'{len(paths):,} files: too many to look for copies among them, {copies.MOST:,} at most']
  every = iter(copies.keys(paths))
  keys = {role: [next(every) for _ in of_role.paths] for role, of_role in files.items()}
  known: dict = {}  # the first file of a key, and its label
  lines, again, odd = [], [], []
  train = files['train']
  for key, path, label in zip(keys['train'], train.paths, train.labels, strict=True):
    first, its_label = known.setdefault(key, (path, label))
    if first != path:
      again.append((first, path))
      odd += [(first, path)] if label != its_label else []
  if again:
    lines.append(f'warning: {_share(len(again), len(train.paths))} of train are copies of others{_such_as(again)}')
  if odd:
    lines.append(f'warning: {_share(len(odd), len(train.paths))} of train are in two classes{_such_as(odd)}')
  for role in [role for role in files if role != 'train']:
    pairs = list(zip(keys[role], files[role].paths, strict=True))
    if seen := [(known[key][0], path) for key, path in pairs if key in known]:
      lines.append(f'warning: {_share(len(seen), len(pairs))} of {role} are copies of files of train{_such_as(seen)}')
  return lines


def _share(count: int, of: int) -> str:
  return f'{count:,} of the {of:,} files ({count / of:.1%})'


def _such_as(pairs: list[tuple[str, str]]) -> str:
  return ', such as {} and {}; keep one of them'.format(*min(pairs))
