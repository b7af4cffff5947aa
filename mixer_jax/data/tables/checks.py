"""Checks of a table before its results are trusted: equal rows, columns that predict the label."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from mixer_jax.data.tables.schema import Schema, raw_values
from mixer_jax.data.tables.table import Table, rows_at_once


def row_keys(table: Table, columns: Sequence[str]) -> list[bytes]:
  """16 bytes a row, the same in every table, equal for equal rows: numbers by value, missing ones equal too."""
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


def shuffled_groups(
  keys: Sequence[bytes], seed: int, labels: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """An order of the rows in which equal ones stand together, groups shuffled, and where each group starts.

  With labels, every slice of that order has each class in proportion, and it begins with one group of each.
  """
  numbers: dict[bytes, int] = {}
  group = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
  place = np.random.default_rng(seed).permutation(len(numbers))
  place = (place if labels is None else _stratified(place, group, labels))[group]
  order = np.argsort(place, kind='stable')
  return order, np.flatnonzero(np.diff(place[order], prepend=-1))


def _stratified(place: np.ndarray, group: np.ndarray, labels: Sequence[str]) -> np.ndarray:
  """Other places of the groups: by the share of their class's rows that stands before the middle of each.

  A group is of the class that most of its rows have. The first of a class comes first of all, so that the first part
  of a table has every class, however rare.
  """
  classes, label = np.unique(labels, return_inverse=True)
  pairs, counts = np.unique(group * len(classes) + label, return_counts=True)
  rising = pairs[np.argsort(counts, kind='stable')]
  of_group = np.empty(len(place), int)
  of_group[rising // len(classes)] = rising % len(classes)  # the last one stays
  order = np.lexsort((place, of_group))
  sizes = np.bincount(group)[order]
  middle = np.cumsum(sizes) - sizes / 2
  _, first, of_class = np.unique(of_group[order], return_index=True, return_inverse=True)
  share = (middle - (middle - sizes / 2)[first][of_class]) / np.add.reduceat(sizes, first)[of_class]
  share[first] = 0
  result = np.empty_like(place)
  result[order[np.lexsort((place[order], share))]] = np.arange(len(place))
  return result


def single_column_accuracy(table: Table, schema: Schema, labels: np.ndarray) -> dict[str, float]:
  """How well each column alone predicts the label of these rows.

  Numbers by a small tree trained on them, categories by the commonest label of the other rows with the same one: where
  every few rows have a category of their own, a tree would either ignore them or memorise them.
  """
  from sklearn.tree import DecisionTreeClassifier

  values, _, _ = raw_values(table, schema.columns, schema.categories, schema.fill)
  rarest = int(np.unique(labels, return_counts=True)[1].min())  # a leaf may hold it and nothing else
  leaf = max(1, min(20, len(labels) // 20, rarest))
  tree = DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=leaf, random_state=0)
  # The tree splits by order alone, and reads float32, which some numbers overflow: it is given their ranks.
  ranks = lambda column: np.unique(column, return_inverse=True)[1][:, None]
  of_number = lambda column: float(tree.fit(ranks(column), labels).score(ranks(column), labels))
  of_category = lambda column: _majority_accuracy(column, labels)
  return {
    name: (of_category if name in schema.categories else of_number)(column)
    for name, column in zip(schema.columns, values.T, strict=True)
  }


def _majority_accuracy(values: np.ndarray, labels: np.ndarray) -> float:
  """The share of rows whose label is the commonest of the other rows with that value; a tie counts as wrong.

  A row whose value is unique gets the commonest label of all.
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
