"""Numbers in other notations: read where the settings say so, refused with the cure where they do not."""

import math

import pytest
from refusals import refuses
from table_files import write

from mixer_jax.data.inputs import Rows
from mixer_jax.data.tables.schema import Schema
from mixer_jax.data.tables.table import Notation
from mixer_jax.errors import MixerError


def rows(path, **settings):
  return Rows(name=f'csv:{path}', **settings)


@pytest.mark.parametrize(
  'notation, cell, value',
  [
    (('.', ','), '51,257', 51257), (('.', ','), '-1,234,567.5e1', -12345675), (('.', ','), '12', 12),
    (('.', ','), '.5', 0.5),
    (('.', ','), '1,2', None), (('.', ','), '12,3456', None), ((',', ''), '12,3', 12.3), ((',', ''), '12.3', None),
    ((',', '.'), '1.234,5', 1234.5), ((',', '.'), '1.234', 1234), (('.', ' '), '1 234', 1234),
    (('.', "'"), "1'234.5", 1234.5),
    ((',', ''), 'abc', None), ((',', ''), '', math.nan), ((',', ''), ' NA ', math.nan), ((',', ''), 'e5', None),
    (('.', ','), '+', None), (('.', ','), '1_000', None), (('.', ','), 'Infinity', math.inf),
  ],
)  # fmt: skip
def test_a_cell(notation, cell, value):
  assert (
    Notation(*notation).number(cell) == pytest.approx(value, nan_ok=True)
    if value is not None
    else (Notation(*notation).number(cell) is None)
  )


@pytest.mark.parametrize(
  'decimal, thousands', [('', ''), ('.', '.'), ('..', ','), (',', ',,'), ('.', '1'), ('-', ''), ('.', 'e')]
)
def test_signs_that_cannot_be(decimal, thousands, tmp_path):
  with pytest.raises(MixerError, match='data.decimal is .* and data.thousands .*two different signs'):
    rows(tmp_path, decimal=decimal, thousands=thousands).table('train', None)


@pytest.mark.parametrize(
  'cells, cures',
  [
    (['"51,257"', '"1,234,567"', '"7,000.5"'], ["data.decimal='.' data.thousands=','"]),
    (['"12,3"', '"0,25"', '"3,1"'], ["data.decimal=',' data.thousands=''"]),
    (['"51,257"', '"1,234"', '12'], ["data.decimal='.' data.thousands=','", "data.decimal=',' data.thousands=''"]),
    (['"1.234,5"', '"7.000,25"', '"2.000.000"'], ["data.decimal=',' data.thousands='.'"]),
    (['1 234', '12 345', '7 000'], ["data.thousands=' '"]),
    (["1'234", "12'345", "7'000"], ["data.thousands=\"'\""]),
  ],
)  # fmt: skip
def test_another_notation_is_refused_with_its_cure(cells, cures, tmp_path):
  path = tmp_path / 'mine.csv'
  path.write_text('size,label\n' + ''.join(f'{cells[i % 3]},{i % 2}\n' for i in range(12)))
  with pytest.raises(MixerError, match=r"row 1, column 'size': .* looks like a number in another notation") as error:
    rows(path).fit(None)
  assert all(cure in str(error.value) for cure in cures) and 'data.categorical' in str(error.value)
  assert rows(path, categorical=('size',)).fit(None).categories['size']


def test_numbers_in_another_notation_are_those_numbers(tmp_path):
  body = [(f'"{1000 + i:,}"', f'"{i / 4}"'.replace('.', ','), str(i % 2)) for i in range(40)]
  (tmp_path / 'us.csv').write_text('size,label\n' + ''.join(f'{a},{c}\n' for a, _, c in body))
  (tmp_path / 'eu.csv').write_text('size,label\n' + ''.join(f'{b},{c}\n' for _, b, c in body))
  american = rows(tmp_path / 'us.csv', thousands=',')
  assert american.table('train', None).columns['size'].tolist() == [1000 + i for i in range(40)]
  european = rows(tmp_path / 'eu.csv', decimal=',')
  assert european.table('train', None).columns['size'].tolist() == [i / 4 for i in range(40)]
  # What was learnt goes with the schema, through JSON, to rows met later.
  schema = Schema.from_json(european.fit(None).to_json())
  assert schema.notation.decimal == ','
  later = rows(tmp_path / 'eu.csv').with_schema(schema)
  assert [array['features'].shape for _, array, _ in later.pieces([tmp_path / 'eu.csv'])[1]] == [(40, 1)]


def test_a_class_may_be_named_like_what_is_missing(tmp_path):
  path = tmp_path / 'mine.csv'
  write(path, [(str(i), ('None', 'NA')[i % 2]) for i in range(20)], header=('size', 'label'))
  assert rows(path).fit(None).classes == ('NA', 'None')
  write(path, [(str(i), ('a', ' ')[i % 2]) for i in range(20)], header=('size', 'label'))
  with pytest.raises(MixerError, match="row 2: the label 'label' is missing"):
    rows(path).fit(None)


def test_what_counts_as_missing_is_a_setting(tmp_path):
  path = tmp_path / 'mine.csv'
  write(path, [(('-', '?', str(i))[i % 3], str(i % 2)) for i in range(30)], header=('size', 'label'))
  table = rows(path, missing=('-', '?')).table('train', None)
  assert [value for value in table.columns['size'] if value == value] == list(range(2, 30, 3))
  with pytest.raises(MixerError, match="row 1, column 'size': '-' is not a number, as most of that column are"):
    rows(path).fit(None)


# ---- columns that are not in one notation


def write_column(path, cells):
  write(path, [(cell, str(i % 2)) for i, cell in enumerate(cells)], header=('size', 'label'))
  return rows(path)


def refused_column(path, cells, *parts, **settings):
  write_column(path, cells)
  with refuses(path, "column 'size'", *parts):
    rows(path, **settings).fit(None)


def test_a_column_is_judged_by_all_its_texts(tmp_path):
  path, comma, words = tmp_path / 'mine.csv', ['1,234,567'] * 1500, ['abc', 'small', 'x'] * 300
  # Numbers first and words far below, and the reverse: both are numbers in another notation, with the words named.
  for cells, row in ((comma + words, 1501), (words + comma, 1)):
    parts = ["'1,234,567' looks like a number in another notation", f"900 other texts, such as 'abc' in row {row}"]
    refused_column(path, cells, *parts, "set data.decimal='.' data.thousands=','", 'data.categorical')
  # Where words are most, the column holds categories.
  assert len(write_column(path, words * 2 + comma).fit(None).categories['size']) == 4
  # One text that is none does not hide what most are.
  refused_column(
    path, ['12,5'] * 2000 + ['12,5kg'], 'row 1', "1 other texts, such as '12,5kg' in row 2001", "decimal=','"
  )


def test_signs_and_another_notation_at_once(tmp_path):
  """One is named after the other, and no column becomes categories."""
  path = tmp_path / 'mine.csv'
  for cells in (['1,5', '\u22121,5'] * 10, ['\u22121,5', '\u22122,5', '3,5'] * 10, ['\u22125', '1,5'] * 10):
    refused_column(path, cells, "set data.decimal=',' data.thousands=''")
    refused_column(path, cells, 'U+2212 MINUS SIGN', "write '-", decimal=',')


def test_words_for_missing_do_not_make_a_notation(tmp_path):
  refused_column(tmp_path / 'mine.csv', ['NA', '5', '5'] * 10, "'NA' is not a number", missing=('-',))


@pytest.mark.parametrize(
  'cell, sign, plain',
  [
    ('\u22125', 'U+2212 MINUS SIGN', '-5'), ('1e\u22125', 'U+2212 MINUS SIGN', '1e-5'),
    ('\u20135.5', 'U+2013 EN DASH', '-5.5'),
    ('\u0663\u0664', 'U+0663 ARABIC-INDIC DIGIT THREE', '34'), ('\uff13', 'U+FF13 FULLWIDTH DIGIT THREE', '3'),
    ('\u0663\u066b\u0661', 'U+066B ARABIC DECIMAL SEPARATOR', '3.1'), ('5\u200b', 'U+200B ZERO WIDTH SPACE', '5'),
    ('\u00b2', 'U+00B2 SUPERSCRIPT TWO', '2'),
  ],
)  # fmt: skip
def test_signs_that_are_not_those_of_numbers(cell, sign, plain, tmp_path):
  assert Notation().number(cell) is None and Notation(',').number(cell) is None
  path = tmp_path / 'mine.csv'
  # In every row, or in one.
  for cells in ([cell] * 20, ['5'] * 19 + [cell]):
    refused_column(path, cells, f'{cell!r}, with ', sign, f'write {plain!r}', 'data.categorical')
  write_column(path, [cell] * 20)
  assert rows(path, categorical=('size',)).fit(None).categories == {'size': (cell,)}
  # In a file met later.
  write_column(path, ['5'] * 20)
  later = rows(path).with_schema(rows(path).fit(None))
  write_column(path, ['5'] * 19 + [cell])
  with refuses('row 20', sign, f'write {plain!r}'):
    later.table('train', None)


@pytest.mark.parametrize('space', [' ', '\u00a0', '\u202f'])
def test_spaces_between_thousands(space, tmp_path):
  path = tmp_path / 'mine.csv'
  refused_column(path, [f'1{space}234{space}567,5'] * 20, "set data.decimal=',' data.thousands=' '")
  data = rows(path, decimal=',', thousands=' ')
  assert set(data.table('train', None).columns['size']) == {1234567.5}


@pytest.mark.parametrize(
  'settings, cell, parts',
  [
    ({}, '1,5', ["'1,5' is not a number with data.decimal='.' data.thousands=''", 'write it as all others are']),
    ({}, '1.234,5', ['is not a number with']),
    ({'decimal': ','}, '1.5', ["'1.5' is not a number with data.decimal=','", 'write it as all others are']),
    ({'thousands': ','}, "1'234", ["data.thousands=','"]),
    ({}, 'abc', ["'abc' is not a number; fix it"]),
    ({}, '1e400', ["'1e400' is infinite"]),
    ({}, '1_000', ["'1_000' is not a number; fix it"]),
  ],
)
def test_a_later_file_in_another_notation(settings, cell, parts, tmp_path):
  path = tmp_path / 'mine.csv'
  write_column(path, ['5'] * 20)
  later = rows(path, **settings)
  later = later.with_schema(later.fit(None))
  write_column(path, ['5'] * 10 + [cell] * 10)
  with refuses(path, "row 11, column 'size'", *parts):
    later.table('train', None)
  with refuses(path, "row 11, column 'size'", *parts):
    list(later.pieces([str(path)])[1])


def test_another_notation_than_the_settings(tmp_path):
  refused_column(tmp_path / 'mine.csv', ['1.5'] * 20, "set data.decimal='.' data.thousands=''", decimal=',')


def test_a_long_cell_is_cut_in_messages(tmp_path):
  path = tmp_path / 'mine.csv'
  write_column(path, ['5'] * 20 + ['x' * 100_000])
  with pytest.raises(MixerError, match='xxx[.]{3}') as error:
    rows(path).fit(None)
  assert len(str(error.value)) < 400
