"""CSV files -> tables: numbers as float64, categories as text.

Python's csv cuts the lines. The rest is ours, and not a data frame's, so that every refusal names row and column, no
cell changes its kind silently, and a file of any length is read a few rows at a time.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mixer_jax.data.tables.table import OTHERS, PLAIN, Notation, Table, concatenate, rows_at_once, some
from mixer_jax.errors import MixerError
from mixer_jax.files import check_start

OTHER_DELIMITERS = ';\t|'
LOOKED_AT = 1000  # texts of a column by which numbers in another notation are found


def read_header(path: str | Path) -> list[str]:
  """The names of the columns of a CSV file.

  Refuses a missing or empty file, one that is not text, a name twice or missing, another delimiter.
  """
  path = Path(path)
  check_start(path)
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
  """The error for a header that lacks columns since its delimiter is not a comma, if it seems so."""
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


def read_cells(path: str | Path) -> Iterator[tuple[int, dict[str, list[str]]]]:
  """(number of the first row, columns of text), rows_at_once at a time; row 1 is below the header.

  Blank lines may end the file. Refuses a row with more or fewer cells than the header, a blank line above a row.
  """
  header = read_header(path)
  most = rows_at_once(len(header))
  in_columns = lambda rows: dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
  with Path(path).open(encoding='utf-8-sig', newline='') as file:
    rows, number, blank, reader = [], 0, None, _reader(file)
    next(reader)
    try:
      for row in reader:
        if not row:
          blank = blank or reader.line_num
          continue
        if blank:
          empty = ', or write "" where its only cell is empty' if len(header) == 1 else ''
          raise MixerError(f'{path}, line {blank}: the line is blank, but rows follow; take it out{empty}')
        number += 1
        if len(row) != len(header):
          raise MixerError(f'{path}, row {number}: {len(row)} cells, but the header has {len(header)}')
        rows.append(row)
        if len(rows) == most:
          yield number - most + 1, in_columns(rows)
          rows = []
    except (UnicodeDecodeError, csv.Error) as error:
      quote = ' and close every quote' if isinstance(error, csv.Error) else ''
      raise MixerError(f'{path}, after row {number}: {error}; give a CSV file in UTF-8{quote}') from error
    if rows:
      yield number - len(rows) + 1, in_columns(rows)


def numbers(cells: Sequence[str], *, where: str, first: int, column: str, notation: Notation = PLAIN) -> np.ndarray:
  """Text -> float64, nan where a number is missing; refuses text and infinite numbers, by row and column."""
  try:
    values = _floats(cells, notation)
  except ValueError:
    values = np.array([notation.number(cell) for cell in cells])
    bad = np.flatnonzero([v is None for v in values])
    if len(bad):
      raise MixerError(
        f'{where}, row {first + bad[0]}, column {column!r}: {cells[bad[0]]!r} is not a number; fix it, or train with'
        ' the column among data.categorical'
      ) from None
    values = values.astype(np.float64)
  if len(bad := np.flatnonzero(np.isinf(values))):
    raise MixerError(
      f'{where}, row {first + bad[0]}, column {column!r}: {cells[bad[0]]!r} is infinite; fix it or leave it empty'
    )
  return values


def _floats(cells: Sequence[str], notation: Notation) -> np.ndarray:
  if not notation.is_plain or '_' in ''.join(cells):  # to Python 1_000 is a number, in a table it is a name
    raise ValueError
  return np.array(cells, dtype=object).astype(np.float64)


def infer_categorical(path: str | Path, columns: Sequence[str], notation: Notation = PLAIN) -> list[str]:
  """The columns of which most cells are not numbers.

  Refuses a column of numbers with some text, and one of numbers in another notation, by its first row.
  """
  looked_at: dict[str, list[str]] = {name: [] for name in columns}
  texts, present = dict.fromkeys(columns, 0), dict.fromkeys(columns, 0)
  first_text: dict[str, tuple[int, str]] = {}
  for first, cells in read_cells(path):
    for name in columns:
      try:
        _floats(cells[name], notation)
        present[name] += len(cells[name])
      except ValueError:
        values = [notation.number(cell) for cell in cells[name]]
        bad = [i for i, value in enumerate(values) if value is None]
        texts[name] += len(bad)
        present[name] += sum(value is None or value == value for value in values)
        if bad:
          first_text.setdefault(name, (first + bad[0], cells[name][bad[0]]))
          looked_at[name] += [cells[name][i] for i in bad[: LOOKED_AT - len(looked_at[name])]]
  for name in columns:
    reads_all = lambda other, texts: all(other.number(text) is not None for text in texts)
    if ways := [other for other in OTHERS if looked_at[name] and reads_all(other, looked_at[name])]:
      row, cell = first_text[name]
      settings = ' or '.join(f'data.decimal={way.decimal!r} data.thousands={way.thousands!r}' for way in ways)
      raise MixerError(
        f'{path}, row {row}, column {name!r}: {cell!r} looks like a number in another notation; set {settings}, or name'
        ' the column among data.categorical'
      )
    if 0 < 2 * texts[name] <= present[name]:
      row, cell = first_text[name]
      raise MixerError(
        f'{path}, row {row}, column {name!r}: {cell!r} is not a number, as most of that column are; fix it, or name the'
        ' column among data.categorical'
      )
  return [name for name in columns if texts[name]]


def to_columns(
  cells: Mapping[str, list[str]], categorical: Sequence[str], *, where: str, first: int, notation: Notation = PLAIN
) -> Table:
  """Columns of text -> a Table."""
  categorical = frozenset(categorical)
  columns = {
    name: np.array([cell.strip() for cell in column], dtype=object)
    if name in categorical
    else numbers(column, where=where, first=first, column=name, notation=notation)
    for name, column in cells.items()
  }
  return Table(where, columns, first + np.arange(len(next(iter(columns.values())))))


def read_csv(
  path: str | Path, *, columns: Sequence[str], categorical: Sequence[str], notation: Notation = PLAIN
) -> Table:
  """Some columns of a whole file, `categorical` of them as text; refuses a missing column, a file without rows."""
  header = read_header(path)
  present = frozenset(header)
  if missing := [name for name in columns if name not in present]:
    raise wrong_delimiter(path, header, missing) or MixerError(
      f'{path} has no column {some(map(repr, missing))}; it has {some(header)}'
    )
  parts = [
    to_columns({name: cells[name] for name in columns}, categorical, where=str(path), first=first, notation=notation)
    for first, cells in read_cells(path)
  ]
  if not parts:
    raise no_rows(path)
  return concatenate(parts)


def no_rows(path: str | Path) -> MixerError:
  return MixerError(f'{path} has a header, but no rows; put some below it')
