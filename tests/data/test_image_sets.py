"""Names to data sets: every loader on small files of its layout, splits, one clear error for each mistake."""

import gzip
import hashlib
import os
import pathlib
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

import mixer_jax
from mixer_jax import errors
from mixer_jax.data import examples, splits
from mixer_jax.data.images import decode, sets, tfds
from mixer_jax.data.images import folder as folders

RNG = np.random.default_rng(0)
REAL = os.environ.get('MIXER_DATA_DIR')


def real(path):
  """Marks a test that reads `path` of the real data in MIXER_DATA_DIR."""
  return pytest.mark.skipif(not (REAL and (pathlib.Path(REAL) / path).exists()), reason=f'no {path} in MIXER_DATA_DIR')


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
  """No data of this machine is found unless a test says where."""
  monkeypatch.delenv('MIXER_DATA_DIR', raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'no_tfds'))


def refused(*parts, call=sets.load, **kwargs):
  """Calls, and returns the one line of MixerError, which holds all `parts`."""
  with pytest.raises(errors.MixerError) as info:
    call(**kwargs)
  message = str(info.value)
  assert '\n' not in message
  for part in parts:
    assert str(part) in message, (part, message)
  return message


# Splits


@pytest.mark.parametrize(
  'split, expected',
  [
    ('train', range(0, 1000)),
    ('train[:]', range(0, 1000)),
    ('train[:90%]', range(0, 900)),
    ('train[10%:20%]', range(100, 200)),
    ('train[100:]', range(100, 1000)),
    ('train[-500:]', range(500, 1000)),
    ('train[-10%:]', range(900, 1000)),
    ('train[5:-5]', range(5, 995)),
    ('train[5:50%]', range(5, 500)),
    ('train[:1000]', range(0, 1000)),
    ('train[:100%]', range(0, 1000)),
  ],
)
def test_splits(split, expected):
  assert splits.parse_split(split, {'train': 1000, 'test': 10}) == ('train', expected)


@pytest.mark.parametrize('size', [7, 50, 150, 1797, 60000])
def test_percentages_partition(size):
  for percent in range(1, 100):
    first, second = f'train[:{percent}%]', f'train[{percent}%:]'
    try:
      a, b = (splits.parse_split(s, {'train': size})[1] for s in (first, second))
    except errors.MixerError as error:
      assert 'empty' in str(error)  # noqa: PT017 of 7 examples, 1% is none
      continue
    assert [*a, *b] == list(range(size))


def test_percentages_round_halves_to_even_as_tfds_does():
  ends = [splits.parse_split(f'a[:{p}%]', {'a': 50})[1].stop for p in (3, 5, 7)]
  assert ends == [2, 2, 4]  # 1.5, 2.5, 3.5


def test_tfds_takes_the_same_examples():
  library = pytest.importorskip('tensorflow_datasets')
  for size in (7, 50, 1797):
    for split in ('a[:33%]', 'a[33%:67%]', 'a[-25%:]', 'a[3:-2]', 'a[50%:]'):
      read = library.core.ReadInstruction.from_spec(split)
      info = library.core.SplitInfo(name='a', shard_lengths=[size], num_bytes=0, filename_template=None)
      (part,) = read.to_absolute({'a': info})
      ours = splits.parse_split(split, {'a': size})[1]
      assert (part.from_ or 0, part.to or size) == (ours.start, ours.stop)


@pytest.mark.parametrize(
  'split, parts',
  [
    ('train[:1001]', ('1001', '1000')),
    ('train[-1001:]', ('-1001', '1000')),
    ('train[:101%]', ('101%', '100%')),
    ('train[500:500]', ('empty', '500', '1000')),
    ('train[90%:10%]', ('empty', '900', '100')),
    ('train[1000:]', ('empty', '1000')),
    ('trian', ("unknown split 'trian'", "'train'", 'test')),
    ('train[', ("'train['", "'train[:90%]'")),
    ('train[a:b]', ("'train[a:b]'",)),
    ('train[5]', ("'train[5]'",)),
    ('train[0:10:2]', ("'train[0:10:2]'",)),
    ('train+test', ("'train+test'",)),
    ('train[:1.5%]', ("'train[:1.5%]'",)),
    ('', ("''",)),
  ],
)
def test_wrong_splits_are_refused(split, parts):
  refused(*parts, call=splits.parse_split, split=split, sizes={'train': 1000, 'test': 10})


# The data directory


def test_data_root(monkeypatch, tmp_path):
  assert splits.data_root() == tmp_path / 'cache' / 'mixer_jax'
  monkeypatch.delenv('XDG_CACHE_HOME')
  assert splits.data_root() == pathlib.Path.home() / '.cache' / 'mixer_jax'
  monkeypatch.setenv('MIXER_DATA_DIR', str(tmp_path / 'env'))
  assert splits.data_root() == tmp_path / 'env'
  assert splits.data_root(str(tmp_path / 'argument')) == tmp_path / 'argument'
  assert splits.data_root('~/data') == pathlib.Path.home() / 'data'


# Names, classes, sources


@pytest.mark.parametrize('name', ['mnits', 'image_folder', 'image_folder:', 'tfds:', ''])
def test_unknown_names_are_refused(name):
  parts = (f'unknown data set {name!r}', 'mnist', 'cifar100', 'image_folder:PATH', 'tfds:NAME')
  refused(*parts, name=name, split='train', image=(28, 28, 1), classes=10)


def digits(split='train', image=(8, 8, 1), classes=10):
  pytest.importorskip('sklearn')
  return sets.load('digits', split, image=image, classes=classes)


def test_digits():
  source = digits()
  assert len(source) == 1797
  assert source.classes == tuple('0123456789')
  assert source.arrays['image'].shape == (1797, 8, 8, 1)
  assert source.arrays['image'].dtype == np.uint8
  assert source.arrays['label'].dtype == np.int32
  assert source.arrays['image'].max() == 255
  # The data set's own first row is 0 0 5 13 9 1 0 0 of 16, a zero.
  first = [0, 0, 80, 207, 143, 16, 0, 0]
  found = [e for e in source if e['image'][0, :, 0].tolist() == first]
  assert [int(e['label']) for e in found] == [0]


def test_digits_are_shuffled_once_and_for_all():
  bundled = datasets.load_digits()
  rows = np.round(bundled.images * 255 / 16).astype(np.uint8).reshape(1797, -1)
  mine = digits().arrays['image'].reshape(1797, -1)
  assert (rows != mine).any(axis=1).sum() > 1700
  np.testing.assert_array_equal(rows[np.lexsort(rows.T)], mine[np.lexsort(mine.T)])
  np.testing.assert_array_equal(mine, digits().arrays['image'].reshape(1797, -1))
  heldout = digits('train[80%:]').arrays['label']
  assert np.bincount(heldout).min() > 20  # of every class some


def test_examples_and_indices():
  source = digits()
  example = source[np.int64(5)]
  assert set(example) == {'image', 'label'}
  np.testing.assert_array_equal(example['image'], source.arrays['image'][5])
  assert example['label'] == source.arrays['label'][5]
  assert example['label'].dtype == np.int32
  assert example['label'].shape == ()
  for index in (-1, 1797):
    with pytest.raises(IndexError, match='1797'):
      source[index]
  with pytest.raises(TypeError):
    source[0.5]
  assert sum(1 for _ in source) == 1797


def test_splits_of_arrays_are_views():
  source = digits('train[1000:1100]')
  assert len(source) == 100
  assert source.arrays['image'].base is not None
  np.testing.assert_array_equal(source[3]['image'], digits()[1003]['image'])
  assert source.arrays['label'][3] == digits()[1003]['label']


def test_splits_partition_the_arrays():
  parts = [digits(s).arrays['image'] for s in ('train[:80%]', 'train[80%:]')]
  np.testing.assert_array_equal(np.concatenate(parts), digits().arrays['image'])


def test_another_shape_is_resized_when_read():
  source = digits('train[10:200]', image=(16, 12, 3))
  assert source.arrays is None
  assert source[0]['image'].shape == (16, 12, 3)
  expected = decode.fit_image(digits()[13]['image'], (16, 12, 3))
  np.testing.assert_array_equal(source[3]['image'], expected)
  whole = examples.materialize(source, threads=3)
  np.testing.assert_array_equal(whole['image'][3], expected)
  np.testing.assert_array_equal(whole['label'], digits('train[10:200]').arrays['label'])


def test_materialize_hands_out_the_arrays():
  source = digits()
  assert examples.materialize(source) is source.arrays


def test_materialize_uses_its_threads():
  names = set()
  barrier = threading.Barrier(2, timeout=5)

  def read(index):
    if index in (0, 64) and threading.current_thread() is not threading.main_thread():
      barrier.wait()  # passes only if two threads read at once
    names.add(threading.current_thread().name)
    return {'image': np.full((1, 1, 1), index % 256, np.uint8), 'label': np.int32(index)}

  whole = examples.materialize(examples.Source(('a',), None, read, 128), threads=2)
  np.testing.assert_array_equal(whole['label'], np.arange(128))
  assert whole['label'].dtype == np.int32


def test_another_number_of_classes_is_refused():
  pytest.importorskip('sklearn')
  refused('digits', 'expects 7', 'have 10', name='digits', split='train', image=(8, 8, 1), classes=7)


def test_digits_have_one_split():
  refused("unknown split 'test'", 'train', name='digits', split='test', image=(8, 8, 1), classes=10)


def test_digits_without_scikit_learn(monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  refused('pip install scikit-learn', name='digits', split='train', image=(8, 8, 1), classes=10)


def test_sources_can_be_pickled_for_workers(tmp_path):
  write_folder(tmp_path / 'photos')
  for source in (
    digits('train[5:50]', image=(4, 4, 3)),
    sets.load(f'image_folder:{tmp_path / "photos"}', 'train[1:]', image=(4, 4, 3), classes=2),
  ):
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[2]['image'], source[2]['image'])


# MNIST and Fashion-MNIST


def idx(array):
  header = (0x800 + array.ndim, *array.shape)
  return b''.join(n.to_bytes(4, 'big') for n in header) + array.tobytes()


def write_mnist(root, name='mnist', suffix='', n=12):
  data = {}
  (root / name).mkdir(parents=True, exist_ok=True)
  for split, prefix in (('train', 'train'), ('test', 't10k')):
    images = RNG.integers(0, 256, (n, 28, 28), np.uint8)
    labels = RNG.integers(0, 10, n).astype(np.uint8)
    data[split] = images[..., None], labels
    for file, array in (('images-idx3', images), ('labels-idx1', labels)):
      content = idx(array)
      path = root / name / f'{prefix}-{file}-ubyte{suffix}'
      path.write_bytes(gzip.compress(content) if suffix else content)
  return data


@pytest.mark.parametrize('suffix', ['', '.gz'])
@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist'])
def test_mnist(tmp_path, monkeypatch, name, suffix):
  data = write_mnist(tmp_path, name, suffix)
  monkeypatch.setenv('MIXER_DATA_DIR', str(tmp_path))
  for split in ('train', 'test'):
    source = sets.load(name, split, image=(28, 28, 1), classes=10)
    np.testing.assert_array_equal(source.arrays['image'], data[split][0])
    np.testing.assert_array_equal(source.arrays['label'], data[split][1])
    assert source.arrays['label'].dtype == np.int32
  assert source.classes[9] == {'mnist': '9', 'fashion_mnist': 'Ankle boot'}[name]


def test_fewer_labels_than_images(tmp_path):
  write_mnist(tmp_path)
  (tmp_path / 'mnist' / 'train-labels-idx1-ubyte').write_bytes(idx(np.zeros(11, np.uint8)))
  refused('12 images', '11 labels', name='mnist', split='train', **AT(tmp_path))


def AT(root):
  return {'image': (28, 28, 1), 'classes': 10, 'data_dir': str(root)}


def test_a_label_that_is_no_digit(tmp_path):
  write_mnist(tmp_path)
  (tmp_path / 'mnist' / 'train-labels-idx1-ubyte').write_bytes(idx(np.full(12, 200, np.uint8)))
  refused('from 0 to 9', 'found 200', 'train-labels', name='mnist', split='train', **AT(tmp_path))


def test_images_without_labels(tmp_path):
  write_mnist(tmp_path)
  (tmp_path / 'mnist' / 't10k-labels-idx1-ubyte').unlink()
  message = refused('t10k-images-idx3-ubyte', name='mnist', split='test', **AT(tmp_path))
  assert 'neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte.gz' in message


@pytest.mark.parametrize(
  'name, file',
  [
    ('mnist', 'train-images-idx3-ubyte'),
    ('fashion_mnist', 'train-images-idx3-ubyte'),
    ('cifar10', 'cifar-10-batches-bin'),
    ('cifar100', 'cifar-100-python'),
  ],
)
def test_missing_files_say_where_and_what_to_do(tmp_path, name, file):
  parts = (name, file, tmp_path / name, '--data_dir', 'MIXER_DATA_DIR', 'download_and_prepare()')
  classes = 100 if name == 'cifar100' else 10
  refused(*parts, name=name, split='train', image=(28, 28, 1), classes=classes, data_dir=str(tmp_path))


def test_missing_files_without_tfds(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  refused('MIXER_DATA_DIR', name='mnist', split='train', **AT(tmp_path))


def test_no_such_split_of_a_downloaded_data_set(tmp_path):
  refused("'valid'", 'test, train', name='mnist', split='valid', **AT(tmp_path))


@real('mnist/train-images-idx3-ubyte.gz')
def test_real_mnist():
  path = pathlib.Path(REAL) / 'mnist' / 'train-images-idx3-ubyte.gz'
  assert hashlib.md5(gzip.decompress(path.read_bytes())).hexdigest() == '6bbc9ace898e44ae57da46a324031adb'
  train = sets.load('mnist', 'train', **AT(REAL))
  test = sets.load('mnist', 'test', **AT(REAL))
  assert (len(train), len(test)) == (60000, 10000)
  assert hashlib.md5(idx(train.arrays['image'][..., 0])).hexdigest() == '6bbc9ace898e44ae57da46a324031adb'
  counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
  np.testing.assert_array_equal(np.bincount(train.arrays['label']), counts)


# CIFAR; its layouts are tested with the formats


def test_cifar10(tmp_path):
  images, labels = RNG.integers(0, 256, (3, 32, 32, 3), np.uint8), np.array([[9], [0], [5]], np.uint8)
  records = np.concatenate([labels, images.transpose(0, 3, 1, 2).reshape(3, 3072)], axis=1)
  folder = tmp_path / 'cifar10' / 'cifar-10-batches-bin'
  folder.mkdir(parents=True)
  (folder / 'test_batch.bin').write_bytes(records.tobytes())
  source = sets.load('cifar10', 'test', image=(32, 32, 3), classes=10, data_dir=str(tmp_path))
  np.testing.assert_array_equal(source.arrays['image'], images)
  np.testing.assert_array_equal(source.arrays['label'], [9, 0, 5])
  assert source.classes[9] == 'truck'


@real('cifar10')
def test_real_cifar10():
  train = sets.load('cifar10', 'train', image=(32, 32, 3), classes=10, data_dir=REAL)
  np.testing.assert_array_equal(np.bincount(train.arrays['label']), [5000] * 10)


# Image folders


def write_folder(root, split='train', classes=('cat', 'dog'), n=3, suffix='png'):
  for k, name in enumerate(classes):
    (root / split / name).mkdir(parents=True)
    for i in range(n):
      pixels = np.full((6, 8, 3), 50 * k + i, np.uint8)
      Image.fromarray(pixels).save(root / split / name / f'{i}.{suffix}')


def folder(root, split='train', classes=2, image=(6, 8, 3), **kwargs):
  return sets.load(f'image_folder:{root}', split, image=image, classes=classes, **kwargs)


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


# TFDS

BUILDER = """
import io
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class Builder(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {FEATURES}
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(10, 0), 'test': self._generate_examples(4, 100)}

  def _generate_examples(self, n, start):
    for k in range(n):
      png = io.BytesIO()
      Image.fromarray(np.full((5, 6, 3), 10 * k + start, np.uint8)).save(png, 'PNG')
      png.seek(0)
      yield k, {EXAMPLE}
"""
IMAGE = "'image': tfds.features.Image(shape=(None, None, 3))"
VARIANTS = {  # name of the data set: its features, an example
  'tiny_labelled': (
    "{%s, 'label': tfds.features.ClassLabel(names=['even', 'odd'])}" % IMAGE,  # noqa: UP031 braces
    "{'image': png, 'label': k % 2}",
  ),
  'tiny_unlabelled': ('{%s}' % IMAGE, "{'image': png}"),  # noqa: UP031
  'tiny_numbers': ("{%s, 'label': np.float32}" % IMAGE, "{'image': png, 'label': 0.5}"),  # noqa: UP031
  'tiny_partly': (
    "{%s, 'label': tfds.features.ClassLabel(names=['even', 'odd'])}" % IMAGE,  # noqa: UP031
    "{'image': png, 'label': -1}",
  ),
}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A data directory with the data sets of VARIANTS, prepared as ArrayRecord and without TensorFlow."""
  pytest.importorskip('tensorflow_datasets')
  pytest.importorskip('array_record')
  root, code = tmp_path_factory.mktemp('tfds'), tmp_path_factory.mktemp('builders')
  lines = []
  for name, (features, example) in VARIANTS.items():
    (code / name).mkdir()
    (code / name / '__init__.py').write_text('')
    builder = BUILDER.replace('{FEATURES}', features).replace('{EXAMPLE}', example)
    (code / name / f'{name}_dataset_builder.py').write_text(builder)
    lines.append(f'from {name} import {name}_dataset_builder as module')
    lines.append(f"module.Builder(data_dir={str(root)!r}, file_format='array_record').download_and_prepare()")
  subprocess.run([sys.executable, '-c', '\n'.join(lines)], cwd=code, check=True, capture_output=True, timeout=60)
  return root


def test_tfds(prepared):
  source = sets.load('tfds:tiny_labelled', 'train', image=(5, 6, 3), classes=2, data_dir=str(prepared))
  assert source.classes == ('even', 'odd')
  assert source.arrays is None
  assert len(source) == 10
  values = [int(e['image'][0, 0, 0]) for e in source]
  assert sorted(values) == list(range(0, 100, 10))  # TFDS shuffles when it prepares
  assert [int(e['label']) for e in source] == [v // 10 % 2 for v in values]
  assert source[0]['image'].dtype == np.uint8
  assert source[0]['label'].dtype == np.int32


def test_tfds_splits_and_shapes(prepared, monkeypatch):
  monkeypatch.setenv('MIXER_DATA_DIR', str(prepared))
  whole = sets.load('tfds:tiny_labelled:1.0.0', 'train', image=(4, 4, 1), classes=2)
  part = sets.load('tfds:tiny_labelled', 'train[30%:-2]', image=(4, 4, 1), classes=2)
  assert len(part) == 5
  assert part[0]['image'].shape == (4, 4, 1)
  np.testing.assert_array_equal(examples.materialize(part)['image'], examples.materialize(whole)['image'][3:8])


def test_tfds_in_its_own_default_directory(prepared):
  # TFDS reads its environment once, when it is imported.
  code = "s = sets.load('tfds:tiny_labelled', 'test', image=(5, 6, 3), classes=2); assert len(s) == 4"
  run_alone(code, TFDS_DATA_DIR=str(prepared))


def test_tensorflow_is_never_imported(prepared):
  run_alone(
    "s = sets.load('tfds:tiny_labelled', 'train', image=(5, 6, 3), classes=2)\n"
    'examples.materialize(s)\n'
    "assert 'tensorflow_datasets' in sys.modules and 'tensorflow' not in sys.modules",
    MIXER_DATA_DIR=str(prepared),
  )


def run_alone(code, **environment):
  path = str(pathlib.Path(mixer_jax.__file__).parents[1])
  imports = 'from mixer_jax.data import examples\nfrom mixer_jax.data.images import sets'
  done = subprocess.run(
    [sys.executable, '-c', f'import sys\n{imports}\n{code}'],
    env=os.environ | {'PYTHONPATH': path} | environment,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 0, done.stderr


def test_optional_packages_are_imported_only_when_asked_for():
  run_alone("assert not {'tensorflow', 'tensorflow_datasets', 'sklearn'} & set(sys.modules)")


def tfds_refused(*parts, name, data_dir, split='train', classes=2):
  refused(*parts, name=f'tfds:{name}', split=split, image=(5, 6, 3), classes=classes, data_dir=str(data_dir))


def test_tfds_mistakes(prepared, tmp_path):
  tfds_refused("'valid'", 'test, train', name='tiny_labelled', split='valid', data_dir=prepared)
  tfds_refused('expects 3', 'have 2', name='tiny_labelled', classes=3, data_dir=prepared)
  tfds_refused('no feature label', 'it has image', name='tiny_unlabelled', data_dir=prepared)
  tfds_refused('class labels', 'float32', name='tiny_numbers', data_dir=prepared)
  tfds_refused('no_such_data', 'not found', 'catalog', name='no_such_data', data_dir=prepared)
  tfds_refused('mnist[:5]', name='mnist[:5]', data_dir=prepared)
  parts = (
    'not prepared',
    tmp_path,
    "pip install 'mixer-jax[tfds]'",
    "tfds.builder('mnist', ",
    'array_record',
  )
  tfds_refused(*parts, name='mnist', classes=10, data_dir=tmp_path)


def test_tfds_without_labels_in_a_split(prepared):
  source = sets.load('tfds:tiny_partly', 'train', image=(5, 6, 3), classes=2, data_dir=str(prepared))
  refused('from 0 to 1', 'found -1', call=source.__getitem__, index=0)


def test_tfds_that_is_not_installed(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  tfds_refused("pip install 'mixer-jax[tfds]'", name='mnist', data_dir=tmp_path)


class FakeBuilder:
  """What TFDS would give for MNIST, prepared as TFRecord or, if `data` is given, with random access."""

  def __init__(self, data=None):
    library = pytest.importorskip('tensorflow_datasets')
    features = {
      'image': library.features.Image(shape=(28, 28, 1)),
      'label': library.features.ClassLabel(num_classes=10),
    }
    self.info = type('Info', (), {'features': features, 'splits': {'train': None, 'test': None}})
    self.info.file_format = library.core.FileFormat.TFRECORD
    self.data, self.data_path = data, '/data/mnist/3.0.1'

  def as_data_source(self, split):
    if self.data is None:
      raise NotImplementedError('no random access')
    return self.data


def test_tfds_prepared_without_random_access(tmp_path, monkeypatch):
  monkeypatch.setattr(tfds, 'prepared', lambda name, data_dir: FakeBuilder())
  parts = ('/data/mnist/3.0.1', 'tfrecord', 'array_record', 'remove')
  tfds_refused(*parts, name='mnist', classes=10, data_dir=tmp_path)


def test_mnist_prepared_by_tfds_is_used_where_there_are_no_files(tmp_path, monkeypatch):
  data = [{'image': np.full((28, 28, 1), k, np.uint8), 'label': np.int64(k % 10)} for k in range(70)]
  monkeypatch.setattr(tfds, 'prepared', lambda name, data_dir: FakeBuilder(data))
  source = sets.load('mnist', 'train', **AT(tmp_path))
  np.testing.assert_array_equal(source.arrays['image'][:, 0, 0, 0], np.arange(70))
  np.testing.assert_array_equal(source.arrays['label'], np.arange(70) % 10)
  assert len(sets.load('mnist', 'train[:10]', **AT(tmp_path)).arrays['image']) == 10
  write_mnist(tmp_path)
  assert len(sets.load('mnist', 'train', **AT(tmp_path))) == 12
