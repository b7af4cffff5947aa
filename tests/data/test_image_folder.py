"""Folders of images: what is read, what is left out and counted, what is refused."""

import numpy as np
import pytest
from image_sets import folder, refused, write_folder
from PIL import Image

from mixer_jax.data import examples, inputs
from mixer_jax.data.images import decode
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
  readable = [suffix for suffix, kind in decode.SUFFIXES.items() if kind in decode.formats()]
  for k, suffix in enumerate([*readable, '.JPG', '.Jpeg', '.PNG']):
    path = tmp_path / 'train' / 'a' / f'deep{k}' / f'x{suffix}'
    path.parent.mkdir(parents=True)
    Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(path, decode.SUFFIXES[suffix.lower()])
  source = folder(tmp_path, classes=1)
  assert len(source) == len(readable) + 3
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
  assert f'{tmp_path / "train"}: 8 left out (2 .png, 1 ' in note
  assert '1 .txt' in note and '1 .npy' in note and '.thumbnails' in note


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
  refused(bad, 'JPEG, PNG', call=folder, root=tmp_path)


def test_damaged_files_are_listed_all_at_once(tmp_path):
  write_folder(tmp_path, n=40, suffix='jpg')
  source = folder(tmp_path)
  examples.check_readable([source])
  bad = sorted((tmp_path / 'train' / 'dog').iterdir())[:25]
  for path in bad:
    path.write_bytes(path.read_bytes()[:-120])  # the header is whole
  message = refused('25 of 80 examples', call=examples.check_readable, sources=[source])
  assert [path.name for path in bad if str(path) in message] == [path.name for path in bad[:20]]


def test_images_that_pillow_cannot_read_are_named(tmp_path, monkeypatch):
  write_folder(tmp_path)
  for path in ('cat/IMG_1.HEIC', 'dog/IMG_2.heif', 'dog/._IMG_2.heif', 'dog/x.txt'):
    (tmp_path / 'train' / path).write_bytes(b'x')
  others, warning = folder(tmp_path).notes
  assert '2 left out (1 .heif, 1 .txt)' in others or '2 left out (1 .txt, 1 .heif)' in others
  assert warning.startswith('warning: ') and '2 left out that Pillow' in warning and 'convert them' in warning
  for image in (tmp_path / 'train' / 'cat').glob('*.png'):
    image.unlink()
  folder_refused(tmp_path / 'train' / 'cat', 'no images', '1 left out that Pillow', 'IMG_1.HEIC', root=tmp_path)
  monkeypatch.setattr(decode.features, 'check', lambda library: library != 'zlib')  # a Pillow built without it
  folder_refused('cat: no images', '.jpg', root=tmp_path)
  assert 'PNG' not in decode.formats()


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
  write_folder(tmp_path)
  (tmp_path / 'train' / 'cat' / 'locked').mkdir()
  scan = folders.os.scandir

  def locked(path):
    if str(path).endswith('locked'):
      raise PermissionError(13, 'Permission denied', str(path))
    return scan(path)

  monkeypatch.setattr(folders.os, 'scandir', locked)
  folder_refused(tmp_path / 'train' / 'cat' / 'locked', 'Permission denied', root=tmp_path)


@pytest.fixture
def images():
  return inputs.Images(name='digits', image=(6, 8, 3), classes=10)


def test_the_same_files_are_found_for_predictions_as_for_training(tmp_path, images, capsys):
  write_folder(tmp_path)
  for path in ('cat/._0.png', 'dog/notes.txt', 'dog/.cache/1.png', '__MACOSX/2.png', 'cat/@eaDir/3.png', 'cat/4.heic'):
    (tmp_path / 'train' / path).parent.mkdir(exist_ok=True)
    (tmp_path / 'train' / path).write_bytes(b'x')
  trained = folders.read_image_folder(str(tmp_path), 'train', None)
  assert images.find([str(tmp_path / 'train')]) == sorted(trained.paths)
  shown = capsys.readouterr().out
  assert f'{tmp_path}/train: 5 left out' in shown and '1 left out that Pillow' in shown
  assert images.find([f'{tmp_path}/t*']) == sorted(trained.paths)  # a pattern of folders
  mixed = [f'{tmp_path}/train/dog/1.png', f'{tmp_path}/train/cat/[01].png', f'{tmp_path}/train/dog']
  assert [path[-9:] for path in images.find(mixed)] == [
    f'{name}.png' for name in ('dog/1', 'cat/0', 'cat/1', 'dog/0', 'dog/1', 'dog/2')
  ]


def test_inputs_without_images_are_refused(tmp_path, images):
  (tmp_path / '.hidden.png').write_bytes(b'x')
  refused(tmp_path, 'no images', call=images.find, inputs=[str(tmp_path)])
  refused(f'--input={tmp_path}/no*', 'no such file', call=images.find, inputs=[f'{tmp_path}/no*'])


def save_deep(root, name, values, count=3):
  (root / 'train' / name).mkdir(parents=True)
  for i in range(count):
    Image.fromarray(np.full((6, 8), values[0], np.uint16) + np.uint16(i)).save(root / 'train' / name / f'{i}.png')
    Image.fromarray(np.full((6, 8), values[1], np.uint16)).save(root / 'train' / name / f'top{i}.png')


def test_files_of_fewer_than_16_bits(tmp_path):
  save_deep(tmp_path, 'scan', (7, 4095))
  grey = {'image': (6, 8, 1), 'classes': 1}
  source = folder(tmp_path, **grey)
  scaled, warning = source.notes
  assert '6 with 16 bits a channel scaled to 8 (data.bits is 16)' in scaled
  assert (
    warning.startswith('warning: ')
    and '6 files of 16 bits need 12 bits' in warning
    and '16 times too dark; set data.bits' in warning
  )
  assert max(example['image'].max() for example in source) == 16
  source = folder(tmp_path, bits=12, **grey)
  assert len(source.notes) == 1 and '(data.bits is 12)' in source.notes[0]
  assert {int(e['image'][0, 0, 0]) for e in source} == {0, 1, 255}  # 7, 8, 9 of 4,095 and 4,095
  refused(
    tmp_path, '4,095', '11 bits of data.bits', call=examples.materialize, source=folder(tmp_path, bits=11, **grey)
  )


def test_colour_of_16_bits_has_another_cure(tmp_path, monkeypatch):
  # Pillow cannot write such files.
  save_deep(tmp_path, 'scan', (7, 4095))
  monkeypatch.setattr(decode, 'read_header', lambda _: decode.Header((6, 8), 3, False, True))
  monkeypatch.setattr(decode, 'bits_used', lambda _: 12)
  *_, warning = folder(tmp_path, image=(6, 8, 3), classes=1).notes
  assert 'too dark; 6 of them are in colour' in warning and 'scale them to 8 bits first' in warning
  assert 'set data.bits' not in warning


def test_bits_need_files():
  refused('data.bits is 12', 'digits', name='digits', split='train', image=(8, 8, 1), classes=10, bits=12)


def test_a_large_folder_is_looked_at_in_samples(tmp_path, monkeypatch):
  write_folder(tmp_path, n=20)
  monkeypatch.setattr(folders, 'LOOKED_AT', 10)
  (note,) = folder(tmp_path, image=(6, 8, 1)).notes
  assert f'image_folder:{tmp_path}, train, 10 of 40 files looked at: 10 turned from grey to colour' in note
