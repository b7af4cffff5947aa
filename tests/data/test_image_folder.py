"""Folders of images: what is read, what is left out and counted, what is refused."""

import numpy as np
import pytest
from image_sets import folder, refused, write_folder
from PIL import Image

from mixer_jax.data import examples
from mixer_jax.data.images import folder as folders

pytestmark = pytest.mark.usefixtures('no_data')


def test_image_folder(tmp_path):
  write_folder(tmp_path)
  write_folder(tmp_path, 'val', n=1)
  source = folder(tmp_path)
  assert source.classes == ('cat', 'dog')
  assert source.arrays is None
  values = [int(e['image'][0, 0, 0]) for e in source]
  assert sorted(values) == [0, 1, 2, 50, 51, 52]
  assert values != sorted(values)  # Folder by folder, a slice would lack whole classes.
  assert [int(e['label']) for e in source] == [v // 50 for v in values]
  assert source[0]['label'].dtype == np.int32
  assert len(folder(tmp_path, 'val')) == 2
  assert [int(e['image'][0, 0, 0]) for e in folder(tmp_path, 'train[2:-1]')] == values[2:-1]
  assert folder(tmp_path, image=(4, 4, 1))[0]['image'].shape == (4, 4, 1)
  assert source.notes == ()


def test_image_folder_in_memory(tmp_path):
  write_folder(tmp_path, n=70)
  source = folder(tmp_path)
  whole = examples.materialize(source)
  assert whole['image'].shape == (140, 6, 8, 3)
  np.testing.assert_array_equal(whole['image'], np.stack([e['image'] for e in source]))
  np.testing.assert_array_equal(whole['label'], [e['label'] for e in source])
  assert np.bincount(whole['label']).tolist() == [70, 70]


def test_every_suffix_in_any_case_and_at_any_depth(tmp_path):
  for k, suffix in enumerate([*folders.SUFFIXES, '.JPG', '.Jpeg', '.PNG']):
    path = tmp_path / 'train' / 'a' / f'deep{k}' / f'x{suffix}'
    path.parent.mkdir(parents=True)
    Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(path)
  source = folder(tmp_path, classes=1)
  assert len(source) == len(folders.SUFFIXES) + 3
  assert all(abs(int(e['image'].mean()) - 9) <= 1 for e in source)


def test_what_is_left_out_is_counted(tmp_path):
  write_folder(tmp_path)
  for path in (
    'train/cat/notes.txt',
    'train/cat/._0.png',
    'train/dog/x.npy',
    'train/README',
    'train/stray.png',
  ):
    (tmp_path / path).write_text('x')
  (tmp_path / 'train' / '.thumbnails').mkdir()
  (tmp_path / 'train' / 'dog' / '.hidden').mkdir()
  (tmp_path / 'train' / 'dog' / 'link').symlink_to(tmp_path)
  source = folder(tmp_path)
  (note,) = source.notes
  assert len(source) == 6
  assert f'{tmp_path / "train"}: 8 left out' in note
  assert '.thumbnails' in note


def test_relative_folders(tmp_path, monkeypatch):
  write_folder(tmp_path / 'root' / 'photos')
  write_folder(tmp_path / 'here' / 'photos', classes=('one',))
  (tmp_path / 'empty').mkdir()
  monkeypatch.chdir(tmp_path / 'empty')
  assert folder('photos', data_dir=str(tmp_path / 'root')).classes == ('cat', 'dog')
  monkeypatch.chdir(tmp_path / 'here')
  assert folder('photos', classes=1, data_dir=str(tmp_path / 'root')).classes == ('one',)


def folder_refused(*parts, root, split='train', classes=2):
  refused(*parts, name=f'image_folder:{root}', split=split, image=(6, 8, 3), classes=classes)


def test_no_such_folder(tmp_path):
  folder_refused('nowhere/at/all', tmp_path / 'cache', 'SPLIT/CLASS', root='nowhere/at/all')


def test_no_such_split_folder(tmp_path):
  write_folder(tmp_path)
  folder_refused("'test'", tmp_path, 'train', root=tmp_path, split='test')


def test_classes_that_differ_from_train_are_named(tmp_path):
  write_folder(tmp_path, classes=('cat', 'dog', 'emu'))
  write_folder(tmp_path, 'val', classes=('cat', 'dog', 'fox'))
  folder_refused("'val'", 'emu, fox', root=tmp_path, split='val', classes=3)


def test_a_split_without_train_stands_alone(tmp_path):
  write_folder(tmp_path, 'test')
  assert folder(tmp_path, 'test').classes == ('cat', 'dog')


def test_empty_folders_are_refused(tmp_path):
  (tmp_path / 'train').mkdir()
  folder_refused('no class folders', tmp_path / 'train', root=tmp_path)
  write_folder(tmp_path, 'val')
  (tmp_path / 'train').rmdir()
  (tmp_path / 'val' / 'emu').mkdir()
  (tmp_path / 'val' / 'emu' / 'a.txt').write_text('x')
  folder_refused(tmp_path / 'val' / 'emu', 'no images', '.jpg', root=tmp_path, split='val', classes=3)


def test_another_number_of_class_folders(tmp_path):
  write_folder(tmp_path)
  folder_refused('expects 5', 'have 2', root=tmp_path, classes=5)


def test_a_text_named_jpg_is_an_error_when_read(tmp_path):
  write_folder(tmp_path)
  bad = tmp_path / 'train' / 'dog' / 'text.jpg'
  bad.write_text('this is no image')
  source = folder(tmp_path)
  assert len(source) == 7
  refused(bad, call=lambda: [source[i] for i in range(7)])
  refused(bad, call=examples.materialize, source=source)
