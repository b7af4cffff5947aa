"""Tables that `train` refuses, each in one line that names file, row and column."""

import pytest
from table_runs import HEADER, changed, rows, text, train, write


@pytest.fixture
def refused_table(refused, tmp_path):
  """Trains in vain on a file of these bytes; nothing is left behind."""

  def refused_table(content, *overrides, parts):
    path = tmp_path / 'mine.csv'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused('train', *train(path, tmp_path / 'run', *overrides), parts=parts)
    assert [p.name for p in tmp_path.iterdir()] == ['mine.csv']

  return refused_table


@pytest.mark.parametrize(
  'content, parts',
  [
    ('', ['mine.csv is empty', 'name the columns']),
    ('\n', ['mine.csv is empty']),
    (text([]), ['has a header, but no rows']),
    (text(rows(classes='0')), ["every row has the label '0'", 'two classes']),
    (text(rows()).replace(',', ';'), ["cut by ';'", 'commas']),
    (text(rows()).replace(',', '\t'), ["cut by '\\t'", 'commas']),
    (text(rows()).replace(',', ' '), ["cut by ' '", 'commas']),
    (text(rows()).replace('\n', '\n\n', 7), ['line 2: the line is blank', 'take it out']),
    (text(rows(), ('id', 'size', 'size', 'colour', 'label')), ["'size' is there twice, as number 2 and 3"]),
    (text(rows(), ('id', 'size', '', 'colour', 'label')), ['column 3 has no name']),
    (changed(7, 'size', '\u22125'), ["row 7, column 'size': '\u22125', with", 'U+2212 MINUS SIGN', "write '-5'"]),
    (text(rows(), ('id', 'size', 'weight', 'colour', 'lable')), ["'label'", "did you mean 'lable'"]),
    (changed(7, 'size', 'big'), ["row 7, column 'size': 'big' is not a number", 'data.categorical']),
    (changed(7, 'size', '1_000'), ["row 7, column 'size': '1_000' is not a number"]),
    (changed(7, 'size', 'inf'), ["row 7, column 'size': 'inf' is infinite"]),
    (changed(7, 'size', '-1e999'), ["row 7, column 'size': '-1e999' is infinite"]),
    (changed(7, 'size', '1,2'), ['row 7: 6 cells, but the header has 5']),
    (changed(7, 'label', ''), ["row 7: the label 'label' is missing"]),
    (changed(7, 'colour', '\0'), ['after row 6: a NUL byte']),
    (changed(7, 'label', '"1'), ['after row 6: unexpected end of data', 'close every quote']),
    (changed(7, 'colour', '"red'), ['after row 6: unexpected end of data', 'close every quote']),
    (changed(7, 'colour', '"red"dish'), ['after row 6', 'close every quote']),
    (changed(7, 'colour', 'groß').encode('latin-1'), ['mine.csv', "can't decode byte 0xdf", 'UTF-8']),
    (text(rows(), ('größe', *HEADER[1:])).encode('latin-1'), ['mine.csv', "can't decode byte 0xf6", 'UTF-8']),
    (text(rows(), ('a\0', *HEADER[1:])), ['mine.csv', 'a NUL byte']),
    (text([(*row[:2], '', *row[3:]) for row in rows()]), ["the column 'weight' is empty in every row", 'data.drop']),
    (text(rows(2)), ["every row has the label '0', 1 training rows in all"]),
    (text(rows(3)), ['train[70%:80%]', 'is empty', '3 examples']),
    (text([('1', '2', '3', 'red', str(i % 2)) for i in range(40)]), ['train[70%:80%]', 'has no rows', '1 differ']),
    (text([(*row[:-1], f'{i / 7:.4f}') for i, row in enumerate(rows())]), ['values in 28 rows', 'are not classes']),
    (text([row[-1:] for row in rows()], HEADER[-1:]), ['no column is left besides the label']),
  ],
)  # fmt: skip
def test_a_table_that_is_refused(content, parts, refused_table):
  refused_table(content, parts=parts)


@pytest.mark.parametrize(
  'override, parts',
  [
    ('--config.data.scaling=quantil', ['data.scaling', "did you mean 'quantile'", 'standard']),
    ('--config.data.drop=colr', ['data.drop', "did you mean 'colour'"]),
    ('--config.data.categorical=colr', ['data.categorical', "did you mean 'colour'"]),
    ('--config.data.categorical=id', ["row 1, column 'colour'", 'not a number', 'data.categorical']),
    ('--config.data.label=lable', ["'lable'", "did you mean 'label'"]),
    ('--config.data.label=colour', ['task binary needs data.classes 2, not 3', 'classification']),
    ('--config.data.drop=("id", "size", "weight", "colour")', ['no column is left besides the label']),
    ('--config.data.drop=1,2', ['data.drop', "'1'"]),
    ('--config.data.classes=3', ['data.classes is 3', '2 values']),
    ('--config.data.train=train[:120%]', ['120%', '100%']),
    ('--config.data.train=train[500:]', ['500', '40']),
    ('--config.data.train=train[30:20]', ['train[30:20]', 'empty']),
    ('--config.data.test=test', ["'test'", 'Known: train']),
    ('--config.data.name=csv:none.csv', ['none.csv', '--data_dir']),
    ('--config.model.tokens=words', ['model.tokens', "'words'", 'columns, patches']),
    ('--config.augment={"flip": {}}', ['flip']),
  ],
)
def test_an_override_that_is_refused(override, parts, refused_table):
  refused_table(text(rows()), override, parts=parts)


def test_a_patch_that_does_not_divide(refused_table):
  patches = ('--config.model.tokens=patches', '--config.model.bins=0', '--config.model.patch=3')
  refused_table(text(rows()), *patches, parts=['model.patch is 3', '4 columns', 'divisor'])


def test_three_classes_under_a_binary_task(refused_table):
  content = text(rows(classes=('a', 'b', 'c')))
  task = '--config.task={"name": "binary", "positive_weight": 1.0}'
  refused_table(content, task, parts=['task binary needs data.classes 2, not 3'])
  refused_table(
    content, task, '--config.data.classes=2', parts=["'label' has 3 values", 'a, b, c', 'data.classes is 2']
  )


def test_numbers_too_large_for_a_scaling(refused_table):
  content = changed(7, 'size', '1e200')
  refused_table(content, '--config.data.scaling=standard', parts=["column 'size'", "'standard'", 'quantile'])


def test_nothing_there(tmp_path, refused):
  parts = ['is not a file, nor a folder with train.csv', 'csv:PATH']
  for path in ('none.csv', 'none.csv:kind', '.'):
    refused('train', *train(tmp_path / path, tmp_path / 'run'), parts=parts)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'header, body, parts',
  [
    (('id', 'size', 'weight', 'label'), [r[:3] + r[4:] for r in rows()], ["lacks 'colour'", 'has nothing besides']),
    ((*HEADER, 'note'), [(*r, 'x') for r in rows()], ['lacks nothing', "has 'note' besides"]),
    (HEADER[:-1], [r[:-1] for r in rows()], ["'label'"]),
    (HEADER, rows(classes=('0', '2')), ["row 2, column 'label': '2' is not one of the classes 0, 1"]),
    (HEADER, [(*r[:2], 'light', *r[3:]) for r in rows()], ["row 1, column 'weight': 'light' is not a number"]),
    (HEADER, [(*r[:2], 'inf' if r[0] == '9' else r[2], *r[3:]) for r in rows()], ["row 10, column 'weight': 'inf'"]),
    (HEADER, [], ['has a header, but no rows']),
  ],
)
def test_a_test_file_that_is_refused(header, body, parts, tmp_path, refused):
  folder = tmp_path / 'mine'
  folder.mkdir()
  write(folder / 'train.csv', rows())
  write(folder / 'test.csv', body, header)
  refused('train', *train(folder, tmp_path / 'run'), parts=[folder / 'test.csv', *parts])
  assert [p.name for p in tmp_path.iterdir()] == ['mine']
