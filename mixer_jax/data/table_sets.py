"""A name -> the rows of a table: bundled, UNSW-NB15, any CSV file."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mixer_jax.data import sources, tables
from mixer_jax.errors import MixerError, unknown

SHUFFLE = 0  # seed of the order in which parts such as train[:80%] are cut


@dataclasses.dataclass(frozen=True)
class Known:
  """A published table: where its splits lie in the data directory, and which columns give the label away."""

  files: dict[str, tuple[str, ...]]
  leaks: tuple[str, ...]


KNOWN = {
  'unsw_nb15': Known(
    files={
      'train': ('unsw_nb15/UNSWNB15_training_coursework.csv', 'unsw_nb15/UNSW_NB15_training-set.csv'),
      'test': ('unsw_nb15/UNSWNB15_testing1_coursework.csv', 'unsw_nb15/UNSW_NB15_testing-set.csv'),
    },
    leaks=('id', 'attack_cat'),
  )
}


def is_table(name: str) -> bool:
  return name in KNOWN or name == 'breast_cancer' or name.startswith('csv:')


def load(
  name: str, split: str, *, label: str, drop: Sequence[str], categorical: Sequence[str] | None, data_dir: str | None,
  schema: tables.Schema | None = None,
) -> tables.Table:  # fmt: skip
  """The columns of a split: the features in the file's order, then the label, as text.

  A part such as train[:80%] is cut from the rows in a fixed random order in which equal rows stand together, and never
  between equal ones: no row of one part is a copy of a row of another. Parts are joined by +, as in
  train[:20%]+train[40%:].

  Args:
    name: `breast_cancer` (bundled with scikit-learn), a key of KNOWN, or `csv:PATH`: a file, whose only split is
      `train`, or a folder with train.csv, test.csv, ...
    drop: columns that are not used.
    categorical: columns of text; None takes those of which most cells are no numbers.
    schema: that of the training rows. The split must have their columns, and those of text are theirs.

  Raises:
    MixerError: no such table, split or column; a column known to give the label away that is not dropped; a part
      without rows.
  """
  settings = {'label': label, 'drop': tuple(drop), 'categorical': categorical, 'data_dir': data_dir, 'schema': schema}
  parts = [_part(name, part, **settings) for part in split.split('+')]
  return parts[0] if len(parts) == 1 else tables.concatenate(parts)


def _part(name: str, split: str, *, label, drop, categorical, data_dir, schema) -> tables.Table:
  base = sources.split_base(split)
  path, stamp = None, ()
  if name == 'breast_cancer':
    if base != 'train':
      raise unknown('split', base, ['train'])
  else:
    path = _find(name, base, data_dir)
    stamp = path.stat().st_mtime_ns, path.stat().st_size
    header = tables.read_header(path)
    if schema is None:
      _check_names(name, path, header, drop, categorical or ())
    else:
      schema.check_columns(path, header)
    if label not in header:
      raise _unknown_column(f'column of {path}', label, path, header)
  if schema is not None:
    categorical = tuple(schema.categories)
  elif categorical is None:
    categorical = _infer(path, stamp, label, drop) if path else ()
  table, groups = _read(name, path, stamp, label, drop, tuple(sorted(categorical)))
  _, part = sources.parse_split(split, {base: len(table)})
  if len(part) == len(table):
    return table
  order, starts = groups()
  ends = [*starts, len(table)]
  first, last = (ends[np.searchsorted(ends, edge)] for edge in (part.start, part.stop))
  if first == last:
    raise MixerError(
      f'the split {split!r} of {table.where} has no rows: of its {len(table):,} rows {len(starts):,} differ, and equal'
      ' ones are never parted; give more rows, or cut the splits elsewhere'
    )
  return table.take(order[first:last])


def count_classes(path: Path, label: str) -> int | None:
  """How many values the label of a CSV file has; None where it has no such column."""
  if label not in tables.read_header(path):
    return None
  table = tables.read_csv(path, columns=[label], categorical=[label])
  return len(tables.sorted_classes(tables.label_text(table, label)))


def _unknown_column(kind: str, column: str, path: Path, header: Sequence[str]) -> MixerError:
  return tables.wrong_delimiter(path, header, [column]) or unknown(kind, column, header)


def _check_names(name: str, path: Path, header: Sequence[str], drop: Sequence[str], categorical: Sequence[str]) -> None:
  for what, columns in (('data.drop', drop), ('data.categorical', categorical)):
    for column in columns:
      # Only some copies of a known table have the columns that give its label away.
      if column not in header and not (name in KNOWN and column in KNOWN[name].leaks):
        raise _unknown_column(f'column of {what}', column, path, header)


@functools.lru_cache(maxsize=4)
def _infer(path: Path, _stamp: tuple, label: str, drop: tuple[str, ...]) -> tuple[str, ...]:
  unused = {label, *drop}
  return tuple(tables.infer_categorical(path, [column for column in tables.read_header(path) if column not in unused]))


@functools.lru_cache(maxsize=4)
def _read(
  name: str, path: Path | None, _stamp: tuple, label: str, drop: tuple[str, ...], categorical: tuple[str, ...]
) -> tuple[tables.Table, Callable]:
  """The rows, and a function that gives their groups; kept, unless the file changes, as its stamp tells."""
  if path is None:
    table = _breast_cancer(label, drop)
  else:
    header = tables.read_header(path)
    unused = {label, *drop}
    used = [column for column in header if column not in unused]
    given_away = [column for column in used if name in KNOWN and column in KNOWN[name].leaks]
    if given_away:
      raise MixerError(f'{name}: {", ".join(given_away)} gives the label away; put it into data.drop')
    table = tables.read_csv(path, columns=[*used, label], categorical=[*categorical, label])
  features = [column for column in table.columns if column != label]
  if not features:
    raise tables.no_columns(table.where, label)
  groups = functools.cache(lambda: tables.shuffled_groups(tables.row_keys(table, features), SHUFFLE))
  return table, groups


def _find(name: str, base: str, data_dir: str | None) -> Path:
  root = sources.data_root(data_dir)
  if name in KNOWN:
    if base not in KNOWN[name].files:
      raise unknown('split', base, KNOWN[name].files)
    paths = [root / file for file in KNOWN[name].files[base]]
  else:
    given = Path(name.partition(':')[2]).expanduser()
    place = given if given.exists() or given.is_absolute() else root / given
    if place.is_file() and base != 'train':
      raise unknown(f'split of the file {place}', base, ['train'])
    paths = [place if place.is_file() else place / f'{base}.csv']
  for path in paths:
    if path.is_file():
      return path
  raise MixerError(
    f'{name}: no {" nor ".join(map(str, paths))}; put it there, or say where it is with --data_dir or MIXER_DATA_DIR'
  )


def _breast_cancer(label: str, drop: tuple[str, ...]) -> tables.Table:
  from sklearn import datasets

  data = datasets.load_breast_cancer()
  names = [str(name) for name in data.feature_names]
  if label != 'label':
    raise unknown('label of breast_cancer', label, ['label'])
  for column in drop:
    if column not in names:
      raise unknown('column of breast_cancer', column, names)
  columns = {name: data.data[:, i] for i, name in enumerate(names) if name not in drop}
  text = np.array([str(value) for value in data.target], dtype=object)
  return tables.Table('breast_cancer', columns | {label: text})
