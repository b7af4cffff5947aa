"""What is said of folders of images before training: unused folders, absent classes, copies."""

import shutil

import pytest
from image_sets import folder, refused, write_folder

from mixer_jax.data import inputs
from mixer_jax.data.images import copies

pytestmark = pytest.mark.usefixtures('no_data')
SHAPE = {'image': (6, 8, 3), 'classes': 2}


def lines(root, kind='image_folder', **splits):
  data = inputs.Images(name=f'{kind}:{root}', image=(6, 8, 3), classes=2, **splits)
  return data.report(None)


def test_nothing_to_say(tmp_path):
  write_folder(tmp_path, n=10)
  assert lines(tmp_path, train='train[:90%]', val='train[90%:]') == []
  assert inputs.Images(name='digits', image=(8, 8, 1), classes=10).report(None) == []


def test_unused_folders_are_named(tmp_path):
  write_folder(tmp_path, n=10)
  write_folder(tmp_path, 'dev', classes=('bird', 'bee'), n=4)
  write_folder(tmp_path, 'extra')
  for name in ('testing/images', '.cache', '__MACOSX'):
    (tmp_path / name).mkdir(parents=True)
  assert lines(tmp_path, val='') == [
    f'warning: {tmp_path}/dev is not used: no split of config.data names it',
    f'warning: {tmp_path}/extra is not used: no split of config.data names it',
    f'warning: {tmp_path}/testing is not used: it has no folders of classes',
  ]


def test_the_folder_of_another_name_is_used(tmp_path):
  write_folder(tmp_path, n=1)
  write_folder(tmp_path, 'validation', n=5)
  for image in (tmp_path / 'validation').rglob('0.png'):
    image.unlink()  # the only copies
  assert lines(tmp_path, val='val') == []


def test_classes_without_an_image_in_a_part(tmp_path):
  write_folder(tmp_path, n=30)
  for i in range(29):
    (tmp_path / 'train' / 'dog' / f'{i}.png').unlink()
  assert lines(tmp_path, train='train[:90%]', val='train[90%:]') == [
    'warning: val has no image of these classes: dog; add some'
  ]
  assert lines(tmp_path, train='train[50%:]')[0] == 'warning: train has no image of these classes: dog; add some'


def test_copies_are_counted(tmp_path):
  write_folder(tmp_path, n=8)
  train, val = tmp_path / 'train', tmp_path / 'val'
  shutil.copy(train / 'cat' / '0.png', train / 'cat' / 'again.png')
  shutil.copy(train / 'cat' / '1.png', train / 'dog' / 'a_cat.png')
  shutil.copytree(train, val)
  for path in val.rglob('[2-7].png'):
    path.write_bytes(path.read_bytes() + b'\n')
  copied, odd, seen = lines(tmp_path, val='val')
  assert copied.startswith('warning: 2 of the 18 files (11.1%) of train are copies of others, such as ')
  assert odd.startswith('warning: 1 of the 18 files (5.6%) of train are in two classes') and 'a_cat.png' in odd
  assert seen.startswith('warning: 6 of the 18 files (33.3%) of val are copies of files of train, such as ')


def test_copies_among_images_without_classes(tmp_path, monkeypatch):
  write_folder(tmp_path, n=4)
  shutil.copy(tmp_path / 'train' / 'dog' / '3.png', tmp_path / 'train' / 'cat' / '0.png')
  (line,) = lines(tmp_path / 'train', 'images', train='all[2:]', val='all[:2]')
  assert '1 of the 2 files (50.0%) of val are copies of files of train' in line
  monkeypatch.setattr(copies, 'MOST', 7)
  (line,) = lines(tmp_path / 'train', 'images', train='all[2:]', val='all[:2]')
  assert '8 files: too many' in line


def test_equal_files_are_never_in_two_parts(tmp_path):
  write_folder(tmp_path, n=20)
  for path in [*(tmp_path / 'train').rglob('*.png')]:
    for i in range(3):
      shutil.copy(path, path.with_stem(f'{path.stem}_{i}'))
  for edge in ('1', '33%', '77', '90%', '-30'):
    first, second = folder(tmp_path, f'train[:{edge}]'), folder(tmp_path, f'train[{edge}:]')
    assert len(first) % 4 == 0 and len(first) + len(second) == 160
    values = [{int(example['image'][0, 0, 0]) for example in part} for part in (first, second)]
    assert not values[0] & values[1]
  refused('empty', '160 files 40 differ', 'equal files', name=f'image_folder:{tmp_path}', split='train[-2:]', **SHAPE)
