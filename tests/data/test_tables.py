"""CSV files: what is read, what is refused, and parts that share no row."""

import json

import numpy as np
import pytest
from table_files import HEADER, fitted, read, rows, write

from mixer_jax.data.tables import Table, checks, sets
from mixer_jax.data.tables import csv as csv_files
from mixer_jax.data.tables import schema as schemas
from mixer_jax.data.tables import table as table_module
from mixer_jax.errors import MixerError


@pytest.fixture
def path(tmp_path):
  return write(tmp_path / 'train.csv', rows())


# ---- reading


def test_what_is_read_is_what_was_written(path):
  table, body = read(path), rows()
  assert list(table.columns) == list(HEADER) and len(table) == len(body)
  for i in (0, 2):
    np.testing.assert_array_equal(table.columns[HEADER[i]], [float(row[i]) for row in body])
  assert table.columns['colour'].tolist() == [row[1] for row in body]


def test_more_rows_than_are_held_as_text_at_once(path, monkeypatch):
  whole = read(path)
  monkeypatch.setattr(table_module, 'ROWS', 7)
  sets._read.cache_clear()
  parts = read(path)
  for name in HEADER:
    np.testing.assert_array_equal(parts.columns[name], whole.columns[name])


def test_a_byte_order_mark_spaces_and_quotes(tmp_path):
  (tmp_path / 't.csv').write_text('\ufeffa, b ,label\r\n1,"x, y",0\r\n 2 ,z,1\r\n', encoding='utf-8')
  table = read(tmp_path / 't.csv')
  assert table.columns['a'].tolist() == [1, 2] and table.columns['b'].tolist() == ['x, y', 'z']


@pytest.mark.parametrize(
  'text, message',
  [
    ('', 'is empty'),
    ('version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n', 'is a Git LFS pointer'),
    ('<!doctype html><html>not found</html>', 'is a web page'),
    ('a,b,label\n', 'has a header, but no rows'),
    ('a;b;label\n1;2;0\n', "cut by ';'; save it with commas"),
    ('a,a,label\n1,2,0\n', "'a' is there twice, as number 1 and 2"),
    ('a,,label\n1,2,0\n', 'column 2 has no name'),
    ('a,b,label\n1,2,0\n1,2\n', 'row 2: 2 cells, but the header has 3'),
    ('a,b,label\n1,2,0\n1,inf,1\n', "row 2, column 'b': 'inf' is infinite"),
    ('a,b,label\n1,2,0\n3,4,1\nx,4,1\n', "row 3, column 'a': 'x' is not a number, as most of that column are"),
    ('a,b,label\n1,2,0\n3,4,0\n', "every row has the label '0'"),
    ('a,b,label\n1,2,0\n3,4,\n', "row 2: the label 'label' is missing"),
    ('a,b,label\n1,,0\n3,,1\n', "the column 'b' is empty in every row"),
    ('a,b\n1,2\n', "unknown column of .* 'label'[.] Known: a, b[.]"),
    ('a b label\n1 2 0\n', "begins with 'a b label', which seems to be cut by ' '; save it with commas"),
    ('a b kind\n1 2 0\n', "'a b kind', which seems to be cut by ' '"),
    ('a;b, c;label\n1;2;0\n', "'a;b,c;label', which seems to be cut by ';'"),
    ('a\tb,c\tlabel\n1\t2\t0\n', r"which seems to be cut by '.t'"),
    ('a b,c label\n1,2\n', "unknown column of .* 'label'"),
    ('a;b,c\n1,2\n', "unknown column of .* 'label'"),
    ('a,b,label\n1,2,0\n\n3,4,1\n', 'line 3: the line is blank, but rows follow; take it out$'),
    ('a,b,label\n1,"2\n",0\n\n\n3,4,1\n', 'line 4: the line is blank'),
    ('a,b,label\n\n1,2,0\n', 'line 2: the line is blank'),
  ],
)
def test_what_is_refused(text, message, tmp_path):
  (tmp_path / 't.csv').write_text(text)
  with pytest.raises(MixerError, match=message) as error:
    fitted(read(tmp_path / 't.csv'), categorical=[])
  assert '\n' not in str(error.value)


def test_no_text(tmp_path):
  (tmp_path / 't.csv').write_bytes(b'a,label\n\xff\xfe,1\n')
  with pytest.raises(MixerError, match='save it in UTF-8'):
    read(tmp_path / 't.csv')


def test_blank_lines_end_a_table_but_do_not_part_it(tmp_path, monkeypatch):
  monkeypatch.setattr(table_module, 'ROWS', 4)
  path = tmp_path / 't.csv'
  values = [f'{value:.9f}' for value in np.random.default_rng(0).normal(size=10)]
  path.write_text('a\n' + ''.join(f'{value}\n' for value in values) + '\n\r\n\n')
  assert csv_files.read_csv(path, columns=['a'], categorical=[]).columns['a'].tolist() == list(map(float, values))
  path.write_text('a\n' + '\n'.join([*values[:6], '', '', *values[6:]]) + '\n')
  parts = csv_files.read_cells(path)
  assert next(parts) == (1, {'a': values[:4]})  # the file is not searched before its rows are given
  with pytest.raises(MixerError, match='line 8: .* is blank, but rows follow; take it out, or write "" where its only'):
    list(parts)
  path.write_text('a\n' + '\n'.join([*values[:6], '""', *values[6:]]) + '\n')
  column = csv_files.read_csv(path, columns=['a'], categorical=[]).columns['a']
  assert len(column) == 11 and np.flatnonzero(np.isnan(column)).tolist() == [6]


def test_missing_numbers_are_the_median_and_counted(tmp_path):
  path = write(
    tmp_path / 't.csv', [('1', 'red', '0', '0'), ('', 'red', '0', '1'), ('NA', 'red', '0', '1'), ('5', 'red', '0', '0')]
  )
  table = read(path)
  arrays, counts = fitted(table, 'standard').arrays(table)
  assert counts == {'size: missing': 2}
  np.testing.assert_allclose(arrays['features'][:, 0], np.array([-2, 0, 0, 2]) / np.sqrt(2))


def test_a_value_that_no_training_row_has_is_number_0_and_counted(path):
  table = read(path)
  schema = fitted(table)
  other = Table('other', {**table.columns, 'colour': np.where(np.arange(len(table)) < 3, 'pink', 'red').astype(object)})
  arrays, counts = schema.arrays(other)
  assert counts == {'colour: unknown': 3}
  assert arrays['categories'][:, 0].tolist() == [0] * 3 + [1 + schema.categories['colour'].index('red')] * 37


def test_labels(path, tmp_path):
  table = read(path)
  schema = fitted(table)
  assert schema.classes == ('0', '1')
  np.testing.assert_array_equal(schema.labels(table), np.arange(40) % 2)
  np.testing.assert_array_equal(schema.labels(Table('t', {'label': np.array(['1.0', '0', '1e0'], object)})), [1, 0, 1])
  with pytest.raises(MixerError, match="row 2, column 'label': '2' is not one of the classes 0, 1"):
    schema.labels(Table('t', {'label': np.array(['1', '2'], object)}))


def test_a_row_of_a_part_is_named_by_its_number_in_the_file(tmp_path):
  body = [(str(i), 'red', '0', str(i % 2)) for i in range(50)]
  body[20] = ('20', 'red', '0', 'x')
  part = sets.load(
    f'csv:{write(tmp_path / "t.csv", body)}', 'train[:90%]', label='label', drop=(), categorical=None, data_dir=None
  )
  assert part.numbers.tolist() == (part.columns['size'] + 1).tolist() != sorted(part.numbers.tolist())
  good = part.take(np.flatnonzero(part.columns['label'] != 'x'))
  schema = fitted(good)
  with pytest.raises(MixerError, match="row 21, column 'label': 'x' is not one of the classes 0, 1"):
    schema.labels(part)
  good.columns['size'][4] = 1e300
  with pytest.raises(MixerError, match=f"row {good.numbers[4]}, column 'size': 1e.300 is too large for the scaling"):
    schema.arrays(good)


def test_a_file_that_changes_is_read_again(path):
  assert len(read(path)) == 40
  write(path, rows(50))
  assert len(read(path)) == 50


def test_a_wide_table_is_read_a_few_rows_at_a_time(tmp_path, monkeypatch):
  monkeypatch.setattr(table_module, 'CELLS', 30)
  path = write(tmp_path / 't.csv', rows(20))
  parts = list(csv_files.read_cells(path))
  assert [first for first, _ in parts] == [1, 8, 15] and [len(cells['size']) for _, cells in parts] == [7, 7, 6]
  assert sum((cells['size'] for _, cells in parts), []) == [row[0] for row in rows(20)]


@pytest.mark.parametrize('names', [('big', '--1', '-1'), ('inf', '1'), ('1_0', '10'), ('x\ny', 'z')])
def test_odd_labels(names):
  table = Table('t', {'size': np.arange(4.0), 'label': np.array([*names, *names][:4], object)})
  schema = fitted(table, categorical=[])
  assert schema.classes == tuple(sorted(names))
  assert [schema.classes[k] for k in schema.labels(table)] == table.columns['label'].tolist()


LARGE = 2**53  # from which on a float64 is not one whole number only


@pytest.mark.parametrize(
  'cells, classes',
  [
    ((f'{LARGE + 1}', f'{LARGE}', f'-{LARGE + 1}'), (f'-{LARGE + 1}', f'{LARGE}', f'{LARGE + 1}')),
    ((f'{LARGE}.0', f'{LARGE + 1}.0'), (f'{LARGE}.0', f'{LARGE + 1}.0')),
    (('007', '+7', '7.0', '70e-1', '-0', '0.0'), ('0', '7')),
    (('2' * 4000, '2' * 3999 + '1', '3'), ('3', '2' * 3999 + '1', '2' * 4000)),
    (('2' * 5000, '1' * 5000), ('1' * 5000, '2' * 5000)),
  ],
  ids=['large', 'with a point', 'one number in many ways', 'very large', 'longer than Python reads'],
)
def test_whole_numbers_are_classes_exactly(cells, classes):
  table = Table('t', {'size': np.arange(float(len(cells))), 'label': np.array(cells, object)})
  schema = fitted(table, categorical=[])
  assert schema.classes == classes
  assert set(schema.labels(table)) == set(range(len(classes)))


def test_a_label_that_is_not_a_class():
  label = lambda values: Table('t', {'size': np.arange(60.0), 'label': np.array(values, object)})
  assert len(fitted(label([str(i % 25) for i in range(60)]), categorical=[]).classes) == 25
  with pytest.raises(MixerError, match="'label' has 60 values in 60 rows, so they are not classes"):
    fitted(label([f'{i / 7:.5f}' for i in range(60)]), categorical=[])


def test_column_order_permutes_columns_and_what_belongs_to_them(path):
  table = read(path)
  plain, other = fitted(table), fitted(table, column_order=3)
  assert sorted(other.columns) == sorted(plain.columns) and other.columns != plain.columns
  places = [plain.columns.index(name) for name in other.columns]
  (a, _), (b, _) = plain.arrays(table), other.arrays(table)
  np.testing.assert_array_equal(b['features'], a['features'][:, places])
  np.testing.assert_array_equal(b['categories'], a['categories'])
  assert schemas.Schema.from_json(json.loads(json.dumps(other.to_json()))).columns == other.columns


# ---- parts


def test_parts_share_no_row(tmp_path):
  body = [row for row in rows(60) for _ in range(1 + int(row[2]))]
  path = write(tmp_path / 'train.csv', body)
  parts = [
    sets.load(f'csv:{path}', split, label='label', drop=(), categorical=None, data_dir=None)
    for split in ('train[:30%]', 'train[30%:70%]', 'train[70%:]')
  ]
  keys = [checks.row_keys(part, HEADER[:3]) for part in parts]
  assert sum(map(len, keys)) == len(body)
  assert not set(keys[0]) & set(keys[1]) and not set(keys[1]) & set(keys[2]) and not set(keys[0]) & set(keys[2])
  assert sorted(sum(keys, [])) == sorted(checks.row_keys(read(path), HEADER[:3]))


def test_row_keys_are_equal_where_rows_are(monkeypatch):
  monkeypatch.setattr(table_module, 'ROWS', 3)
  table = Table(
    't',
    {
      'x': np.array([1, 1, 0, -0.0, np.nan, -np.nan, 2, 1, 0]),
      'y': np.array(['a', 'a', 'b', 'b', '', '', 'a', 'b', ''], object),
    },
  )
  keys = checks.row_keys(table, ('x', 'y'))
  assert keys[0] == keys[1] and keys[2] == keys[3] and keys[4] == keys[5] and len(set(keys)) == 6
  assert checks.row_keys(table.take(np.array([7, 0])), ('x', 'y')) == [keys[7], keys[0]]
  assert checks.row_keys(table, ('y', 'x'))[0] != keys[0] and len(set(checks.row_keys(table, ('y',)))) == 3


def test_equal_rows_that_lack_a_number_stand_in_one_part(tmp_path):
  path = write(tmp_path / 'train.csv', [('', 'red', str(i % 10), '0') for i in range(100)])
  parts = [
    set(
      sets.load(f'csv:{path}', split, label='label', drop=(), categorical=None, data_dir=None).columns['flag'].tolist()
    )
    for split in ('train[:50%]', 'train[50%:]')
  ]
  assert len(parts[0]) == len(parts[1]) == 5 and not parts[0] & parts[1]


def test_joined_parts_are_the_rest(tmp_path):
  path = write(tmp_path / 'train.csv', rows(60))
  load = lambda split: sets.load(f'csv:{path}', split, label='label', drop=(), categorical=None, data_dir=None)
  whole, fold, rest = (load(split) for split in ('train', 'train[20%:40%]', 'train[:20%]+train[40%:]'))
  keys = lambda table: sorted(checks.row_keys(table, [*HEADER[:3], 'label']))
  assert sorted(keys(fold) + keys(rest)) == keys(whole)
  assert sorted([*fold.numbers, *rest.numbers]) == list(range(1, 61))
  assert len(fold) == 12


def test_a_known_leak_is_refused(tmp_path):
  folder = tmp_path / 'unsw_nb15'
  folder.mkdir()
  write(folder / 'UNSW_NB15_training-set.csv', [('1', '2', 'x', '0')], ('id', 'dur', 'attack_cat', 'label'))
  load = lambda drop: sets.load('unsw_nb15', 'train', label='label', drop=drop, categorical=(), data_dir=str(tmp_path))
  with pytest.raises(MixerError, match='attack_cat gives the label away; put it into data.drop'):
    load(('id',))
  assert list(load(('id', 'attack_cat')).columns) == ['dur', 'label']


def test_a_column_that_predicts_alone_is_seen(numbers):
  label = (numbers.columns['c0'] > 0).astype(int)
  table = Table('t', {**numbers.columns, 'label': label.astype(str).astype(object)})
  schema = schemas.fit(table, label='label', dropped=(), categorical=[], scaling='standard')
  accuracy = checks.single_column_accuracy(table, schema, schema.labels(table))
  assert accuracy['c0'] == 1 and max(v for k, v in accuracy.items() if k != 'c0') < 0.75


def test_a_category_predicts_by_the_other_rows_that_have_it():
  rng = np.random.default_rng(4)
  values = np.array([f'v{k}' for k in rng.geometric(0.1, 200)], object)
  labels = rng.choice(3, 200, p=(0.5, 0.3, 0.2))
  table = Table('t', {'x': values, 'label': labels.astype(str).astype(object)})
  schema = schemas.fit(table, label='label', dropped=(), categorical=['x'], scaling='standard')
  right = alone = 0
  for i, value in enumerate(values):
    others = np.delete(labels, i)[np.delete(values, i) == value]
    counts = np.bincount(others if len(others) else labels, minlength=3)
    right += counts[labels[i]] == counts.max() and (counts == counts.max()).sum() == 1
    alone += not len(others)
  assert alone > 2 and 60 < right < 140
  assert checks.single_column_accuracy(table, schema, schema.labels(table)) == {'x': right / 200}
