"""Where data sets lie, and which examples a split such as train[:90%] takes."""

import os
import re
from pathlib import Path

from mixer_jax.errors import MixerError, unknown
from mixer_jax.files import cache_folder


def data_root(data_dir: str | None = None) -> Path:
  """Where data sets lie: the argument, else MIXER_DATA_DIR, else mixer_jax in XDG_CACHE_HOME or ~/.cache."""
  if chosen := data_dir or os.environ.get('MIXER_DATA_DIR'):
    return Path(chosen).expanduser()
  return cache_folder()


def split_base(split: str) -> str:
  """'train' of 'train[:90%]'."""
  return _match(split)['base']


def parse_split(split: str, sizes: dict[str, int]) -> tuple[str, range]:
  """The base that a split, 'BASE' or 'BASE[FROM:TO]', names and the indices that it takes of it, in order.

  A boundary is an index or a percentage; negative ones count from the end. A percentage p of n examples is the index
  round(p * n / 100), halves to the even index, as TFDS has it: 'train[:80%]' and 'train[80%:]' never overlap and leave
  nothing out. `sizes` are the numbers of examples of the base splits.

  Refuses an unknown base, malformed text, boundaries outside the data, an empty result.
  """
  base, _, first, last = _match(split).groups()
  if base not in sizes:
    raise unknown('split', base, sizes)
  size = sizes[base]
  start = 0 if first is None else _boundary(first, size, split)
  stop = size if last is None else _boundary(last, size, split)
  if start >= stop:
    raise MixerError(
      f'the split {split!r} is empty: it goes from {start} to {stop} of the {size} examples of {base!r}; '
      'take wider boundaries.'
    )
  return base, range(start, stop)


def _match(split: str) -> re.Match:
  boundary = r'(-?\d+%?)?'
  match = re.fullmatch(rf'(?P<base>[\w.-]+)(?P<slice>\[{boundary}:{boundary}\])?', split)
  if not match:
    raise MixerError(
      f"cannot read the split {split!r}; write 'train', 'train[:90%]', 'train[10%:20%]', 'train[100:]' or "
      "'train[-500:]'."
    )
  return match


def _boundary(text: str, size: int, split: str) -> int:
  percent = text.endswith('%')
  value, limit = int(text.rstrip('%')), 100 if percent else size
  if abs(value) > limit:
    raise MixerError(
      f'the split {split!r} has the boundary {text}, but the data end at {limit}{"%" if percent else ""} '
      f'({size} examples); stay within them.'
    )
  index = round(value * size / 100) if percent else value
  return size + index if value < 0 else index
