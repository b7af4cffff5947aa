"""What to look at before trusting a table: its columns, copies of rows, columns that predict the label alone.

Lines of text, printed when training starts; the data stay as they are.
"""

from collections import Counter

import numpy as np

from mixer_jax.data.tables import checks
from mixer_jax.data.tables.csv import UNNAMED
from mixer_jax.data.tables.schema import Schema
from mixer_jax.data.tables.table import PLAIN, Table, in_ascii, some

# A column is reported when single_column_accuracy leaves less than this share of the mistakes of always
# guessing the commonest class. The best of breast_cancer leaves 22%, the best of unsw_nb15 38%.
LEFT = 0.02
SAMPLE = 20_000  # rows, and CELLS in all, on which that is measured
CELLS = 2_000_000
FEWEST = 100  # rows; fewer are often separated by a tree on a column of noise
SHOWN = 12  # names in a line


def report(schema: Schema, split: str, train: Table, heldout: dict[str, Table]) -> list[str]:
  """The lines for a table: `train`, the rows of `split` before any scaling, and those of the other splits by name.

  A check that fails is a line, too: a run does not end with it.
  """
  labels = schema.labels(train)
  checked = {
    describe: (schema, labels), spellings: (schema,), unnamed: (schema,),
    copies: (schema.columns, split, train, labels, heldout), leaking_columns: (schema, train, labels),
    row_numbers: (schema, train), unknown: (schema, heldout),
  }  # fmt: skip
  lines = []
  for check, given in checked.items():
    try:
      lines += check(*given)
    except Exception as error:
      reason = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
      lines.append(f'warning: the report lacks {check.__name__.replace("_", " ")}, which failed ({reason})')
  return lines


def describe(schema: Schema, labels: np.ndarray) -> list[str]:
  """What the schema is: label, classes with their rows, columns by kind, what is dropped, scaling."""
  counts = np.bincount(labels, minlength=len(schema.classes))
  classes = some((f'{name!r} {count:,} rows' for name, count in zip(schema.classes, counts, strict=True)), SHOWN)
  positive = f'; the positive class of a binary task is {schema.classes[1]!r}' if len(schema.classes) == 2 else ''
  numbers = [name for name in schema.columns if name not in schema.categories]
  sizes = [f'{name} ({len(values):,} values)' for name, values in schema.categories.items()]
  return [
    f'label {schema.label!r}: {classes}{positive}',
    f'{len(numbers):,} columns of numbers, scaling {schema.scaling!r}: {some(numbers, SHOWN) or "none"}',
    f'{len(sizes):,} columns of categories: {some(sizes, SHOWN) or "none"}',
    f'dropped columns: {some(schema.dropped, SHOWN) or "none"}',
  ]


def spellings(schema: Schema) -> list[str]:
  """Classes and categories that differ in case, spaces or Unicode form alone; a class that reads as missing."""
  lines = []
  for name, values in {schema.label: schema.classes, **schema.categories}.items():
    forms: dict[str, list[str]] = {}
    for value in values:
      forms.setdefault(' '.join(in_ascii(value).casefold().split()), []).append(value)
    if same := [' and '.join(map(repr, group)) for group in forms.values() if len(group) > 1]:
      lines.append(
        f'warning: column {name!r} has values that differ in case, spaces or Unicode form alone: {some(same, SHOWN)};'
        ' write them alike if they are the same'
      )
  if odd := [value for value in schema.classes if PLAIN.is_missing(value)]:
    lines.append(f'warning: the class {odd[0]!r} of {schema.label!r} may stand for a missing label; take out such rows')
  return lines


def unnamed(schema: Schema) -> list[str]:
  """The first column of a file, where it has no name."""
  warning = (
    f'warning: the first column of the file has no name and is called {UNNAMED}; drop it with data.drop={UNNAMED} if'
    ' it numbers the rows, as the index of a data frame does'
  )
  return [warning] if UNNAMED in schema.columns else []


def lacking(schema: Schema, labels: np.ndarray) -> list[str]:
  """The classes of which held-out rows have none, and what that means for the metrics."""
  present = np.unique(labels)
  names = [repr(name) for k, name in enumerate(schema.classes) if k not in present]
  left_out = 'leave them out' if len(present) > 1 else 'are left out'
  return names and [
    f'no row has {some(names, SHOWN)}: ROC AUC and average precision {left_out}, their recall and F1 count as 0'
  ]


def copies(
  columns: tuple[str, ...], split: str, train: Table, labels: np.ndarray, heldout: dict[str, Table]
) -> list[str]:
  """Rows that are there more than once, or in training and elsewhere; compared by their columns, not the label."""
  keys = checks.row_keys(train, columns)
  known = frozenset(keys)
  lines = []
  if len(known) < len(keys):
    # Of equal rows, those whose label is not their commonest.
    commonest: dict[bytes, int] = {}
    for (key, _), count in Counter(zip(keys, labels.tolist(), strict=True)).items():
      commonest[key] = max(count, commonest.get(key, 0))
    odd = len(keys) - sum(commonest.values())
    lines.append(
      f'warning: {_share(len(keys) - len(known), len(keys))} of {split} are copies of others'
      + (f'; {odd:,} rows have another label than most of their copies' if odd else '')
    )
  for name, table in heldout.items():
    if seen := sum(key in known for key in checks.row_keys(table, columns)):
      lines.append(f'warning: {_share(seen, len(table))} of {name} stand in {split} too, by all but the label')
  return lines


def leaking_columns(schema: Schema, train: Table, labels: np.ndarray) -> list[str]:
  """The columns that predict the label alone, see LEFT; on a sample of a large table."""
  most = min(SAMPLE, max(FEWEST, CELLS // len(schema.columns)))
  if len(train) > most:
    rows = np.sort(np.random.default_rng(0).choice(len(train), most, replace=False))
    train, labels = train.take(rows), labels[rows]
  mistakes = 1 - np.bincount(labels).max() / len(labels)
  if len(train) < FEWEST or not mistakes:
    return []
  accuracy = checks.single_column_accuracy(train, schema, labels)
  found = [f'{name} ({value:.2%})' for name, value in accuracy.items() if 1 - value < LEFT * mistakes]
  return found and [
    f'warning: alone these tell the label of the training rows (the commonest class: {1 - mistakes:.2%}):'
    f' {some(found, SHOWN)}; drop with data.drop what is not known before the label'
  ]


def row_numbers(schema: Schema, train: Table) -> list[str]:
  """The columns that only rise or only fall down the file, and those of text that differ in most rows."""
  if len(train) < 20:  # where they may do so by chance
    return []
  order = np.argsort(train.numbers)

  def names_rows(name):
    if name in schema.categories:
      return len(schema.categories[name]) > 0.9 * len(train)
    column = train.columns[name][order]
    return (column[1:] > column[:-1]).all() or (column[1:] < column[:-1]).all()

  found = [name for name in schema.columns if names_rows(name)]
  return found and [
    f'warning: these seem to number or to name the rows: {some(found, SHOWN)}; drop with data.drop what says'
    ' nothing else of a row'
  ]


def unknown(schema: Schema, heldout: dict[str, Table]) -> list[str]:
  """The columns of categories of which most held-out cells are values that no training row has."""
  lines = []
  for split, table in heldout.items():
    found = []
    for name, values in schema.categories.items():
      known = frozenset(values)
      share = np.mean([cell not in known for cell in table.columns[name]])
      found += [f'{name} ({share:.0%})'] if share > 0.5 else []
    if found:
      lines.append(
        f'warning: most values in {split} of these columns stand in no training row: {some(found, SHOWN)}; drop them,'
        ' or see whether they are numbers'
      )
  return lines


def _share(count: int, of: int) -> str:
  return f'{count:,} of the {of:,} rows ({count / of:.1%})'
