"""A name -> the rows of a table: bundled, UNSW-NB15, any CSV file, a function of the user's."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixer_jax import parts
from mixer_jax.data import own
from mixer_jax.data.splits import data_root, parse_split, split_base
from mixer_jax.data.tables import checks, csv
from mixer_jax.data.tables.schema import Schema, classes_of, label_text, no_columns
from mixer_jax.data.tables.table import PLAIN, Notation, Table, concatenate
from mixer_jax.errors import MixerError, unknown

VAL = ('val', 'validation', 'valid', 'dev')  # names of the file that is val
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


def breast_cancer(split: str) -> Table:
  """569 tumours in 30 measures, benign (1) or malignant (0), bundled with scikit-learn."""
  from sklearn import datasets

  if split != 'train':
    raise unknown('split', split, ['train'])
  data = datasets.load_breast_cancer()
  columns = {str(name): data.data[:, i] for i, name in enumerate(data.feature_names)}
  return Table('breast_cancer', columns | {'label': data.target})


FUNCTIONS: dict[str, Callable[..., Any]] = {'breast_cancer': breast_cancer}


def is_table(name: str) -> bool:
  """Whether a data set of that name is a table; the module of a user's function is imported for its annotation."""
  if name in KNOWN or name in FUNCTIONS or name.startswith('csv:'):
    return True
  return own.is_function(name) and own.returns_table(name)


def load(
  name: str, split: str, *, label: str, drop: Sequence[str], categorical: Sequence[str] | None, data_dir: str | None,
  notation: Notation = PLAIN, schema: Schema | None = None, stratified: bool = False,
) -> Table:  # fmt: skip
  """The columns of a split: the features in their order, then the label, as text.

  A part such as train[:80%] is cut from the rows in a fixed random order, and never between equal ones: no row of one
  part is a copy of a row of another. Parts are joined by +, as in train[:20%]+train[40%:].

  Args:
    name: `breast_cancer` (bundled with scikit-learn), a key of KNOWN, `csv:PATH`: a file, whose only split is `train`,
      or a folder with train.csv, test.csv, ..., plain or as .csv.gz; or `module:function`: (split, *, data_dir=None)
      -> Table, a dict of columns or anything with `columns`, such as a DataFrame.
    drop: columns that are not used.
    categorical: columns of text; None takes those of which most cells are not numbers.
    notation: of the numbers in files.
    schema: that of the training rows. The split must have their columns, and its text columns are the schema's.
    stratified: parts have each class in proportion, and a part from 0% on has all of them.

  Refuses an unknown table, split or column, one known to give the label away that is not dropped, a part without rows.
  """
  given = label, tuple(drop), categorical, data_dir, notation, schema, stratified
  tables = [_part(name, part, *given) for part in split.split('+')]
  return tables[0] if len(tables) == 1 else concatenate(tables)


def _part(name: str, split: str, label, drop, categorical, data_dir, notation, schema, stratified) -> Table:
  base = split_base(split)
  if name in KNOWN or name.startswith('csv:'):
    path = _find(name, base, data_dir)
    where, header = path, csv.read_header(path)
    file = path, path.stat().st_mtime_ns, path.stat().st_size
  else:
    rows = _rows(parts.find(name, FUNCTIONS, 'data.name'), name, base, data_dir)
    where, header, file = rows.where, list(rows.columns), None
  if schema is None:
    leaks = KNOWN[name].leaks if name in KNOWN else ()  # only some copies of a known table have these
    for what, columns in (('data.drop', drop), ('data.categorical', categorical or ())):
      if unknown_columns := [column for column in columns if column not in header and column not in leaks]:
        raise _unknown_column(f'column of {what}', unknown_columns[0], where, header)
  else:
    schema.check_columns(where, header)
    categorical = tuple(schema.categories)
  if label not in header:
    raise _unknown_column(f'column of {where}', label, where, header)
  if file:
    categorical = _infer(*file, label, drop, notation) if categorical is None else categorical
    table, groups = _read(name, *file, label, drop, tuple(sorted(categorical)), notation)
  else:
    table, groups = _select(rows, label, drop, None if categorical is None else tuple(sorted(categorical)))
  _, part = parse_split(split, {base: len(table)})
  if len(part) == len(table):
    return table
  order, starts = groups(stratified)
  ends = [*starts, len(table)]
  first, last = (ends[np.searchsorted(ends, edge)] for edge in (part.start, part.stop))
  if first == last:
    raise MixerError(
      f'the split {split!r} of {table.where} has no rows: of its {len(table):,} rows {len(starts):,} differ, and'
      ' identical rows are kept together; give more rows, or cut the splits elsewhere'
    )
  return table.take(order[first:last])


def count_classes(path: Path, label: str) -> int:
  """How many values the label of a CSV file has; 0 where it has no such column."""
  if label not in csv.read_header(path):
    return 0
  table = csv.read_csv(path, columns=[label], categorical=[label])
  return len(classes_of(table, label))


def own_splits(path: Path) -> dict[str, str]:
  """The splits of a file or a folder of one's own, for a config: test and val where they are there, else of train.

  Of a file a tenth is val and a fifth test; of a train.csv beside a test.csv a tenth is val, to choose the checkpoint.
  """
  found = lambda *names: [name for name in names if path.is_dir() and _packed(path / f'{name}.csv')]
  val, test = found(*VAL), found('test')
  if len(val) > 1:
    raise MixerError(
      f'{path} has {" and ".join(f"{name}.csv" for name in val)}, of which one only can be val; keep one'
    )
  if val:
    return {'train': 'train', 'val': val[0]} | ({'test': 'test'} if test else {})
  if test:
    return {'train': 'train[:90%]', 'val': 'train[90%:]', 'test': 'test'}
  return {'train': 'train[:70%]', 'val': 'train[70%:80%]', 'test': 'train[80%:]'}


def own_file(path: Path) -> Path | None:
  """The file of the training rows: path itself, or train.csv or train.csv.gz in it."""
  return path if path.is_file() else _packed(path / 'train.csv')


def _packed(path: Path) -> Path | None:
  """A file, or the same with .gz."""
  return next(filter(Path.is_file, (path, path.with_name(f'{path.name}.gz'))), None)


def unused(name: str, splits: Sequence[str], data_dir: str | None) -> list[str]:
  """The CSV files in the folder of csv:PATH that belong to none of these splits."""
  place = _place(name, data_dir) if name.startswith('csv:') else None
  if not place or not place.is_dir():
    return []
  used = {_find(name, split_base(part), data_dir) for split in splits for part in split.split('+')}
  return sorted(file.name for file in place.iterdir() if file.name.endswith(('.csv', '.csv.gz')) and file not in used)


def _unknown_column(kind: str, column: str, where: str | Path, header: Sequence[str]) -> MixerError:
  return csv.wrong_header(where, header, [column]) or unknown(kind, column, header)


# ---- files


def _place(name: str, data_dir: str | None) -> Path:
  """The file or the folder that csv:PATH names."""
  given = Path(name.partition(':')[2]).expanduser()
  return given if given.exists() or given.is_absolute() else data_root(data_dir) / given


def _find(name: str, base: str, data_dir: str | None) -> Path:
  if name in KNOWN:
    if base not in KNOWN[name].files:
      raise unknown('split', base, KNOWN[name].files)
    paths = [data_root(data_dir) / file for file in KNOWN[name].files[base]]
  else:
    place = _place(name, data_dir)
    if place.is_file() and base != 'train':
      raise unknown(f'split of the file {place}', base, ['train'])
    paths = [place if place.is_file() else place / f'{base}.csv']
  if found := next(filter(None, map(_packed, paths)), None):
    return found
  raise MixerError(
    f'{name}: no {" nor ".join(map(str, paths))}, nor with .gz; put it there, or say where it is with --data_dir or'
    ' MIXER_DATA_DIR'
  )


@functools.lru_cache(maxsize=4)
def _infer(
  path: Path, _time: int, _size: int, label: str, drop: tuple[str, ...], notation: Notation
) -> tuple[str, ...]:
  columns = [column for column in csv.read_header(path) if column not in {label, *drop}]
  return tuple(csv.infer_categorical(path, columns, notation))


@functools.lru_cache(maxsize=4)
def _read(
  name: str, path: Path, _time: int, _size: int, label: str, drop: tuple[str, ...], categorical: tuple[str, ...],
  notation: Notation,
) -> tuple[Table, Callable]:  # fmt: skip
  """The rows, and a function that gives their groups; kept, unless the file changes."""
  unused = {label, *drop}
  used = [column for column in csv.read_header(path) if column not in unused]
  if given_away := [column for column in used if name in KNOWN and column in KNOWN[name].leaks]:
    raise MixerError(f'{name}: {", ".join(given_away)} gives the label away; put it into data.drop')
  table = csv.read_csv(path, columns=[*used, label], categorical=[*categorical, label], notation=notation)
  return _grouped(table, label)


def _grouped(table: Table, label: str) -> tuple[Table, Callable]:
  features = [column for column in table.columns if column != label]
  if not features:
    raise no_columns(table.where, label)
  labels = lambda stratified: label_text(table, label) if stratified else None
  groups = lambda stratified: checks.shuffled_groups(checks.row_keys(table, features), SHUFFLE, labels(stratified))
  return table, functools.cache(groups)


# ---- functions


@functools.lru_cache(maxsize=4)
def _rows(function: Callable, name: str, base: str, data_dir: str | None) -> Table:
  """What a function gives, as a table of NumPy's columns of any kind; refuses what is no table, by its name."""
  found = own.call(function, base, data_dir)
  names = found if isinstance(found, Mapping) else getattr(found, 'columns', None)
  if names is None:
    raise MixerError(
      f'data.name: {name} gave {type(found).__name__} for {base!r}, but must give a Table or a dict of columns'
    )
  values = found.columns if isinstance(found, Table) else found  # of a DataFrame they are names alone
  columns = {str(column): np.asarray(values[column]) for column in names}
  shapes = ', '.join(f'{column!r} {list(array.shape)}' for column, array in list(columns.items())[:20])
  if not columns or any(array.ndim != 1 for array in columns.values()):
    raise MixerError(f'data.name: {name} gave the columns {shapes or "none"} for {base!r}, but each must be [rows]')
  if len({len(array) for array in columns.values()}) > 1 or not len(next(iter(columns.values()))):
    raise MixerError(
      f'data.name: {name} gave the columns {shapes} for {base!r}; all must have the same length, at least 1'
    )
  is_table = isinstance(found, Table)
  return Table(found.where if is_table else f'{name}, {base}', columns, found.rows if is_table else None)


@functools.lru_cache(maxsize=4)
def _select(
  rows: Table, label: str, drop: tuple[str, ...], categorical: tuple[str, ...] | None
) -> tuple[Table, Callable]:
  """The columns in use: float64, or text for categories and the label; `categorical` None: all but numbers."""
  unused, columns = {label, *drop}, {}
  for name in [*(name for name in rows.columns if name not in unused), label]:
    array = rows.columns[name]
    is_number = array.dtype.kind in 'fiub'
    if name == label or (not is_number if categorical is None else name in categorical):
      columns[name] = np.array([_text(cell) for cell in array.tolist()], dtype=object)
    elif not is_number:
      raise MixerError(f'{rows.where}, column {name!r} holds text; name it among data.categorical')
    else:
      columns[name] = array.astype(np.float64)
      if len(bad := np.flatnonzero(np.isinf(columns[name]))):
        raise MixerError(f'{rows.where}, row {rows.numbers[bad[0]]}, column {name!r}: {array[bad[0]]} is infinite')
  return _grouped(Table(rows.where, columns, rows.rows), label)


def _text(cell: Any) -> str:
  return '' if cell is None or cell != cell else str(cell).strip()  # nan is not itself
