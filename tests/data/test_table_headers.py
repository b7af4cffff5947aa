"""First lines of CSV files that name no columns, or not all, and names that nearly fit."""

import numpy as np
import pytest
from refusals import refuses
from table_files import HEADER, fitted, read, rows, write

from mixer_jax.data.inputs import Rows

BODY = [['5.1', '3.5', 'red', '0'], ['4.9', '3.0', 'blue', '1'], ['4.7', '3.2', 'red', '1']]


def text(body, header=None, end='\n'):
  return ''.join(','.join(row) + end for row in ([header] if header else []) + body)


@pytest.mark.parametrize(
  'content, parts',
  [
    ('# made in 2024\n' + text(BODY, HEADER), ["begins with '# made in 2024'", 'names no columns', 'take out']),
    ('# made, by hand\n' + text(BODY, HEADER), ["begins with '# made,by hand'", 'if it is a comment']),
    ('Measurements\n' + text(BODY, HEADER), ["begins with 'Measurements'", 'take out what stands above']),
    ('Measurements,,,\n' + text(BODY, HEADER), ["begins with 'Measurements'", 'take out what stands above']),
    ('sep=;\n' + text(BODY, HEADER).replace(',', ';'), ["seems to be cut by ';'", 'save it with commas']),
    (text([row[:2] + row[3:] for row in BODY]), ['its first line seems to be a row, 5.1, 3.5, 0; name the columns']),
    (text([['5', '', '0'], ['4', '2', '1']]), ['its first line seems to be a row, 5, , 0']),
    (text([['0.2', '0.2', 'red'], ['4', '2', 'red']]), ['its first line seems to be a row, 0.2, 0.2, red']),
    (text(BODY), ['its first line seems to be a row, 5.1, 3.5, red, 0; name the columns in a line above it']),
    (text(BODY, ['a', '', 'c', 'label']), ['column 2 has no name; name it in the first line']),
    (text(BODY, ['', '', 'c', 'label']), ['column 2 has no name']),
    (text(BODY, ['', 'unnamed_1', 'c', 'label']), ['column 1 has no name']),
    (text(BODY, ['"size"', '"size"', 'c', 'label']), ["the column 'size' is there twice, as number 1 and 2"]),
    (text(BODY, ['a', 'b', 'c', 'label'])[:-1] + ',\n', ['row 3: 5 cells', 'take the comma at its end away']),
    (text(BODY, ['a', 'b', 'label']), ['row 1: 4 cells, but the header has 3; name every column']),
    (text(BODY, ['a', 'b', 'c', 'label'], end=',\n').replace('red,0,', 'red,0,x'), ['row 1: 5 cells']),
    ('# by label\n'.replace(' by ', ',') + text(BODY), ['row 1: 4 cells, but the header has 2', 'take comments out']),
    (text(BODY, ['a', 'b', 'c', 'LABEL']), ["'label'", "did you mean 'LABEL'"]),
    (text(BODY, ['a', 'b', 'c', ' Label ']), ["did you mean 'Label'"]),
    (',,,\n' + text(BODY), ['is empty; its first line must name the columns']),
  ],
)  # fmt: skip
def test_a_first_line_that_is_refused(content, parts, tmp_path):
  (tmp_path / 'mine.csv').write_text(content)
  with refuses(tmp_path / 'mine.csv', *parts):
    read(tmp_path / 'mine.csv')


@pytest.mark.parametrize(
  'names', [['0', '1', '2'], ['1990', '1991', '2001'], ['400.5', '401', '1e3'], ['-1', 'x', '5']]
)
def test_numbers_that_rise_are_names(names, tmp_path):
  """As of pixels, of years, of wavelengths; also where a file holds nothing else."""
  path = tmp_path / 'mine.csv'
  path.write_text(text(BODY, [*names, 'label']))
  data = Rows(name=f'csv:{path}')
  data = data.with_schema(data.fit(None))
  assert data.schema.columns == tuple(names)
  path.write_text(text([row[:3] for row in BODY], names))
  assert [list(numbers) for numbers, _, _ in data.pieces([str(path)])[1]] == [[1, 2, 3]]
  with refuses('unknown column of', f"'label'. Known: {', '.join(sorted(names))}"):
    read(path)


def test_an_index_without_a_name(tmp_path):
  """As of a data frame that was saved."""
  path = tmp_path / 'mine.csv'
  write(path, [(str(i), *row) for i, row in enumerate(rows())], ('', *HEADER))
  data = Rows(name=f'csv:{path}')
  data = data.with_schema(data.fit(None))
  assert data.schema.columns == ('unnamed_1', *HEADER[:-1])
  (line,) = [line for line in data.report(None) if 'has no name' in line]
  assert line.startswith('warning: ') and 'drop it with data.drop=unnamed_1' in line
  dropped = Rows(name=f'csv:{path}', drop=('unnamed_1',))
  dropped = dropped.with_schema(dropped.fit(None))
  assert dropped.schema.columns == HEADER[:-1] and not [line for line in dropped.report(None) if 'no name' in line]
  # Rows met later need not have the column that is dropped.
  write(tmp_path / 'later.csv', rows(5, seed=1))
  assert [len(names) for names, _, _ in dropped.pieces([str(tmp_path / 'later.csv')])[1]] == [5]


def test_blank_lines_are_counted_with_the_line_of_excel(tmp_path):
  (tmp_path / 'mine.csv').write_text('sep=,\n' + text(BODY[:1], HEADER) + '\n' + text(BODY[1:]))
  with refuses('line 4: the line is blank'):
    read(tmp_path / 'mine.csv')


def test_a_name_in_another_case_is_offered(tmp_path):
  write(tmp_path / 'train.csv', rows())
  write(tmp_path / 'test.csv', rows(seed=1), ('size', 'colour', 'flag', 'Label'))
  data = Rows(name=f'csv:{tmp_path}')
  data = data.with_schema(data.fit(None))
  with refuses("lacks nothing and has 'Label' besides", "'Label' may be 'label': name it so"):
    data.table('test', None)
  write(tmp_path / 'test.csv', rows(seed=1), ('SIZE', 'colour', 'flag', 'label'))
  with refuses("lacks 'size' and has 'SIZE' besides", "'SIZE' may be 'size'"):
    data.table('test', None)


def test_names_with_line_breaks_stay_one_line(tmp_path):
  write(tmp_path / 'mine.csv', rows(), ('size\nin cm', 'colour', 'flag', 'label'))
  data = Rows(name=f'csv:{tmp_path / "mine.csv"}')
  schema = data.fit(None)
  assert schema.columns[0] == 'size\nin cm'
  with refuses("it lacks 'size\\nin cm'", "'size\\nin cm', colour, flag"):
    schema.check_columns('other.csv', ['colour', 'flag', 'label'])


@pytest.mark.parametrize('values', [30, 200])
def test_a_label_of_numbers_is_no_class(values, tmp_path):
  prices = [f'{3 + 1.37 * i:.2f}' for i in range(values)]
  body = [(str(i), 'red', '0', prices[i % values]) for i in range(400)]
  with refuses(
    'the label', f'has {values} values in 400 rows, so they are not classes but numbers such as', 'data.label'
  ):
    fitted(read(write(tmp_path / 'mine.csv', body)), categorical=['colour'])
  # Few halves, or many whole numbers, are classes.
  halves = [(str(i), 'red', '0', f'{i % 9 / 2}') for i in range(400)]
  assert len(fitted(read(write(tmp_path / 'mine.csv', halves)), categorical=['colour']).classes) == 9
  whole = [(str(i), 'red', '0', f'{i % 30}') for i in range(400)]
  assert len(fitted(read(write(tmp_path / 'mine.csv', whole)), categorical=['colour']).classes) == 30


def test_five_thousand_columns(tmp_path):
  values = np.random.default_rng(0).normal(size=(30, 5000))
  names = [f'c{i}' for i in range(5000)]
  write(
    tmp_path / 'mine.csv', [[*(f'{v:.4f}' for v in row), str(i % 2)] for i, row in enumerate(values)], [*names, 'label']
  )
  data = Rows(name=f'csv:{tmp_path / "mine.csv"}')
  data = data.with_schema(data.fit(None))
  np.testing.assert_allclose(np.stack([*data.table('train', None).columns.values()][:-1], axis=1), values, atol=1e-4)
  assert max(map(len, data.report(None))) < 400


@pytest.mark.parametrize(
  'body, parts',
  [
    ([['1', 'red', '0', '0']], ["every row has the label '0'"]),
    ([['', 'red', '', '0'], ['', 'blue', '', '1']], ["the column 'size' is empty in every row"]),
    ([['x', 'red', '?', '0'], ['y', 'blue', 'NA', '1']], ["the column 'flag' is empty in every row"]),
  ],
)
def test_one_row_and_rows_without_numbers(body, parts, tmp_path):
  with refuses(*parts):
    Rows(name=f'csv:{write(tmp_path / "mine.csv", body)}').fit(None)
