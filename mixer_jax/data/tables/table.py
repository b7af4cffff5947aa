"""A table in memory: columns by name."""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from mixer_jax.errors import MixerError

MISSING = ('', 'na', 'n/a', 'nan', 'null', 'none', '?')  # in columns of numbers, in any case
ROWS, CELLS = 1024, 2**20  # the most that is held as text at once; in a wide table the cells are what weighs
ALIKE = {' ': ' \u00a0\u202f', "'": "'\u2019"}  # signs between thousands that look like one another
ASCII = str.maketrans('\u2010\u2012\u2013\u2212\u066b\u066c', '----.,')  # hyphens and minus, Arabic signs


@dataclasses.dataclass(frozen=True, eq=False)
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


def rows_at_once(columns: int) -> int:
  """How many rows of so many columns are held as text at once."""
  return max(1, min(ROWS, CELLS // columns))


def some(names: Iterable[str], most: int = 20) -> str:
  """Names in a line of bounded length."""
  names = [name if name.isprintable() else repr(name) for name in names]
  return ', '.join(names[:most]) + (f', ... ({len(names):,} in all)' if len(names) > most else '')


@dataclasses.dataclass(frozen=True)
class Notation:
  """How numbers are written in a file: 1,234.5 has the decimal sign `.` and `,` between thousands ('' for nothing).

  `missing` is what stands for a number that is missing, in any case; an empty cell always does.
  """

  decimal: str = '.'
  thousands: str = ''
  missing: tuple[str, ...] = MISSING

  def __post_init__(self):
    signs = self.decimal + self.thousands
    if len(self.decimal) != 1 or len(self.thousands) > 1 or len({*signs}) < len(signs) or re.search('[0-9eE+-]', signs):
      raise MixerError(
        f'data.decimal is {self.decimal!r} and data.thousands {self.thousands!r}; give two different signs such as'
        " '.' and ',', or '' for thousands that are not parted"
      )

  @property
  def is_plain(self) -> bool:
    """Whether numbers are written as Python writes them."""
    return self.decimal == '.' and not self.thousands

  def is_missing(self, cell: str) -> bool:
    return not cell or cell.lower() in self._missing

  @functools.cached_property
  def _missing(self) -> frozenset[str]:
    return frozenset(word.strip().lower() for word in self.missing)

  @functools.cached_property
  def _pattern(self) -> re.Pattern:
    # Not \d, which takes the digits of every script.
    groups = rf'[0-9]{{1,3}}(?:[{re.escape(self._between)}][0-9]{{3}})+|' if self.thousands else ''
    fraction = rf'(?:{re.escape(self.decimal)}[0-9]*)?(?:e[+-]?[0-9]+)?'
    return re.compile(rf'[+-]?(?:(?:{groups}[0-9]+)?{fraction}|inf(?:inity)?)', re.IGNORECASE)

  @property
  def _between(self) -> str:
    return ALIKE.get(self.thousands, self.thousands)

  def number(self, cell: str) -> float | None:
    """A cell as a number, nan where it is missing, None where it is text."""
    cell = cell.strip()
    if self.is_missing(cell):
      return float('nan')
    if not self.is_plain:
      if not self._pattern.fullmatch(cell):
        return None
      cell = cell.translate(dict.fromkeys(map(ord, self._between))).replace(self.decimal, '.')
    try:
      return float(cell) if '_' not in cell and cell.isascii() else None
    except ValueError:
      return None

  @property
  def settings(self) -> str:
    return f'data.decimal={self.decimal!r} data.thousands={self.thousands!r}'


PLAIN = Notation()
# Other ways to write numbers, by which columns are found that are numbers all the same.
OTHERS = tuple(Notation(d, t) for d, t in (('.', ','), (',', ''), (',', '.'), ('.', ' '), (',', ' '), ('.', "'")))


def number(cell: str) -> float | None:
  return PLAIN.number(cell)


def in_ascii(text: str) -> str:
  """Text with digits, signs and letters as ASCII has them, where it has them, and without invisible signs."""
  text = unicodedata.normalize('NFKC', text).translate(ASCII)
  visible = (sign for sign in text if unicodedata.category(sign) != 'Cf')
  return ''.join(sign if sign.isascii() else str(unicodedata.decimal(sign, sign)) for sign in visible)
