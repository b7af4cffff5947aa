"""How the columns of a table become numbers: learnt from training rows, kept as JSON."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixer_jax.data.tables import scaling as scalings
from mixer_jax.data.tables.csv import wrong_header
from mixer_jax.data.tables.table import PLAIN, Notation, Table, number, some
from mixer_jax.errors import MixerError

UNKNOWN = 0  # the number of a category that no training row has
WHOLE = re.compile(r'[+-]?[0-9]{1,4000}')  # Python turns no more than 4,300 digits into a number
EXACT = 2.0**53  # below it a float64 is one whole number only


def no_columns(where: str, label: str) -> MixerError:
  return MixerError(f'{where}: no column is left besides the label {label!r}; drop fewer')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
  """How the columns of a table become numbers; made by `fit`, kept as JSON."""

  label: str  # the column to predict
  classes: tuple[str, ...]  # its values; their index is the label
  columns: tuple[str, ...]  # those that are used, in the order in which a model sees them
  dropped: tuple[str, ...]
  categories: dict[str, tuple[str, ...]]  # values of each categorical column in training; number i + 1 is value i
  scaling: str  # a key of SCALINGS, or module:name
  statistics: dict[str, list]  # what the scaling learnt, by name, a list with one entry a column
  fill: dict[str, float]  # what stands for a missing number, by column: the median of the training rows
  notation: Notation = PLAIN  # of the numbers in files

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> 'Schema':
    try:
      categories = {name: tuple(values) for name, values in value['categories'].items()}
      lists = {name: tuple(value[name]) for name in ('classes', 'columns', 'dropped')}
      notation = {**dataclasses.asdict(PLAIN), **value.get('notation', {})}
      notation = Notation(**{**notation, 'missing': tuple(notation['missing'])})
      return cls(**{**value, **lists, 'categories': categories, 'notation': notation})
    except (KeyError, TypeError, AttributeError) as error:
      raise MixerError(f'this is no schema of a table ({error}); restore it, or train again') from error

  def check_columns(self, where: str | Path, names: Iterable[str]) -> None:
    """Refuses a table that lacks a column, or has one that the training rows had not; their order is free."""
    names, allowed = dict.fromkeys(names), {*self.columns, *self.dropped, self.label}
    missing = [name for name in self.columns if name not in names]
    extra = [name for name in names if name not in allowed]
    if missing or extra:
      near = {name.casefold(): name for name in allowed}
      renamed = {name: near[name.casefold()] for name in extra if name.casefold() in near}
      cure = f'give it the columns {some(self.columns)}' + ''.join(
        f'; {old!r} may be {new!r}: name it so' for old, new in [*renamed.items()][:1]
      )
      raise wrong_header(where, names, missing) or MixerError(
        f'{where} does not fit the run: it lacks {some(map(repr, missing)) or "nothing"} and has'
        f' {some(map(repr, extra)) or "nothing"} besides; {cure}'
      )

  def arrays(self, table: Table) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """(features, categories), and how often a cell had no value of its own: {'COLUMN: unknown' or 'missing': n}.

    Refuses a number so far from those of the training rows that its scaled value overflows float32.
    """
    values, codes, counts = raw_values(table, self.columns, self.categories, self.fill)
    with np.errstate(over='ignore', invalid='ignore'):
      features = scalings.find(self.scaling).scale(values, self.statistics).astype(np.float32)
    if not np.isfinite(features).all():
      row, column = np.argwhere(~np.isfinite(features))[0]
      raise _too_large(table, row, self.columns[column], self.scaling)
    return {'features': features, 'categories': codes}, counts

  def labels(self, table: Table) -> np.ndarray:
    """int32 [rows]; refuses a label that no training row has, by row and with all such labels."""
    known = {value: k for k, value in enumerate(self.classes)}
    texts = label_text(table, self.label)
    labels = [known.get(value) for value in texts]
    if None in labels:
      row = labels.index(None)
      counts = Counter(text for text, label in zip(texts, labels, strict=True) if label is None)
      shown = some((f'{text!r} in {count:,} rows' for text, count in counts.items()), 5)
      raise MixerError(
        f'{table.where}, row {table.numbers[row]}, column {self.label!r}: {table.columns[self.label][row]!r} is not'
        f' one of the classes {some(self.classes)} of the training rows, which lack {shown}; fix it, or train on rows'
        ' that have it: data.stratified=True puts some of every class into the first part of a table'
      )
    return np.array(labels, np.int32)


def label_text(table: Table, label: str) -> list[str]:
  """Labels as text, whole numbers without a point: 1, +1, 1.0 and 1e0 are one class."""
  return [_label(str(cell)) for cell in table.columns[label]]


def _label(cell: str) -> str:
  if WHOLE.fullmatch(cell):
    return str(int(cell))
  value = number(cell)
  # What a float64 cannot tell from its neighbours stays as it is written, or two classes would become one.
  return str(int(value)) if value is not None and value.is_integer() and abs(value) < EXACT else cell


def sorted_classes(labels: Iterable[str]) -> tuple[str, ...]:
  """The values of a label, in numerical order where all are whole numbers, else in alphabetical."""
  values = set(labels)
  return tuple(sorted(values, key=int if all(map(WHOLE.fullmatch, values)) else str))


def classes_of(table: Table, label: str) -> tuple[str, ...]:
  """The values of a label, sorted."""
  return sorted_classes(label_text(table, label))


def fit(
  table: Table, *, label: str, dropped: Sequence[str], categorical: Sequence[str], scaling: str, column_order: int = 0,
  notation: Notation = PLAIN,
) -> Schema:  # fmt: skip
  """The schema of training rows; a column_order other than 0, for that of the file, is the seed of a random one.

  Refuses an unknown scaling, no columns left, labels that are missing, all the same or mostly different.
  """
  learn = scalings.find(scaling).fit
  unused = {label, *dropped}
  columns = tuple(name for name in table.columns if name not in unused)
  if not columns:
    raise no_columns(table.where, label)
  if column_order:
    columns = tuple(columns[i] for i in np.random.default_rng(column_order).permutation(len(columns)))
  labels = label_text(table, label)
  if empty := [i for i, text in enumerate(labels) if not text.strip()]:
    row = table.numbers[empty[0]]
    raise MixerError(f'{table.where}, row {row}: the label {label!r} is missing; fix it or leave the row out')
  classes = sorted_classes(labels)
  if len(classes) < 2:
    raise MixerError(
      f'{table.where}: every row has the label {classes[0]!r}, {len(labels):,} training rows in all; there is nothing'
      ' to learn, give rows of two classes or name another column with data.label'
    )
  amounts = all(number(name) is not None for name in classes) and not all(map(WHOLE.fullmatch, classes))
  if len(classes) > 20 and (amounts or len(classes) > len(labels) / 2):
    what = f' but numbers such as {classes[0]}, which no task here predicts' if amounts else ''
    raise MixerError(
      f'{table.where}: the label {label!r} has {len(classes):,} values in {len(labels):,} rows, so they are not'
      f' classes{what}; name another column with data.label, or put its values into classes, such as low and high'
    )
  text_columns = frozenset(categorical)
  categories = {name: tuple(sorted(set(table.columns[name]))) for name in columns if name in text_columns}
  fill = {}
  for name in columns:
    if name not in categories:
      present = table.columns[name][~np.isnan(table.columns[name])]
      if not len(present):
        raise MixerError(f'{table.where}: the column {name!r} is empty in every row; drop it with data.drop')
      fill[name] = float(2 * np.median(present / 2))  # the sum of two may overflow
  values, _, _ = raw_values(table, columns, categories, fill)
  with np.errstate(over='ignore', invalid='ignore'):
    learnt = learn(values)
  if not all(np.isfinite(value).all() for value in learnt.values()):
    row, column = np.unravel_index(np.abs(values).argmax(), values.shape)
    raise _too_large(table, row, columns[column], scaling)
  statistics = {name: np.asarray(value).tolist() for name, value in learnt.items()}
  return Schema(
    label=label, classes=classes, columns=columns, dropped=tuple(dropped), categories=categories, scaling=scaling,
    statistics=statistics, fill=fill, notation=notation,
  )  # fmt: skip


def _too_large(table: Table, row: int, column: str, scaling: str) -> MixerError:
  other = '' if scaling == 'quantile' else ', or train with data.scaling=quantile'
  return MixerError(
    f'{table.where}, row {table.numbers[row]}, column {column!r}: {table.columns[column][row]} is too large for the'
    f' scaling {scaling!r}; fix it{other}'
  )


def raw_values(table: Table, columns, categories, fill) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
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
