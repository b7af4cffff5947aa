"""Data sets of the user's own, functions of a module outside the repository; and what known data sets imply."""

import json
import pickle
import sys

import numpy as np
import pytest
from refusals import refuses

from mixer_jax.data import inputs
from mixer_jax.data.examples import Source
from mixer_jax.data.images import decode, sets

IMAGES = """
import numpy as np

from mixer_jax.data.examples import Source

CLASSES = ('cold', 'warm', 'hot')


def blobs(split: str, *, data_dir=None):
  rng = np.random.default_rng(len(split))
  label = rng.integers(0, 3, 50)
  image = (80 * label[:, None, None, None] + rng.integers(0, 9, (50, 6, 8, 1))).astype(np.uint8)
  return {'image': image, 'label': label}, CLASSES


def lazy(split: str):
  arrays, classes = blobs(split)
  return Source(classes, None, Reader(arrays), 50, notes=('made of nothing',))


class Reader:
  def __init__(self, arrays):
    self.arrays = arrays

  def __call__(self, index):
    label = self.arrays['label'][index]
    return {'image': self.arrays['image'][index], 'label': 7 if index == 49 else int(label)}


def where(split, *, data_dir=None):
  raise ValueError(f'{split} in {data_dir}')


image, label = np.zeros((4, 6, 8, 1), np.uint8), np.zeros(4, np.int64)
GIVEN = {
  'none': None,
  'arrays_alone': {'image': image, 'label': label},
  'no_label': ({'image': image}, CLASSES),
  'more': ({'image': image, 'label': label, 'mask': label}, CLASSES),
  'floats': ({'image': image / 255, 'label': label}, CLASSES),
  'flat': ({'image': image[..., 0], 'label': label}, CLASSES),
  'too_few': ({'image': image, 'label': label[1:]}, CLASSES),
  'empty': ({'image': image[:0], 'label': label[:0]}, CLASSES),
  'float_labels': ({'image': image, 'label': label + 0.5}, CLASSES),
  'label_3': ({'image': image, 'label': label + 3}, CLASSES),
  'one_text': ({'image': image, 'label': label}, 'abc'),
  'numbers': ({'image': image, 'label': label}, (0, 1, 2)),
  'no_dicts': Source(CLASSES, None, lambda i: label, 4),
}


def __getattr__(name):
  if name not in GIVEN:
    raise AttributeError(name)
  return lambda split: GIVEN[name]
"""

TABLES = """
from __future__ import annotations

import numpy as np

from mixer_jax.data.tables import Table


def flowers(split: str, *, data_dir=None) -> Table:
  rng = np.random.default_rng(len(split))
  kind = np.arange(60) % 3
  size = kind + 0.1 * rng.random(60)
  size[4] = np.nan
  colour = np.array(['red', ' blue', None], dtype=object)[rng.integers(0, 3, 60)]
  return Table(f'flowers of {split}', {'size': size, 'count': rng.integers(0, 9, 60), 'colour': colour, 'label': kind})


def columns(split) -> Table:
  return flowers(split).columns


class Frame:
  def __init__(self, columns):
    self._columns = columns
    self.columns = list(columns)

  def __getitem__(self, name):
    return self._columns[name]


def frame(split) -> pandas.DataFrame:
  return Frame(flowers(split).columns)


def unannotated(split):
  return flowers(split)


def none(split) -> Table:
  return None


def ragged(split) -> Table:
  return {'size': np.zeros(3), 'label': np.zeros(4)}


def square(split) -> Table:
  return {'size': np.zeros((3, 2)), 'label': np.zeros(3)}


def infinite(split) -> Table:
  return {'size': np.array([0.0, np.inf]), 'label': np.array(['a', 'b'])}
"""


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
  for name, text in (('own_images', IMAGES), ('own_tables', TABLES)):
    (tmp_path / f'{name}.py').write_text(text)
    monkeypatch.delitem(sys.modules, name, raising=False)
  monkeypatch.syspath_prepend(tmp_path)


def images(function, **changes):
  settings = {'image': (6, 8, 1), 'classes': 3, 'mean': (0.5,), 'std': (0.5,)}
  return inputs.Images(name=f'own_images:{function}', **settings | changes)


# ---- images


def test_images_of_ones_own():
  data = images('blobs')
  assert inputs.kind_of(data.name) is inputs.Images
  whole, part = data.source('train', None), data.source('train[:80%]', None)
  assert whole.classes == ('cold', 'warm', 'hot') and (len(whole), len(part)) == (50, 40)
  assert whole.arrays['label'].dtype == np.int32
  np.testing.assert_array_equal(part.arrays['image'], whole.arrays['image'][:40])
  np.testing.assert_array_equal(whole.arrays['image'].max((1, 2, 3)) // 80, whole.arrays['label'])
  assert not np.array_equal(data.source('test', None).arrays['image'], whole.arrays['image'])
  small = images('blobs', image=(3, 4, 3)).source('train[10:]', None)
  assert small.arrays is None
  np.testing.assert_array_equal(small[2]['image'], decode.fit_image(whole.arrays['image'][12], (3, 4, 3)))


def test_images_read_one_by_one():
  source = images('lazy').source('train[10:]', None)
  assert source.arrays is None and len(source) == 40 and source.notes == ('made of nothing',)
  whole = images('blobs').source('train', None)
  assert source[3]['label'].dtype == np.int32
  for _ in range(2):
    np.testing.assert_array_equal(source[3]['image'], whole[13]['image'])
    source = pickle.loads(pickle.dumps(source))
  with refuses('own_images:lazy', 'from 0 to 2', 'found 7 at example 49'):
    source[39]


def test_a_function_is_given_the_data_directory():
  with pytest.raises(ValueError, match='test in /data'):
    images('where').source('test[:10]', '/data')


@pytest.mark.parametrize(
  'function, part',
  [
    ('none', 'gave NoneType for'),
    ('arrays_alone', 'gave dict for'),
    ('no_label', "gave the arrays 'image' uint8 [4, 6, 8, 1], but must give 'image' and 'label'"),
    ('more', "'mask' int64 [4], but must give"),
    ('floats', "'image' float64 [4, 6, 8, 1]"),
    ('flat', "'image' uint8 [4, 6, 8]"),
    ('too_few', "'label' int64 [3]"),
    ('empty', "'label' int64 [0]"),
    ('float_labels', "'label' float64 [4]"),
    ('label_3', 'expected labels from 0 to 2, found 3 at example 0'),
    ('one_text', "gave 'abc' as the names of the classes"),
    ('numbers', 'gave (0, 1, 2) as the names'),
  ],
)
def test_functions_that_do_not_give_images(function, part):
  with refuses(f'own_images:{function}', part):
    images(function).source('train', None)


def test_a_source_that_does_not_give_examples():
  with refuses('own_images:no_dicts', 'example 2 is', "not {'image': uint8, 'label': int}"):
    images('no_dicts').source('train', None)[2]


@pytest.mark.parametrize(
  'name, parts',
  [
    ('own_images:blops', ["'blops'", "did you mean 'blobs'"]),
    ('no_such_module:blobs', ["there is no module 'no_such_module'"]),
    ('own_images:CLASSES', ['is a tuple and cannot be called']),
    ('mnits', ["unknown data set 'mnits'; did you mean 'mnist'?", 'csv:PATH', 'unsw_nb15', 'module:function']),
    ('images:', ["unknown data set 'images:'"]),
  ],
)
def test_names_of_nothing(name, parts):
  with refuses(*parts):
    inputs.kind_of(name)


def test_a_table_that_is_not_annotated():
  assert inputs.kind_of('own_tables:unannotated') is inputs.Images
  with refuses('gave Table for', 'annotate it with `-> Table`'):
    sets.load('own_tables:unannotated', 'train', image=(1, 1, 1), classes=3)


# ---- tables


def rows(function, **changes):
  data = inputs.Rows(name=f'own_tables:{function}', **changes)
  return data.with_schema(data.fit(None))


@pytest.mark.parametrize('function', ['flowers', 'columns', 'frame'])
def test_tables_of_ones_own(function):
  assert inputs.kind_of(f'own_tables:{function}') is inputs.Rows
  data = rows(function, train='train[:80%]', scaling='standard')
  assert data.schema.columns == ('size', 'count', 'colour') and data.schema.classes == ('0', '1', '2')
  assert data.classes == 3 and data.schema.categories == {'colour': ('', 'blue', 'red')}
  source = data.source('train', None)
  assert len(source) == 60 and source.arrays['features'].shape == (60, 3)
  np.testing.assert_array_equal(source.arrays['label'], np.arange(60) % 3)
  where = 'flowers of train' if function == 'flowers' else f'own_tables:{function}, train'
  assert data.table('train', None).where == where
  assert source.notes == (f'own_tables:{function}, train: 1 cells of size: missing',)
  parts = [data.table(split, None).numbers.tolist() for split in ('train[:80%]', 'train[80%:]')]
  assert sorted(sum(parts, [])) == list(range(1, 61)) and len(parts[1]) == 12
  assert any("label 'label': '0'" in line for line in data.report(None))


def test_columns_of_a_table_of_ones_own():
  data = rows('flowers', drop=('size',), categorical=('count', 'colour'))
  assert data.schema.columns == ('count', 'colour') and set(data.schema.categories) == {'count', 'colour'}
  assert set(data.schema.categories['count']) <= set('012345678')
  for part, settings in (
    ("unknown column of data.drop 'sice'; did you mean 'size'?", {'drop': ('sice',)}),
    ("unknown column of data.categorical 'x'", {'categorical': ('x',)}),
    ("unknown column of flowers of train 'kind'", {'label': 'kind'}),
    ("column 'colour' holds text; name it among data.categorical", {'categorical': ()}),
    ('has 3 values in train', {'classes': 2}),
  ):
    with refuses(part):
      rows('flowers', **settings)


@pytest.mark.parametrize(
  'function, part',
  [
    ('none', 'gave NoneType for'),
    ('ragged', "gave the columns 'size' [3], 'label' [4]"),
    ('square', "gave the columns 'size' [3, 2], 'label' [3]"),
    ('infinite', "row 2, column 'size': inf is infinite"),
  ],
)
def test_functions_that_do_not_give_tables(function, part):
  with refuses(f'own_tables:{function}', part):
    rows(function)


# ---- what known data sets imply


@pytest.mark.parametrize('name', inputs.DEFAULTS)
def test_defaults_are_settings_of_their_kind(name):
  data = inputs.kind_of(name)(name=name, **inputs.defaults(name))
  assert data.name == name and data.resident_mib == 2048.0 and data.workers == 0
  inputs.defaults(name)['classes'] = 7
  assert inputs.defaults(name)['classes'] != 7


def test_defaults_that_can_be_read_here():
  digits = inputs.Images(name='digits', **inputs.defaults('digits'))
  sizes = [len(digits.source(split, None)) for split in (digits.train, digits.test)]
  assert sizes == [1438, 359] and digits.val == ''
  image = digits.source('train', None).arrays['image'] / 255
  assert [image.mean(), image.std()] == pytest.approx([*digits.mean, *digits.std], abs=1e-3)
  cancer = inputs.Rows(name='breast_cancer', **inputs.defaults('breast_cancer'))
  assert cancer.fit(None).classes == ('0', '1')
  assert inputs.defaults('csv:x.csv') == inputs.defaults('own_images:blobs') == inputs.defaults('image_folder:x') == {}
  assert inputs.defaults('images:x') == {'classes': 1, 'train': 'all'}


def test_both_kinds_answer_the_same_questions(tmp_path):
  data = [inputs.Images(name='digits', **inputs.defaults('digits')), rows('flowers')]
  images, table = data
  assert [d.inputs for d in data] == [('image',), ('features', 'categories')]
  assert images.for_task == {
    'classes': 10, 'inputs': ('image',), 'image': (8, 8, 1), 'mean': (0.305,), 'std': (0.376,)
  }  # fmt: skip
  assert table.for_task == {'classes': 3, 'inputs': ('features', 'categories')}
  assert images.schema is None and images.fit(None) is None and images.with_schema(None) is images
  assert images.report(None) == [] and table.without_crop() is table
  cropped = inputs.Images(name='images:x', image=(4, 4, 1), classes=1, mean=(0.0,), std=(1.0,), crop_from=6)
  assert cropped.batch(2).keys() == {'image', 'label', 'size'}
  assert cropped.without_crop().batch(2)['image'].shape == (2, 4, 4, 1)
  assert json.loads(json.dumps(table.schema.to_json()))['classes'] == ['0', '1', '2']


def test_rows_of_files_come_in_pieces(tmp_path, monkeypatch):
  monkeypatch.setattr('mixer_jax.data.tables.table.ROWS', 4)
  data = rows('flowers')
  path = tmp_path / 'new.csv'
  path.write_text('colour,count,size\n' + 'red,1,0.5\n' * 5 + 'pink,1,\n' * 5)
  size, pieces = data.pieces(data.find([str(path)]))
  pieces = list(pieces)
  assert size == 4 and [names for names, _, _ in pieces] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
  assert [counts for _, _, counts in pieces] == [
    {}, {'size: missing': 3, 'colour: unknown': 3}, {'size: missing': 2, 'colour: unknown': 2},
  ]  # fmt: skip
  whole = data.read([str(path)])
  np.testing.assert_array_equal(whole['features'], np.concatenate([arrays['features'] for _, arrays, _ in pieces]))
  with refuses('--input names 2 files, but rows come from one CSV file'):
    data.find([str(path), str(path)])
  path.write_text('colour,count,size\n')
  with refuses('has a header, but no rows'):
    list(data.pieces([str(path)])[1])


def test_images_of_files_come_in_pieces(tmp_path, monkeypatch):
  monkeypatch.setattr(inputs, 'AT_ONCE', 2)
  data = images('blobs')
  from PIL import Image

  for i in range(3):
    Image.fromarray(np.full((12, 16), 10 * i, np.uint8)).save(tmp_path / f'{i}.png')
  files = data.find([str(tmp_path), str(tmp_path / '1*.png')])
  assert [file[-5:] for file in files] == ['0.png', '1.png', '2.png', '1.png']
  size, pieces = data.pieces(files)
  pieces = list(pieces)
  assert size == 2 and sum((names for names, _, _ in pieces), []) == files
  assert [arrays['image'][:, 0, 0, 0].tolist() for _, arrays, _ in pieces] == [[0, 10], [20, 10]]
  assert data.notes_of(files) == ()
  assert images('blobs', image=(20, 20, 1)).notes_of(files)[0].startswith('--input: 3 smaller than 20x20 enlarged')
  with refuses('--input=nowhere: no such file'):
    data.find(['nowhere'])


def test_a_source_counts_its_examples():
  source = Source(('a',), None, lambda i: {'label': i}, 3)
  assert len(source) == 3 and [e['label'] for e in source] == [0, 1, 2] and source.notes == ()
