"""Numbers in other notations: read where the settings say so, refused with the cure where they do not."""

import math

import pytest
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
