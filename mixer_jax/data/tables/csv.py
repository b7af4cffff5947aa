"""CSV files -> tables: numbers as float64, categories as text.

Python's csv cuts the lines. The rest is ours, and not a data frame's, so that every refusal names row and column, no
cell changes its kind silently, and a file of any length is read a few rows at a time.
"""

import csv
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mixer_jax.data.tables.lines import ERRORS, read_lines, unreadable
from mixer_jax.data.tables.table import OTHERS, PLAIN, Notation, Table, concatenate, in_ascii, rows_at_once, some
from mixer_jax.errors import MixerError

OTHER_DELIMITERS = ';\t|'
UNNAMED = 'unnamed_1'  # the first column of a file that names all others, as a data frame's index has it
LONGEST = 100  # characters of a number
# What may be a number in one of OTHERS: a quick check before they are tried.
NUMERIC = re.compile(r"(?=.*[0-9])[0-9.,' eE+\u00a0\u202f\u2019-]{1,100}")


def read_header(path: str | Path) -> list[str]:
  """The names of the columns of a CSV file.

  Refuses a missing or empty file, one that is not text, a name twice or missing, another delimiter, a first line that
  is a comment, a title or a row. Only the first column may lack a name: it is UNNAMED.
  """
  return _header(path)[0]


def _header(path: str | Path) -> tuple[list[str], int]:
  """The names of the columns, and how many cells without a name follow them."""
  try:
    rows, _ = _reader(path)
    header = [name.strip() for name in next(rows, [])]
    named = max((i + 1 for i, name in enumerate(header) if name), default=0)  # commas may end every line
    below = next(rows, []) if named == 1 else []
  except ERRORS as error:
    raise unreadable(path, error) from error
  if not named:
    raise MixerError(f'{path} is empty; its first line must name the columns')
  header, nameless = header[:named], len(header) - named
  if named == 1:
    if others := [d for d in OTHER_DELIMITERS if d in header[0]]:
      raise _delimited(path, header, others[0])
    if header[0].startswith('#') or sum(map(bool, below)) > 1:
      raise MixerError(
        f'{path} begins with {_shown(header[0])}, which names no columns; take out what stands above their names, or'
        ' save the table with commas'
      )
  places: dict[str, int] = {}
  for i, name in enumerate(header):
    nameless_here = not name and (i or UNNAMED in header)
    if (nameless_here or name in places) and _seems_row(header):
      raise _row(path, header)
    if nameless_here:
      raise MixerError(f'{path}: column {i + 1} has no name; name it in the first line')
    if name in places:
      raise MixerError(f'{path}: the column {name!r} is there twice, as number {places[name] + 1} and {i + 1}')
    places[name] = i
  return [header[0] or UNNAMED, *header[1:]], nameless


def _seems_row(header: Sequence[str]) -> bool:
  """Whether some names are numbers that do not rise; those of pixels, years or wavelengths do."""
  values = [PLAIN.number(name) for name in header if not PLAIN.is_missing(name)]
  values = [value for value in values if value is not None]
  return not all(a < b for a, b in itertools.pairwise(values))


def _row(path: str | Path, header: Sequence[str]) -> MixerError:
  return MixerError(f'{path}: its first line seems to be a row, {some(header, 5)}; name the columns in a line above it')


def _delimited(path: str | Path, header: Sequence[str], delimiter: str) -> MixerError:
  first = ','.join(header)[:60]
  return MixerError(f'{path} begins with {first!r}, which seems to be cut by {delimiter!r}; save it with commas')


def wrong_header(path: str | Path, header: Sequence[str], missing: Iterable[str]) -> MixerError | None:
  """The error for a header that lacks columns since it has another delimiter, is a comment or a row, if it seems so."""
  line, missing = ','.join(header), frozenset(missing)
  if missing and line.startswith('#'):
    return MixerError(
      f'{path} begins with {_shown(line)}, which lacks {some(map(repr, missing))}; take that line out if it is a'
      ' comment, else name one of its columns'
    )
  for delimiter in OTHER_DELIMITERS:
    if delimiter in line and not missing.isdisjoint(name.strip() for name in line.split(delimiter)):
      return _delimited(path, header, delimiter)
  # A name may have a space in it, but the only one of a table that lacks columns hardly has.
  if len(header) == 1 and ' ' in line:
    return _delimited(path, header, ' ')
  return _row(path, header) if missing and _seems_row(header) else None


def _reader(path: str | Path) -> tuple[Iterator[list[str]], int]:
  """A csv.reader of a file from its header on, and how many lines stand above it."""
  lines = read_lines(path)
  first = next(lines, '')
  above = first.strip().strip('"') == 'sep=,'  # Excel's
  # strict: else a quote that is not closed takes the rest of the file into one cell.
  return csv.reader(lines if above else itertools.chain([first], lines), strict=True, skipinitialspace=True), int(above)


def read_cells(path: str | Path) -> Iterator[tuple[int, dict[str, list[str]]]]:
  """(number of the first row, columns of text), rows_at_once at a time; row 1 is below the header.

  Blank lines may end the file. Refuses a row with more or fewer cells than the header, a blank line above a row.
  """
  header, nameless = _header(path)
  width, most = len(header), rows_at_once(len(header))
  in_columns = lambda rows: dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
  rows, numbered, blank = [], 0, None
  try:
    reader, above = _reader(path)
    next(reader)
    for row in reader:
      if not row:
        blank = blank or reader.line_num + above
        continue
      if blank:
        empty = ', or write "" where its only cell is empty' if width == 1 else ''
        raise MixerError(f'{path}, line {blank}: the line is blank, but rows follow; take it out{empty}')
      numbered += 1
      if nameless and width < len(row) <= width + nameless and not any(map(str.strip, row[width:])):
        row = row[:width]
      if len(row) != width:
        raise MixerError(f'{path}, row {numbered}: {len(row)} cells, but the header has {width}{_why(row, header)}')
      rows.append(row)
      if len(rows) == most:
        yield numbered - most + 1, in_columns(rows)
        rows = []
  except ERRORS as error:
    raise unreadable(path, error, numbered) from error
  if rows:
    yield numbered - len(rows) + 1, in_columns(rows)


def _why(row: Sequence[str], header: Sequence[str]) -> str:
  """What a row of the wrong width seems to come from."""
  if header[0].startswith('#'):
    return '; its first line begins with #: take comments out'
  if len(row) == len(header) + 1:
    way = 'take the comma at its end away' if not row[-1].strip() else 'name every column, and quote cells with commas'
    return f'; {way}'
  return '; fix the row'


def numbers(cells: Sequence[str], *, where: str, first: int, column: str, notation: Notation = PLAIN) -> np.ndarray:
  """Text -> float64, nan where a number is missing; refuses text and infinite numbers, by row and column."""
  try:
    values = _floats(cells, notation)
  except ValueError:
    values = np.array([notation.number(cell) for cell in cells])
    bad = np.flatnonzero([v is None for v in values])
    if len(bad):
      what, cure = _no_number(cells[bad[0]], notation)
      raise MixerError(
        f'{where}, row {first + bad[0]}, column {column!r}: {what}; {cure}, or train with the column among'
        ' data.categorical'
      ) from None
    values = values.astype(np.float64)
  if len(bad := np.flatnonzero(np.isinf(values))):
    raise MixerError(
      f'{where}, row {first + bad[0]}, column {column!r}: {_shown(cells[bad[0]])} is infinite; fix it or leave it empty'
    )
  return values


def _floats(cells: Sequence[str], notation: Notation) -> np.ndarray:
  text = ''.join(cells)
  # To Python 1_000 is a number, in a table it is a name; and it reads the digits of every script.
  if not notation.is_plain or '_' in text or not text.isascii():
    raise ValueError
  return np.array(cells, dtype=object).astype(np.float64)


def _shown(cell: str) -> str:
  return repr(cell if len(cell) <= 80 else f'{cell[:80]}...')


def _no_number(cell: str, notation: Notation) -> tuple[str, str]:
  """What a cell is, and the way out."""
  ways = _ways(cell.strip(), notation)
  if None in ways:
    signs = {f'{sign} (U+{ord(sign):04X} {unicodedata.name(sign, "")})': None for sign in cell if not sign.isascii()}
    return f'{_shown(cell)}, with {some(signs, 3)}, is not a number', f'write {in_ascii(cell)!r}'
  if ways:
    return f'{_shown(cell)} is not a number with {notation.settings}', 'write it as all others are'
  return f'{_shown(cell)} is not a number', 'fix it'


def _ways(text: str, notation: Notation) -> tuple[Notation | None, ...]:
  """The other notations in which a text is a number; None among them: it is one once it is written in ASCII."""
  reads = lambda text: tuple(
    way for way in (PLAIN, *OTHERS) if way.settings != notation.settings and way.number(text) is not None
  )
  if NUMERIC.fullmatch(text) and (ways := reads(text)):
    return ways
  if text.isascii() or len(text) > LONGEST or any(sign.isalpha() and sign not in 'eE' for sign in text):
    return ()
  text = in_ascii(text)
  ways = reads(text) if NUMERIC.fullmatch(text) else ()
  return (*ways, None) if ways or notation.number(text) is not None and NUMERIC.fullmatch(text) else ()


def infer_categorical(path: str | Path, columns: Sequence[str], notation: Notation = PLAIN) -> list[str]:
  """The columns of which most cells are not numbers.

  Refuses a column of numbers with some text, and one of whose texts most are numbers in another notation.
  """
  texts, present = dict.fromkeys(columns, 0), dict.fromkeys(columns, 0)
  first_text: dict[str, tuple[int, str]] = {}
  ways: dict[str, Counter] = {name: Counter() for name in columns}  # how many texts each of the other notations reads
  first_of: dict[str, dict[tuple, tuple[int, str]]] = {name: {} for name in columns}  # the first text of those ways
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
        for cell, count in Counter(cells[name][i] for i in bad).items():
          found = _ways(cell.strip(), notation)
          ways[name].update(dict.fromkeys(found, count))
          if found not in first_of[name]:
            first_of[name][found] = first + cells[name].index(cell), cell
  for name in columns:
    highest = max(ways[name].values(), default=0)
    if 2 * highest > texts[name]:
      most = [way for way, count in ways[name].items() if count == highest]
      raise _other_notation(path, name, most, texts[name] - highest, first_of[name], notation)
    if 0 < 2 * texts[name] <= present[name]:
      row, cell = first_text[name]
      what, cure = _no_number(cell, notation)
      raise MixerError(
        f'{path}, row {row}, column {name!r}: {what}, as most of that column are; {cure}, or name the column among'
        ' data.categorical'
      )
  return [name for name in columns if texts[name]]


def _other_notation(
  path: str | Path, name: str, ways: Sequence[Notation | None], rest: int, first_of: Mapping, notation: Notation
) -> MixerError:
  """The error for a column whose texts are numbers in one of those ways, but for `rest` of them."""
  row, cell = next(place for found, place in first_of.items() if not {*ways}.isdisjoint(found))
  others = [place for found, place in first_of.items() if {*ways}.isdisjoint(found)]
  besides = f'; {rest:,} other texts, such as {_shown(others[0][1])} in row {others[0][0]}, do not' if others else ''
  what, cure = _no_number(cell, notation)
  if None not in ways:
    what = f'{_shown(cell)} looks like a number in another notation'
    cure = f'set {" or ".join(way.settings for way in ways)}'
  return MixerError(
    f'{path}, row {row}, column {name!r}: {what}{besides}; {cure}, or name the column among data.categorical'
  )


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
    raise wrong_header(path, header, missing) or MixerError(
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
