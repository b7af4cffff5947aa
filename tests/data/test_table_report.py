"""What is reported of a table when training starts: true of tables made to have it, silent on those made not to."""

import csv
import os
import pathlib
import re

import numpy as np
import pytest

from mixer_jax.data import inputs
from mixer_jax.data.tables import checks, report

COLUMNS = ('a', 'b', 'c', 'label')
REAL = os.environ.get('MIXER_DATA_DIR')


def make(count, seed=0):
  """Columns of noise and a label; no row twice."""
  rng = np.random.default_rng(seed)
  return [
    [f'{rng.normal():.9f}', f'{rng.normal():.9f}', 'xyz'[rng.integers(3)], str(rng.integers(2))] for _ in range(count)
  ]


def write(path, body, header=COLUMNS):
  with path.open('w', newline='') as file:
    csv.writer(file).writerows([header, *body])


@pytest.fixture
def lines_of(tmp_path):
  """(training rows, other splits=rows) -> the lines of the report."""

  def lines_of(train, header=COLUMNS, classes=2, drop=(), split='train', name=None, scaling='standard', **heldout):
    for old in tmp_path.glob('*.csv'):
      old.unlink()
    for other, body in {'train': train, **heldout}.items():
      write(tmp_path / f'{other}.csv', body, header)
    splits = {other: other if other in heldout else '' for other in ('val', 'test')}
    keys = {
      'name': name or f'csv:{tmp_path}', 'train': split, **splits, 'label': 'label', 'drop': drop, 'categorical': None,
      'scaling': scaling, 'column_order': 0, 'classes': classes, 'resident_mib': 1.0, 'workers': 0,
    }  # fmt: skip
    data = inputs.Rows(**keys)
    return data.with_schema(data.fit(None)).report(None)

  return lines_of


def warnings(lines):
  return [line for line in lines if line.startswith('warning: ')]


def test_the_schema_is_reported(lines_of):
  rng = np.random.default_rng(1)
  body = [[f'{rng.normal():.9f}', *row[:3], ('no', 'yes')[i % 3 == 0]] for i, row in enumerate(make(300))]
  lines = lines_of(body, ('id', *COLUMNS), drop=('id',))
  assert lines == [
    "label 'label': 'no' 200 rows, 'yes' 100 rows; the positive class of a binary task is 'yes'",
    "2 columns of numbers, scaling 'standard': a, b",
    '1 columns of categories: c (3 values)',
    'dropped columns: id',
  ]


def test_many_classes_and_columns_are_one_line_each(lines_of):
  names = [f'c{i}' for i in range(50)]
  rng = np.random.default_rng(0)
  body = [[*(f'{v:.9f}' for v in rng.normal(size=50)), f'k{i % 30}'] for i in range(120)]
  first, second, *_ = lines_of(body, (*names, 'label'), classes=30)
  shown = ', '.join(f"'{name}' 4 rows" for name in sorted(f'k{i}' for i in range(30))[:12])
  assert first == f"label 'label': {shown}, ... (30 in all)"
  assert second.endswith('c11, ... (50 in all)')


def test_noise_gives_no_warning(lines_of):
  assert warnings(lines_of(make(300), val=make(100, 1), test=make(100, 2))) == []
  assert warnings(lines_of(make(30))) == []


def test_breast_cancer_gives_no_warning(lines_of):
  assert warnings(lines_of(make(3), name='breast_cancer')) == []


# ---- copies


def test_copies_are_counted(lines_of):
  body = make(300)
  other = [[*row[:3], str(1 - int(row[3]))] for row in body]
  lines = warnings(lines_of([*body, *body[:5], *body[:5], body[7]]))
  assert lines == ['warning: 11 of the 311 rows (3.5%) of train are copies of others']
  # Two rows whose copy has another label; and a third among three copies that agree.
  lines = warnings(lines_of([*body, *body[10:13], *body[12:13], *other[10:13]]))
  assert lines == [
    'warning: 7 of the 307 rows (2.3%) of train are copies of others; 3 rows have another label than most of their'
    ' copies'
  ]


def test_training_rows_elsewhere_are_counted(lines_of):
  body = make(300)
  relabelled = [[*row[:3], str(1 - int(row[3]))] for row in body]
  lines = warnings(lines_of(body, val=make(50, 1) + body[:2], test=make(47, 2) + relabelled[4:7]))
  assert lines == [
    'warning: 2 of the 52 rows (3.8%) of val stand in train too, by all but the label',
    'warning: 3 of the 50 rows (6.0%) of test stand in train too, by all but the label',
  ]


def test_copies_are_by_value_and_by_the_columns_in_use(lines_of):
  body = [[*row[:2], 'x', row[3]] for row in make(200)]
  body[0][:2], body[1][:2], body[2][:2], body[3][:2] = ('1', ''), ('1.0', 'NA'), ('-0', '2e1'), ('0', '20')
  body[0][3] = body[1][3] = body[2][3] = body[3][3] = '1'
  assert warnings(lines_of(body)) == ['warning: 2 of the 200 rows (1.0%) of train are copies of others']
  numbered = [[f'{(i * 7919) % 200}', *row] for i, row in enumerate(body)]
  assert warnings(lines_of(numbered, ('id', *COLUMNS))) == []
  assert warnings(lines_of(numbered, ('id', *COLUMNS), drop=('id',))) == warnings(lines_of(body))


def test_parts_of_a_file_share_no_row(lines_of):
  body = make(200)
  lines = warnings(lines_of(body + body[:50], split='train[:60%]'))
  assert len(lines) == 1 and re.search(r'of train\[:60%\] are copies', lines[0])


# ---- columns


def leaking(count, wrong, seed=3):
  """`a` is the label, but in so many rows; the classes are even."""
  rng = np.random.default_rng(seed)
  body = make(count, seed)
  for i, row in enumerate(body):
    row[3] = str(i % 2)
    row[0] = f'{(i % 2 if i >= wrong else 1 - i % 2) + 0.3 * rng.random():.9f}'
  return body


def test_a_column_that_tells_the_label(lines_of):
  (line,) = warnings(lines_of(leaking(1000, 0)))
  assert line.startswith(
    'warning: alone these tell the label of the training rows (the commonest class: 50.00%): a (100.00%);'
  )
  # Of 1,000 even rows less than 2% of the 500 mistakes of a guess may be left.
  (line,) = warnings(lines_of(leaking(1000, 6)))
  assert 'a (99.' in line
  assert warnings(lines_of(leaking(1000, 60))) == []


def test_a_category_that_tells_the_label(lines_of):
  body = [[*row[:2], {'0': 'normal', '1': 'worm'}[row[3]], row[3]] for row in make(400)]
  (line,) = warnings(lines_of(body))
  assert 'c (100.00%)' in line


def test_a_category_of_many_values_that_tells_the_label(lines_of):
  """Values in turn with the label, so that in their order no range has one label."""
  body = [[*row[:2], f'site{i % 60:02}', '01'[i % 60 % 2]] for i, row in enumerate(make(400))]
  (line,) = warnings(lines_of(body))
  assert 'tell the label' in line and 'c (100.00%)' in line
  # Over 400 rows, half of each class, less than 4 mistakes are reported; a wrong row is one, as its value keeps others.
  for wrong, found in ((3, True), (4, False)):
    changed = [[*row[:3], str(int(row[3]) ^ (i < wrong))] for i, row in enumerate(body)]
    assert any('tell the label' in line for line in warnings(lines_of(changed))) is found


def test_a_category_learnt_by_heart_tells_nothing(lines_of):
  """A value for almost every row names the rows, but is of no use for another."""
  body = [[*row[:2], f'host{i:03}', row[3]] for i, row in enumerate(make(400))]
  (line,) = warnings(lines_of(body))
  assert 'name the rows: c;' in line
  body[0][2] = body[1][2]
  assert warnings(lines_of(body)) == [line]
  for i in range(60):
    body[i][2] = body[i + 60][2]
  assert warnings(lines_of(body)) == []


def test_a_rare_class_is_not_predicted_by_every_column(lines_of):
  """99.5% are right by a guess, and so by any column."""
  body = [[*row[:3], '01'[i % 200 == 0]] for i, row in enumerate(make(2000))]
  assert warnings(lines_of(body)) == []
  body = [['5' if row[3] == '1' else '0', *row[1:]] for row in body]
  (line,) = warnings(lines_of(body))
  assert 'the commonest class: 99.50%): a (100.00%)' in line


def test_a_large_table_is_sampled(lines_of, monkeypatch):
  seen = []
  real = checks.single_column_accuracy
  monkeypatch.setattr(report, 'SAMPLE', 500)
  monkeypatch.setattr(checks, 'single_column_accuracy', lambda t, *rest: seen.append(len(t)) or real(t, *rest))
  (line,) = warnings(lines_of(leaking(2000, 0)))
  assert seen == [500] and 'a (100.00%)' in line


def numbered(column):
  return [[str(column[i]), *row[1:]] for i, row in enumerate(make(len(column)))]


def test_a_column_that_numbers_the_rows(lines_of):
  for column in (range(100), range(500, 400, -1), np.cumsum(np.random.default_rng(0).random(100) + 0.001)):
    (line,) = warnings(lines_of(numbered(column)))
    assert line.startswith('warning: these seem to number or to name the rows: a; ')
  # In a part, too, whose rows are shuffled.
  (line,) = warnings(lines_of(numbered(range(100)), split='train[:70%]'))
  assert ': a; ' in line
  shuffled = np.random.default_rng(0).permutation(100)
  assert warnings(lines_of(numbered(shuffled))) == []
  assert warnings(lines_of(numbered([*range(99), 98]))) == []
  assert warnings(lines_of(numbered(range(10)))) == []


def test_a_column_that_names_the_rows(lines_of):
  body = [[*row[:2], f'host{(i * 37) % 100}', row[3]] for i, row in enumerate(make(100))]
  (line,) = warnings(lines_of(body))
  assert ': c; ' in line
  for i in range(10):
    body[i][2] = body[i + 10][2]
  assert warnings(lines_of(body)) == []


def test_images_have_no_report():
  assert inputs.Images(name='digits', **inputs.defaults('digits')).report(None) == []


# ---- the real UNSW-NB15, coursework files


@pytest.fixture(scope='module')
def unsw():
  """(split for training, split for validation, scaling) -> data with their schema."""
  if not (REAL and (pathlib.Path(REAL) / 'unsw_nb15/UNSWNB15_training_coursework.csv').exists()):
    pytest.skip('no unsw_nb15/UNSWNB15_training_coursework.csv in MIXER_DATA_DIR')

  def unsw(train, val, scaling):
    keys = {
      'name': 'unsw_nb15', 'train': train, 'val': val, 'test': 'test', 'label': 'label', 'drop': ('id',),
      'categorical': ('proto', 'service', 'state'), 'scaling': scaling, 'column_order': 0, 'classes': 2,
      'resident_mib': 1.0, 'workers': 0,
    }  # fmt: skip
    data = inputs.Rows(**keys)
    return data.with_schema(data.fit(REAL))

  return unsw


def test_real_unsw_is_reported(unsw):
  data = unsw('train', '', 'global')
  train, test = (data.table(split, REAL) for split in ('train', 'test'))
  assert (len(train), len(test), len(data.schema.columns)) == (20_000, 4_000, 42)
  assert warnings(data.report(REAL)) == [
    'warning: 4,581 of the 20,000 rows (22.9%) of train are copies of others',
    'warning: 149 of the 4,000 rows (3.7%) of test stand in train too, by all but the label',
  ]
  # With the label they are 142: the other seven are attacks that equal normal training rows.
  keys = [checks.row_keys(table, [*data.schema.columns, 'label']) for table in (train, test)]
  assert sum(key in frozenset(keys[0]) for key in keys[1]) == 142
  known = frozenset(checks.row_keys(train, data.schema.columns))
  shared = [key in known for key in checks.row_keys(test, data.schema.columns)]
  relabelled = np.array(shared) & ~np.isin(keys[1], keys[0])
  assert test.columns['label'][relabelled].tolist() == ['1'] * 7


def test_real_unsw_has_values_that_no_training_row_has(unsw):
  data = unsw('train[:80%]', 'train[80%:]', 'quantile')
  counts = {split: data.schema.arrays(data.table(split, REAL))[1] for split in (data.train, data.val, data.test)}
  assert counts == {
    'train[:80%]': {},
    'train[80%:]': {'proto: unknown': 45},
    'test': {'proto: unknown': 27, 'state: unknown': 4},
  }


def test_real_unsw_by_one_mean_and_deviation(unsw):
  """Computed from the file's text in another way, and as measured once."""
  schema = unsw('train', '', 'global').schema
  with open(f'{REAL}/unsw_nb15/UNSWNB15_training_coursework.csv', newline='', encoding='utf-8-sig') as file:
    body = list(csv.DictReader(file))
  columns = []
  for name in schema.columns:
    cells = [row[name] for row in body]
    numbers = {cell: i + 1 for i, cell in enumerate(sorted(set(cells)))} if name in schema.categories else None
    columns.append([numbers[cell] if numbers else float(cell) for cell in cells])
  values = np.array(columns)
  values /= values.max()
  found = [schema.statistics['mean'], schema.statistics['std']]
  np.testing.assert_allclose(found, [values.mean(), np.sqrt(np.mean((values - values.mean()) ** 2))], rtol=1e-9)
  np.testing.assert_allclose(found, [0.01006994, 0.07261033], atol=1e-8, rtol=0)


def test_values_that_differ_in_spelling_alone(lines_of):
  body = make(40)
  for row, (value, label) in zip(
    body, [('red', 'yes'), ('Red', 'Yes'), ('r\u0065d ', 'no'), ('\uff52ed', 'no')] * 10, strict=True
  ):
    row[2], row[3] = value, label
  lines = [line for line in lines_of(body, classes=3) if 'alone: ' in line]
  assert lines == [
    "warning: column 'label' has values that differ in case, spaces or Unicode form alone: 'Yes' and 'yes'; write them"
    ' alike if they are the same',
    "warning: column 'c' has values that differ in case, spaces or Unicode form alone: 'Red' and 'red' and '\uff52ed';"
    ' write them alike if they are the same',
  ]
  assert not [line for line in lines_of(make(40)) if 'alone: ' in line]


def test_a_class_that_reads_as_missing(lines_of):
  body = make(40)
  for i, row in enumerate(body):
    row[3] = ('None', 'some')[i % 2]
  assert "warning: the class 'None' of 'label' may stand for a missing label; take out such rows" in lines_of(body)


def test_values_of_held_out_rows_that_training_rows_lack(lines_of):
  other = [[*row[:2], row[2] if i % 3 else 'new', row[3]] for i, row in enumerate(make(60, seed=1))]
  assert not [line for line in lines_of(make(60), val=other) if 'no training row' in line]
  other = [[*row[:2], 'new' if i % 3 else row[2], row[3]] for i, row in enumerate(other)]
  (line,) = [line for line in lines_of(make(60), val=other) if 'no training row' in line]
  assert line.startswith('warning: most values in val of these columns stand in no training row: c (')


def test_numbers_beyond_float32_stop_no_report(lines_of):
  body = make(300)
  for i, row in enumerate(body):
    row[0] = ('1e308', '-1e308', '0')[i % 3]
  assert lines_of(body, scaling='quantile')[0].startswith("label 'label'")


def test_a_check_that_fails_stops_no_report(lines_of, monkeypatch):
  def fails(*_):
    raise ValueError('no\nluck')

  monkeypatch.setattr(checks, 'single_column_accuracy', fails)
  lines = lines_of(make(300))
  assert warnings(lines) == ['warning: the report lacks leaking columns, which failed (ValueError: no luck)']
  assert lines[0].startswith("label 'label'") and len(lines) == 5


def test_signs_that_look_alike_are_one_spelling(lines_of):
  body = make(40)
  for i, row in enumerate(body):
    row[2] = ('A-1', 'A\u22121', 'A\u200b-1', 'B')[i % 4]
  (line,) = [line for line in lines_of(body) if 'alone: ' in line]
  assert line.count("'A") == 3 and 'B' not in line
