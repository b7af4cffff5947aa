"""Tiny ImageNet in its official layout, and what is wrong with a copy of it."""

import numpy as np
import pytest
from image_sets import folder, refused
from PIL import Image

from mixer_jax.data import held_out
from mixer_jax.data.images import report

pytestmark = pytest.mark.usefixtures('no_data')

WORDS = {'n01': 'crane', 'n02': 'goldfish, Carassius auratus', 'n03': 'crane'}
ANNOTATED = {'val_0.JPEG': 'n03', 'val_1.JPEG': 'n01', 'val_2.JPEG': 'n02', 'val_3.JPEG': 'n03'}


def save(path, level):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(path)


@pytest.fixture
def tiny(tmp_path):
  for k, name in enumerate(WORDS):
    for i in range(4):
      save(tmp_path / 'train' / name / 'images' / f'{name}_{i}.JPEG', 60 * k + 10 + 5 * i)
    (tmp_path / 'train' / name / f'{name}_boxes.txt').write_text('0\t0\t9\t9\n')
  for i, (file, name) in enumerate(ANNOTATED.items()):
    save(tmp_path / 'val' / 'images' / file, 60 * [*WORDS].index(name) + 30 + i)
    save(tmp_path / 'test' / 'images' / f'test_{i}.JPEG', 99)
  (tmp_path / 'val' / 'val_annotations.txt').write_text(
    ''.join(f'{file}\t{name}\t0\t0\t9\t9\n' for file, name in ANNOTATED.items())
  )
  (tmp_path / 'wnids.txt').write_text('n03\nn01\nn02\n')
  (tmp_path / 'words.txt').write_text('n00\tentity\n' + ''.join(f'{name}\t{text}\n' for name, text in WORDS.items()))
  return tmp_path


def test_the_official_layout(tiny):
  train, val = folder(tiny, classes=3, image=(8, 8, 3)), folder(tiny, 'val', classes=3, image=(8, 8, 3))
  assert train.classes == val.classes == ('crane (n01)', 'goldfish, Carassius auratus', 'crane (n03)')
  assert len(train) == 12 and len(val) == 4
  for source in (train, val):
    assert all(example['image'].mean() // 60 == example['label'] for example in source)
  assert len(train.notes) == 1 and '3 left out (3 .txt)' in train.notes[0]
  assert val.notes == ()
  data, examples = held_out.image_folder(tiny)
  assert data == {'name': f'image_folder:{tiny}', 'classes': 3, 'train': 'train', 'val': 'val'} and examples == 12
  (line,) = report.report(data['name'], {'train': 'train', 'val': 'val'}, None)
  assert line == f'warning: {tiny}/test is not used: it has no folders of classes'


def test_without_its_lists_the_folders_name_the_classes(tiny):
  (tiny / 'wnids.txt').unlink()
  assert folder(tiny, 'val', classes=3).classes == ('n01', 'n02', 'n03')


def spoilt(tiny, old, new):
  path = tiny / 'val' / 'val_annotations.txt'
  path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize('old, new, parts', [
  ('val_1.JPEG\t', 'val_9.JPEG\t', ['1 names', 'not listed', 'val_1.JPEG']),
  ('val_1.JPEG\tn01\t0\t0\t9\t9', 'val_1.JPEG n01', ['line 2', 'no tab']),
  ('val_1.JPEG', 'val_2.JPEG', ['val_2.JPEG', 'more than once']),
  ('val_1.JPEG\tn01', 'val_1.JPEG\tn09', ['n01', 'not of both']),
])  # fmt: skip
def test_a_list_that_does_not_fit(old, new, parts, tiny):
  spoilt(tiny, old, new)
  refused(*parts, tiny / 'val', name=f'image_folder:{tiny}', split='val', image=(8, 8, 3), classes=3)


def test_a_listed_image_or_class_that_is_gone(tiny):
  (tiny / 'val' / 'images' / 'val_0.JPEG').unlink()
  refused('listed, but not', 'val_0.JPEG', name=f'image_folder:{tiny}', split='val', image=(8, 8, 3), classes=3)
  (tiny / 'wnids.txt').write_text('n03\nn01\nn02\nn07\n')
  refused('wnids.txt', 'n07', name=f'image_folder:{tiny}', split='train', image=(8, 8, 3), classes=3)
