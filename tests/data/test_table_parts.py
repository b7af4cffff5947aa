"""Parts of a table that have every class in proportion, the splits of one's own files, classes that a part lacks."""

import gzip
import hashlib

import numpy as np
import pytest
from refusals import refuses
from table_files import read, write

from mixer_jax.data.inputs import Rows
from mixer_jax.data.tables import checks, sets
from mixer_jax.data.tables import schema as schemas
from mixer_jax.errors import MixerError

HEADER = ('size', 'weight', 'label')
ORDER = '5ebbaed0840d981e'  # of the rows of breast_cancer's train[:80%]


def body(counts, seed=0, copies=1):
  """Rows of classes by their counts, shuffled; each of them `copies` times."""
  rng = np.random.default_rng(seed)
  found = [(f'{rng.normal():.6f}', f'{rng.normal():.6f}', name) for name, count in counts.items() for _ in range(count)]
  return [found[i] for i in rng.permutation(len(found)) for _ in range(copies)]


def load(path, split, stratified=True):
  return sets.load(
    f'csv:{path}', split, label='label', drop=(), categorical=(), data_dir=None, stratified=stratified
  )  # fmt: skip


def classes_in(table):
  return dict(zip(*np.unique(table.columns['label'].astype(str), return_counts=True), strict=True))


@pytest.mark.parametrize('copies', [1, 3])
@pytest.mark.parametrize('cuts', [(0, 70, 80, 100), (0, 20, 40, 60, 80, 100), (0, 50, 100)])
def test_each_part_has_every_class_in_proportion(cuts, copies, tmp_path):
  counts = {'a': 400, 'b': 100, 'c': 20}
  path = write(tmp_path / 'mine.csv', body(counts, copies=copies), HEADER)
  seen = []
  for first, last in zip(cuts, cuts[1:], strict=False):
    part = load(path, f'train[{first}%:{last}%]')
    for name, count in counts.items():
      expected = copies * count * (last - first) / 100
      assert abs(classes_in(part).get(name, 0) - expected) <= 2 * copies, (name, first, last)
    seen += part.numbers.tolist()
  assert sorted(seen) == list(range(1, copies * 520 + 1))


@pytest.mark.parametrize('seed', range(5))
def test_a_rare_class_stands_in_the_training_part(seed, tmp_path):
  counts = {'a': 60, 'b': 30} | {f'rare{i}': 2 for i in range(6)} | {'single': 1}
  path = write(tmp_path / 'mine.csv', body(counts, seed), HEADER)
  parts = [load(path, split) for split in ('train[:70%]', 'train[70%:80%]', 'train[80%:]')]
  assert set(classes_in(parts[0])) == set(counts)
  # The second row of most is held out, to be measured.
  held_out = set(classes_in(parts[1])) | set(classes_in(parts[2]))
  assert len(held_out & {f'rare{i}' for i in range(6)}) >= 4 and 'single' not in held_out


def test_equal_rows_stay_together_whatever_their_labels(tmp_path):
  rng = np.random.default_rng(0)
  rows = [(str(rng.integers(12)), '1', str(rng.integers(3))) for _ in range(200)]
  path = write(tmp_path / 'mine.csv', rows, HEADER)
  parts = [load(path, split) for split in ('train[:40%]', 'train[40%:60%]', 'train[60%:]')]
  sizes = [set(part.columns['size'].tolist()) for part in parts]
  assert not sizes[0] & sizes[1] and not sizes[1] & sizes[2] and not sizes[0] & sizes[2]
  assert sum(map(len, parts)) == 200


def test_labels_that_are_written_in_two_ways_are_one_class(tmp_path):
  rows = [(*row[:2], row[2] if i % 2 else f'{row[2]}.0') for i, row in enumerate(body({'1': 40, '0': 10}))]
  part = load(write(tmp_path / 'mine.csv', rows, HEADER), 'train[80%:]')
  assert sorted(schemas.label_text(part, 'label')) == ['0'] * 2 + ['1'] * 8


def test_the_rows_of_the_bundled_table_are_those_of_before():
  """Parts that are not stratified have kept their rows, and their order."""
  part = sets.load('breast_cancer', 'train[:80%]', label='label', drop=(), categorical=(), data_dir=None)
  assert len(part) == 455
  assert hashlib.sha256(part.numbers.astype('<i8').tobytes()).hexdigest()[:16] == ORDER


def test_a_stratified_order_is_a_permutation_for_any_labels():
  rng = np.random.default_rng(0)
  for seed in range(30):
    keys = [bytes([k]) for k in rng.integers(0, 20, 50)]
    labels = [str(k) for k in rng.geometric(0.3, 50)]
    order, starts = checks.shuffled_groups(keys, seed, labels)
    assert sorted(order) == list(range(50)) and len(starts) == len(set(keys)) and starts[0] == 0
    grouped = [keys[i] for i in order]
    assert [grouped[i] for i in starts] == list(dict.fromkeys(grouped))


# ---- one's own files


def test_the_splits_of_own_files(tmp_path):
  (tmp_path / 'train.csv.gz').write_bytes(gzip.compress(b'a,label\n1,0\n'))
  of_file = {'train': 'train[:70%]', 'val': 'train[70%:80%]', 'test': 'train[80%:]'}
  assert sets.own_file(tmp_path) == tmp_path / 'train.csv.gz' and sets.own_splits(tmp_path) == of_file
  assert sets.own_splits(tmp_path / 'train.csv.gz') == of_file
  (tmp_path / 'test.csv').touch()
  assert sets.own_splits(tmp_path) == {'train': 'train[:90%]', 'val': 'train[90%:]', 'test': 'test'}
  (tmp_path / 'validation.csv').touch()
  assert sets.own_splits(tmp_path) == {'train': 'train', 'val': 'validation', 'test': 'test'}
  (tmp_path / 'dev.csv.gz').touch()
  with refuses(tmp_path, 'validation.csv and dev.csv', 'keep one'):
    sets.own_splits(tmp_path)
  assert sets.own_file(tmp_path / 'nothing') is None


def test_files_that_are_not_used_are_named(tmp_path):
  for name in ('train', 'test', 'extra', 'more'):
    write(tmp_path / f'{name}.csv', body({'0': 30, '1': 30}), HEADER)
  data = Rows(name=f'csv:{tmp_path}', train='train[:90%]', val='train[90%:]', test='test')
  data = data.with_schema(data.fit(None))
  lines = [line for line in data.report(None) if 'not used here' in line]
  assert lines == [
    f'warning: csv:{tmp_path} also holds extra.csv, more.csv, not used here; name them in data.val or data.test'
  ]
  assert sets.unused(f'csv:{tmp_path / "train.csv"}', ['train'], None) == []


# ---- classes that a part lacks


def test_a_class_outside_the_training_part_is_named_with_its_cure(tmp_path):
  rows = body({'a': 60, 'b': 38, 'c': 2})
  path = write(tmp_path / 'mine.csv', rows, HEADER)
  lacking = next(
    split for split in (f'train[{i}%:{i + 20}%]' for i in range(80)) if 'c' not in classes_in(load(path, split, False))
  )
  data = Rows(name=f'csv:{path}', train=lacking, classes=3)
  with refuses(
    f"the label 'label' has 2 values in {lacking} (a, b), but data.classes is 3", "'c' stand", 'stratified=True'
  ):
    data.fit(None)
  data = Rows(name=f'csv:{path}', train=lacking)
  data = data.with_schema(data.fit(None))
  with refuses("'c' is not one of the classes a, b", "which lack 'c' in 2 rows", 'data.stratified=True'):
    data.source('train', None)
  cured = Rows(name=f'csv:{path}', train='train[:50%]', classes=3, stratified=True)
  assert cured.fit(None).classes == ('a', 'b', 'c')


@pytest.mark.parametrize(
  'counts, note',
  [
    ({'a': 5, 'b': 5}, None),
    ({'a': 5}, "no row has 'b': ROC AUC and average precision are left out, their recall and F1 count as 0"),
  ],
)
def test_a_held_out_part_without_a_class_says_so(counts, note, tmp_path):
  write(tmp_path / 'train.csv', body({'a': 20, 'b': 20}), HEADER)
  write(tmp_path / 'test.csv', body(counts, 1), HEADER)
  data = Rows(name=f'csv:{tmp_path}', test='test')
  data = data.with_schema(data.fit(None))
  assert data.source('test', None).notes == ((f'csv:{tmp_path}, test: {note}',) if note else ())
  assert data.source('train', None).notes == ()


def test_several_classes_are_left_out_of_the_ranks(tmp_path):
  write(tmp_path / 'train.csv', body(dict.fromkeys('abcd', 10)), HEADER)
  write(tmp_path / 'test.csv', body({'b': 5, 'd': 5}, 1), HEADER)
  data = Rows(name=f'csv:{tmp_path}', test='test')
  data = data.with_schema(data.fit(None))
  (note,) = data.source('test', None).notes
  assert note.endswith(
    "no row has 'a', 'c': ROC AUC and average precision leave them out, their recall and F1 count as 0"
  )


def test_a_class_with_one_row_cannot_be_held_out(tmp_path):
  path = write(tmp_path / 'mine.csv', body({'a': 20, 'b': 20, 'c': 1}), HEADER)
  data = Rows(name=f'csv:{path}', train='train[:80%]', test='train[80%:]', stratified=True)
  data = data.with_schema(data.fit(None))
  assert data.schema.classes == ('a', 'b', 'c') and "no row has 'c'" in data.source('train[80%:]', None).notes[0]
  assert len(read(path)) == 41
  with pytest.raises(MixerError, match='is empty'):
    data.source('train[99%:99%]', None)
