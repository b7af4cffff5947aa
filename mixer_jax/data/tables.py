"""Tables: a CSV file and a schema -> numbers that a Mixer takes, scaled as the training rows say.

A table is read in two steps. `read_csv` gives columns as they are in the file: float64 for numbers, text for
categories. `fit` looks at training rows and gives a Schema, which turns any table of the same columns into arrays:
  features [rows, columns], float32: every column scaled, a category as the number of its value;
  categories [rows, categorical columns], int32: that number itself, 0 for a value no training row has.
The schema is plain JSON and lies in the run directory, so that rows met later are treated as those of the training.
"""

import csv
import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixer_jax.errors import MixerError, unknown

MISSING = ('', 'na', 'n/a', 'nan', 'null', 'none', '?')  # in columns of numbers, in any case
ROWS, CELLS = 1024, 2**20  # of a file held as text at once, at most: cells are what weighs in a wide table
QUANTILES = 256
UNKNOWN = 0  # the number of a category that no training row has
OTHER_DELIMITERS = ';\t|'
WHOLE = re.compile(r'[+-]?[0-9]{1,4000}')  # Python turns no more than 4,300 digits into a number
EXACT = 2.0**53  # below it a float64 is one whole number only


@dataclasses.dataclass(frozen=True)
class Table:
  """Columns by name, in the file's order: float64 [rows] with nan where a number is missing, or text [rows].

  `rows` are their numbers in the file, where they are not 1, 2, 3, ...
  """

  where: str
  columns: dict[str, np.ndarray]
  rows: np.ndarray | None = None

  def __len__(self) -> int:
    return len(next(iter(self.columns.values())))

  @property
  def numbers(self) -> np.ndarray:
    """The number of every row in the file, from 1."""
    return np.arange(1, len(self) + 1) if self.rows is None else self.rows

  def take(self, rows: np.ndarray) -> 'Table':
    return Table(self.where, {name: column[rows] for name, column in self.columns.items()}, self.numbers[rows])


def concatenate(parts: Sequence[Table]) -> Table:
  """Tables of the same columns, one below the other."""
  columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
  return Table(parts[0].where, columns, np.concatenate([part.numbers for part in parts]))


def read_header(path: str | Path) -> list[str]:
  """The names of the columns of a CSV file.

  Raises:
    MixerError: no file, an empty one, not text, a name twice or missing, another delimiter.
  """
  path = Path(path)
  try:
    with path.open(encoding='utf-8-sig', newline='') as file:
      header = next(_reader(file), None)
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    reason = getattr(error, 'strerror', None) or str(error)
    raise MixerError(f'{path} cannot be read as a table ({reason}); give a CSV file in UTF-8') from error
  if not header:
    raise MixerError(f'{path} is empty; its first line must name the columns')
  header = [name.strip() for name in header]
  others = [d for d in OTHER_DELIMITERS if d in header[0]]
  if len(header) == 1 and others:
    raise _delimited(path, header, others[0])
  places: dict[str, int] = {}
  for i, name in enumerate(header):
    if not name:
      raise MixerError(f'{path}: column {i + 1} has no name; name it in the first line')
    if name in places:
      raise MixerError(f'{path}: the column {name!r} is there twice, as number {places[name] + 1} and {i + 1}')
    places[name] = i
  return header


def _delimited(path: str | Path, header: Sequence[str], delimiter: str) -> MixerError:
  first = ','.join(header)[:60]
  return MixerError(f'{path} begins with {first!r}, which seems to be cut by {delimiter!r}; save it with commas')


def wrong_delimiter(path: str | Path, header: Sequence[str], missing: Iterable[str]) -> MixerError | None:
  """The error for a header that lacks columns because it is cut by something else than commas, if it seems so."""
  line, missing = ','.join(header), frozenset(missing)
  for delimiter in OTHER_DELIMITERS:
    if delimiter in line and not missing.isdisjoint(name.strip() for name in line.split(delimiter)):
      return _delimited(path, header, delimiter)
  # A name may have a space in it, but the only one of a table that lacks columns hardly has.
  return _delimited(path, header, ' ') if len(header) == 1 and ' ' in line else None


def _reader(file: Iterable[str]) -> Iterator[list[str]]:
  def lines():
    for line in file:
      if '\0' in line:
        raise csv.Error('a NUL byte')
      yield line

  # strict: else a quote that is not closed takes the rest of the file into one cell.
  return csv.reader(lines(), strict=True)


def rows_at_once(columns: int) -> int:
  """How many rows of so many columns are held as text at once."""
  return max(1, min(ROWS, CELLS // columns))


def read_cells(path: str | Path) -> Iterator[tuple[int, dict[str, list[str]]]]:
  """(number of the first row, columns of text), rows_at_once at a time; rows count from 1 below the header.

  Blank lines may end the file.

  Raises:
    MixerError: as read_header, a row with more or fewer cells than the header, a blank line above a row.
  """
  header = read_header(path)
  most = rows_at_once(len(header))
  with Path(path).open(encoding='utf-8-sig', newline='') as file:
    rows: list[list[str]] = []
    number, blank = 0, None
    reader = _reader(file)
    next(reader)
    try:
      for row in reader:
        if not row:
          blank = blank or reader.line_num
          continue
        if blank:
          raise _blank_line(path, blank, header)
        number += 1
        if len(row) != len(header):
          raise MixerError(f'{path}, row {number}: {len(row)} cells, but the header has {len(header)}')
        rows.append(row)
        if len(rows) == most:
          yield number - most + 1, dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
          rows = []
    except (UnicodeDecodeError, csv.Error) as error:
      quote = ' and close every quote' if isinstance(error, csv.Error) else ''
      raise MixerError(f'{path}, after row {number}: {error}; give a CSV file in UTF-8{quote}') from error
    if rows:
      yield number - len(rows) + 1, dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def _blank_line(path: str | Path, line: int, header: Sequence[str]) -> MixerError:
  empty = ', or write "" where its only cell is empty' if len(header) == 1 else ''
  return MixerError(f'{path}, line {line}: the line is blank, but rows follow; take it out{empty}')


def numbers(cells: Sequence[str], *, where: str, first: int, column: str) -> np.ndarray:
  """Text -> float64, nan where a number is missing.

  Raises:
    MixerError: a cell that is no number, or is infinite, by row and column.
  """
  try:
    values = _floats(cells)
  except ValueError:
    values = np.array([_number(cell) for cell in cells])
    bad = np.flatnonzero([v is None for v in values])
    if len(bad):
      raise MixerError(
        f'{where}, row {first + bad[0]}, column {column!r}: {cells[bad[0]]!r} is no number; mend it, or train with the'
        ' column among data.categorical'
      ) from None
    values = values.astype(np.float64)
  if np.isinf(values).any():
    bad = int(np.flatnonzero(np.isinf(values))[0])
    raise MixerError(
      f'{where}, row {first + bad}, column {column!r}: {cells[bad]!r} is infinite; mend it or leave it empty'
    )
  return values


def _floats(cells: Sequence[str]) -> np.ndarray:
  if '_' in ''.join(cells):  # to Python 1_000 is a number, in a table it is a name
    raise ValueError
  return np.array(cells, dtype=object).astype(np.float64)


def _number(cell: str) -> float | None:
  if cell.strip().lower() in MISSING:
    return float('nan')
  try:
    return float(cell) if '_' not in cell else None
  except ValueError:
    return None


def infer_categorical(path: str | Path, columns: Sequence[str]) -> list[str]:
  """Which of the columns hold categories: those of which most cells are no numbers.

  Raises:
    MixerError: a column of numbers with some cells that are none, by the first such row.
  """
  texts = dict.fromkeys(columns, 0)
  first_text: dict[str, tuple[int, str]] = {}
  present = dict.fromkeys(columns, 0)
  for first, cells in read_cells(path):
    for name in columns:
      try:
        _floats(cells[name])
        present[name] += len(cells[name])
      except ValueError:
        values = [_number(cell) for cell in cells[name]]
        bad = [i for i, value in enumerate(values) if value is None]
        texts[name] += len(bad)
        present[name] += sum(value is None or value == value for value in values)
        if bad:
          first_text.setdefault(name, (first + bad[0], cells[name][bad[0]]))
  for name in columns:
    if 0 < 2 * texts[name] <= present[name]:
      row, cell = first_text[name]
      raise MixerError(
        f'{path}, row {row}, column {name!r}: {cell!r} is no number, as most of that column are; mend it, or name the'
        ' column among data.categorical'
      )
  return [name for name in columns if texts[name]]


def to_columns(cells: Mapping[str, list[str]], categorical: Sequence[str], *, where: str, first: int) -> Table:
  """Columns of text -> a Table."""
  categorical = frozenset(categorical)
  columns = {
    name: np.array([cell.strip() for cell in column], dtype=object)
    if name in categorical
    else numbers(column, where=where, first=first, column=name)
    for name, column in cells.items()
  }
  return Table(where, columns, first + np.arange(len(next(iter(columns.values())))))


def read_csv(path: str | Path, *, columns: Sequence[str], categorical: Sequence[str]) -> Table:
  """The whole of some columns of a file, `categorical` of them as text.

  Raises:
    MixerError: what read_cells and numbers refuse, a missing column, a file without rows.
  """
  header = read_header(path)
  present = frozenset(header)
  missing = [name for name in columns if name not in present]
  if missing:
    raise wrong_delimiter(path, header, missing) or MixerError(
      f'{path} has no column {some(map(repr, missing))}; it has {some(header)}'
    )
  parts = [
    to_columns({name: cells[name] for name in columns}, categorical, where=str(path), first=first)
    for first, cells in read_cells(path)
  ]
  if not parts:
    raise no_rows(path)
  return concatenate(parts)


def no_rows(path: str | Path) -> MixerError:
  return MixerError(f'{path} has a header, but no rows; put some below it')


def no_columns(where: str, label: str) -> MixerError:
  return MixerError(f'{where}: no column is left beside the label {label!r}; drop fewer')


def some(names: Iterable[str], most: int = 20) -> str:
  """Names in a line of bounded length."""
  names = list(names)
  return ', '.join(names[:most]) + (f', ... ({len(names):,} in all)' if len(names) > most else '')


# ---- the schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
  """How the columns of a table become numbers; made by `fit`, kept as JSON.

  Attributes:
    label: the column to predict.
    classes: its values; their index is the label.
    columns: the columns that are used, in the order in which a model sees them.
    dropped: those that are there, but not used.
    categories: of each categorical column the values of the training rows; number i + 1 is value i.
    scaling: a key of SCALINGS.
    statistics: what the scaling learnt, by name, a list with one entry a column.
    fill: what stands for a missing number, by column: the median of the training rows.
  """

  label: str
  classes: tuple[str, ...]
  columns: tuple[str, ...]
  dropped: tuple[str, ...]
  categories: dict[str, tuple[str, ...]]
  scaling: str
  statistics: dict[str, list]
  fill: dict[str, float]

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> 'Schema':
    try:
      categories = {name: tuple(values) for name, values in value['categories'].items()}
      lists = {name: tuple(value[name]) for name in ('classes', 'columns', 'dropped')}
      return cls(**{**value, **lists, 'categories': categories})
    except (KeyError, TypeError, AttributeError) as error:
      raise MixerError(f'this is no schema of a table ({error}); restore it, or train again') from error

  def check_columns(self, where: str | Path, names: Iterable[str]) -> None:
    """Refuses a table that lacks a column, or has one that the training rows had not; their order is free."""
    names, allowed = list(names), {*self.columns, *self.dropped, self.label}
    present = frozenset(names)
    missing = [name for name in self.columns if name not in present]
    extra = [name for name in names if name not in allowed]
    if missing or extra:
      raise wrong_delimiter(where, names, missing) or MixerError(
        f'{where} does not fit the run: it lacks {some(map(repr, missing)) or "nothing"} and has'
        f' {some(map(repr, extra)) or "nothing"} besides; give it the columns {some(self.columns)}'
      )

  def arrays(self, table: Table) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """(features, categories), and how often a cell had no value of its own: {'COLUMN: unknown' or 'missing': n}.

    Raises:
      MixerError: a number so far from those of the training rows that, scaled, it is no float32.
    """
    values, codes, counts = _values(table, self.columns, self.categories, self.fill)
    with np.errstate(over='ignore', invalid='ignore'):
      features = SCALINGS[self.scaling][1](values, self.statistics).astype(np.float32)
    if not np.isfinite(features).all():
      row, column = np.argwhere(~np.isfinite(features))[0]
      raise _too_large(table, row, self.columns[column], self.scaling)
    return {'features': features, 'categories': codes}, counts

  def labels(self, table: Table) -> np.ndarray:
    """int32 [rows].

    Raises:
      MixerError: a label that no training row has, by row.
    """
    known = {value: k for k, value in enumerate(self.classes)}
    labels = [known.get(value) for value in label_text(table, self.label)]
    if None in labels:
      row = labels.index(None)
      raise MixerError(
        f'{table.where}, row {table.numbers[row]}, column {self.label!r}: {table.columns[self.label][row]!r} is none'
        f' of the classes {some(self.classes)}; mend it, or train on rows that have it'
      )
    return np.array(labels, np.int32)


def label_text(table: Table, label: str) -> list[str]:
  """Labels as text, whole numbers without a point: 1, +1, 1.0 and 1e0 are one class."""
  return [_label(str(cell)) for cell in table.columns[label]]


def _label(cell: str) -> str:
  if WHOLE.fullmatch(cell):
    return str(int(cell))
  value = _number(cell)
  # What a float64 cannot tell from its neighbours stays as it is written, or two classes would become one.
  return str(int(value)) if value is not None and value.is_integer() and abs(value) < EXACT else cell


def sorted_classes(labels: Iterable[str]) -> tuple[str, ...]:
  """The values of a label, by number where all are whole numbers, else by the alphabet."""
  values = set(labels)
  whole = all(map(WHOLE.fullmatch, values))
  return tuple(sorted(values, key=int if whole else str))


def fit(
  table: Table, *, label: str, dropped: Sequence[str], categorical: Sequence[str], scaling: str, column_order: int = 0
) -> Schema:
  """The schema of training rows.

  Args:
    column_order: 0 leaves the columns in the file's order; another number is the seed of a random one.

  Raises:
    MixerError: an unknown scaling, no columns left, labels that are missing, all the same or mostly different.
  """
  if scaling not in SCALINGS:
    raise unknown('data.scaling', scaling, SCALINGS)
  unused = {label, *dropped}
  columns = tuple(name for name in table.columns if name not in unused)
  if not columns:
    raise no_columns(table.where, label)
  if column_order:
    columns = tuple(columns[i] for i in np.random.default_rng(column_order).permutation(len(columns)))
  labels = label_text(table, label)
  empty = [i for i, text in enumerate(labels) if text.strip().lower() in MISSING]
  if empty:
    row = table.numbers[empty[0]]
    raise MixerError(f'{table.where}, row {row}: the label {label!r} is missing; mend it or leave the row out')
  classes = sorted_classes(labels)
  if len(classes) < 2:
    raise MixerError(
      f'{table.where}: every row has the label {classes[0]!r}; there is nothing to learn, give rows of two classes or'
      ' name another column with data.label'
    )
  if 20 < len(classes) > len(labels) / 2:
    raise MixerError(
      f'{table.where}: the label {label!r} has {len(classes):,} values in {len(labels):,} rows, so it names no classes;'
      ' name another column with data.label, or put its values into classes'
    )
  text_columns = frozenset(categorical)
  categories = {name: tuple(sorted(set(table.columns[name]))) for name in columns if name in text_columns}
  fill = {}
  for name in columns:
    if name not in categories:
      present = table.columns[name][~np.isnan(table.columns[name])]
      if not len(present):
        raise MixerError(f'{table.where}: the column {name!r} is empty in every row; drop it with data.drop')
      fill[name] = float(np.median(present))
  values, _, _ = _values(table, columns, categories, fill)
  with np.errstate(over='ignore', invalid='ignore'):
    learnt = SCALINGS[scaling][0](values)
  if not all(np.isfinite(value).all() for value in learnt.values()):
    row, column = np.unravel_index(np.abs(values).argmax(), values.shape)
    raise _too_large(table, row, columns[column], scaling)
  statistics = {name: np.asarray(value).tolist() for name, value in learnt.items()}
  return Schema(
    label=label, classes=classes, columns=columns, dropped=tuple(dropped), categories=categories, scaling=scaling,
    statistics=statistics, fill=fill,
  )  # fmt: skip


def _too_large(table: Table, row: int, column: str, scaling: str) -> MixerError:
  return MixerError(
    f'{table.where}, row {table.numbers[row]}, column {column!r}: {table.columns[column][row]} is too large for the'
    f' scaling {scaling!r}; mend it, or train with data.scaling=quantile'
  )


def _values(table: Table, columns, categories, fill) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
  """float64 [rows, columns] before scaling, int32 [rows, categorical columns], and what had no value."""
  values, codes, counts = np.empty((len(table), len(columns))), [], {}
  for i, name in enumerate(columns):
    column = table.columns[name]
    if name in categories:
      known = {value: k + 1 for k, value in enumerate(categories[name])}
      codes.append(np.array([known.get(value, UNKNOWN) for value in column], np.int32))
      values[:, i] = codes[-1]
      lost, kind = codes[-1] == UNKNOWN, 'unknown'
    else:
      lost, kind = np.isnan(column), 'missing'
      values[:, i] = np.where(lost, fill[name], column)
    if lost.any():
      counts[f'{name}: {kind}'] = int(lost.sum())
  return values, np.stack(codes, axis=1) if codes else np.zeros((len(table), 0), np.int32), counts


# ---- scalings: (values of the training rows -> statistics, (values, statistics) -> scaled values)


def fit_global(values: np.ndarray) -> dict:
  """One maximum, mean and deviation for the whole table, as if it were an image."""
  highest = np.abs(values).max() or 1.0
  scaled = values / highest
  return {'highest': highest, 'mean': scaled.mean(), 'std': scaled.std() or 1.0}


def scale_global(values: np.ndarray, of: Mapping[str, Any]) -> np.ndarray:
  return (values / of['highest'] - of['mean']) / of['std']


def fit_standard(values: np.ndarray) -> dict:
  """Mean and deviation of each column; a column that never changes is left at 0."""
  mean, std = values.mean(axis=0), values.std(axis=0)
  return {'mean': mean, 'std': np.where(std > 1e-9 * np.abs(mean), std, 1)}  # rounding alone is no deviation


def scale_standard(values: np.ndarray, of: Mapping[str, Any]) -> np.ndarray:
  return (values - np.array(of['mean'])) / np.array(of['std'])


def signed_log(values: np.ndarray) -> np.ndarray:
  return np.sign(values) * np.log1p(np.abs(values))


def fit_quantile(values: np.ndarray) -> dict:
  """Evenly spaced quantiles of each column."""
  return {'quantiles': np.quantile(values, np.linspace(0, 1, QUANTILES), axis=0)}


def scale_quantile(values: np.ndarray, of: Mapping[str, Any]) -> np.ndarray:
  """The share of training rows below a value, from -1 to 1; of equal values the middle.

  scikit-learn's QuantileTransformer, but for the lowest and the highest value, which it puts at the ends.
  """
  levels, result = np.linspace(-1, 1, QUANTILES), np.empty_like(values)
  for i, quantiles in enumerate(np.array(of['quantiles']).T):
    below = np.interp(values[:, i], quantiles, levels)
    above = -np.interp(-values[:, i], -quantiles[::-1], levels)
    result[:, i] = (below + above) / 2
  return result


SCALINGS = {
  'global': (fit_global, scale_global),
  'standard': (fit_standard, scale_standard),
  'log': (lambda x: fit_standard(signed_log(x)), lambda x, of: scale_standard(signed_log(x), of)),
  'quantile': (fit_quantile, scale_quantile),
}


# ---- what is worth knowing of a table before trusting a result


def row_keys(table: Table, columns: Sequence[str]) -> list[bytes]:
  """16 bytes a row, equal for rows that are equal in those columns: numbers by value, missing ones equal too.

  A key takes little memory however wide the row, and is the same for a row of another table.
  """
  words: dict[str, int] = {}

  def bits(column: np.ndarray) -> np.ndarray:
    if column.dtype == object:
      for word in set(column) - words.keys():
        words[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), 'little')
      return np.array([words[word] for word in column], np.uint64)
    return np.where(np.isnan(column), np.nan, column + 0.0).view(np.uint64)  # + 0.0: -0 is 0

  keys = []
  most = rows_at_once(len(columns))
  for start in range(0, len(table), most):
    block = np.stack([bits(table.columns[name][start : start + most]) for name in columns], axis=1)
    keys += [hashlib.blake2b(row, digest_size=16).digest() for row in block]
  return keys


def shuffled_groups(keys: Sequence[bytes], seed: int) -> tuple[np.ndarray, np.ndarray]:
  """An order of the rows in which equal ones stand together, groups shuffled, and where each group starts.

  A part of the rows cut at such a start shares no row with the rest.
  """
  numbers: dict[bytes, int] = {}
  group = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
  place = np.random.default_rng(seed).permutation(len(numbers))[group]
  order = np.argsort(place, kind='stable')
  return order, np.flatnonzero(np.diff(place[order], prepend=-1))


def single_column_accuracy(table: Table, schema: Schema, labels: np.ndarray) -> dict[str, float]:
  """How well each column alone predicts the label on these rows.

  A number by the majority class of a leaf of a small tree that saw the row, a category by that of the other rows which
  have it: there may be a category for every few rows, and a tree would either pass over them or learn them by heart.
  """
  from sklearn.tree import DecisionTreeClassifier

  values, _, _ = _values(table, schema.columns, schema.categories, schema.fill)
  rarest = int(np.unique(labels, return_counts=True)[1].min())  # a leaf may hold it and nothing else
  leaf = max(1, min(20, len(labels) // 20, rarest))
  tree = DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=leaf, random_state=0)
  result = {}
  for i, name in enumerate(schema.columns):
    column = values[:, [i]]
    result[name] = (
      _majority_accuracy(column[:, 0], labels)
      if name in schema.categories
      else float(tree.fit(column, labels).score(column, labels))
    )
  return result


def _majority_accuracy(values: np.ndarray, labels: np.ndarray) -> float:
  """The share of rows whose label is the commonest of the other rows with that value; a tie counts as wrong.

  A row that has its value for itself is given the commonest label of all.
  """
  commonest = np.bincount(labels).argmax()
  of_value = defaultdict(list)
  for (value, label), count in Counter(zip(values.tolist(), labels.tolist(), strict=True)).items():
    of_value[value].append((count, label))
  right = 0
  for counts in of_value.values():
    (most, label), (second, _) = sorted([*counts, (0, 0)], reverse=True)[:2]
    if most > second + 1:  # without the row itself, too
      right += most
    elif most + second == 1:
      right += int(label == commonest)
  return right / len(labels)
