"""A table in memory: columns by name."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

MISSING = ('', 'na', 'n/a', 'nan', 'null', 'none', '?')  # in columns of numbers, in any case
ROWS, CELLS = 1024, 2**20  # the most that is held as text at once; in a wide table the cells are what weighs


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
  names = list(names)
  return ', '.join(names[:most]) + (f', ... ({len(names):,} in all)' if len(names) > most else '')


def number(cell: str) -> float | None:
  """A cell as a number, nan where it is missing, None where it is text."""
  if cell.strip().lower() in MISSING:
    return float('nan')
  try:
    return float(cell) if '_' not in cell else None
  except ValueError:
    return None
