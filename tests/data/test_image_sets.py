"""Names to data sets: digits, MNIST and CIFAR-10 from small files, one clear error for each mistake."""

import gzip
import hashlib
import pathlib
import pickle
import sys
import threading

import numpy as np
import pytest
from image_sets import AT, REAL, RNG, digits, idx, real, refused, write_folder, write_mnist
from sklearn import datasets

from mixer_jax.data import examples, splits
from mixer_jax.data.images import decode, sets

pytestmark = pytest.mark.usefixtures('no_data')


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
