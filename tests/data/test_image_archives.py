"""IDX and CIFAR files: what they hold, one clear error for each way of damaging them, and no pickle of others."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from refusals import refuses

from mixer_jax.data.images import archives

RNG = np.random.default_rng(0)


# IDX


def idx(array, magic=None):
  magic = 0x800 + array.ndim if magic is None else magic
  return b''.join(n.to_bytes(4, 'big') for n in (magic, *array.shape)) + array.tobytes()


CUBE = RNG.integers(0, 256, (5, 3, 2), np.uint8)


@pytest.mark.parametrize('suffix, pack', [('', bytes), ('.gz', gzip.compress)])
def test_idx_round_trip(tmp_path, suffix, pack):
  path = tmp_path / f'a-ubyte{suffix}'
  path.write_bytes(pack(idx(CUBE)))
  np.testing.assert_array_equal(archives.read_idx(path, 3), CUBE)


@pytest.mark.parametrize(
  'content, parts',
  [
    (b'', ('16 bytes', 'found 0')),
    (idx(CUBE)[:10], ('16 bytes', 'found 10')),
    (idx(CUBE, magic=2049), ('2051', '2049')),
    (idx(CUBE)[:-1], ('30 bytes', 'found 29', '(5, 3, 2)')),
    (idx(CUBE) + b'x', ('30 bytes', 'found more')),
    (b'not found, not found', ('2051', 'magic')),
    (idx(CUBE[:0], magic=2051)[:4] + b'\xff' * 12, ('at most 1,073,741,824 bytes', '(4294967295, 4294967295')),
  ],
)
@pytest.mark.parametrize('suffix, pack', [('', bytes), ('.gz', gzip.compress)])
def test_damaged_idx_is_refused(tmp_path, content, parts, suffix, pack):
  path = tmp_path / f'a-ubyte{suffix}'
  path.write_bytes(pack(content))
  with refuses(path, *parts, 'download'):
    archives.read_idx(path, 3)


@pytest.mark.parametrize(
  'spoil',
  [lambda d: d[:-4], lambda d: d[:20], lambda d: d[:-8] + bytes(8), lambda d: b'x' + d, lambda d: d + b'x'],
)
def test_corrupt_gzip_is_refused(tmp_path, spoil):
  path = tmp_path / 'a-ubyte.gz'
  path.write_bytes(spoil(gzip.compress(idx(CUBE))))
  with refuses(path, 'download'):
    archives.read_idx(path, 3)


def test_counts_and_label_range_are_checked():
  images = np.zeros((3, 2, 2, 1), np.uint8)
  with refuses('here', '3 images', '2 labels'):
    archives.checked(images, np.zeros(2, np.uint8), 10, 'here')
  with refuses('here', 'from 0 to 9', 'found 10 at example 1'):
    archives.checked(images, np.array([0, 10, 11], np.uint8), 10, 'here')
  with refuses('here', '0 images'):
    archives.checked(images[:0], np.zeros(0, np.uint8), 10, 'here')


# CIFAR


def cifar_data(name, count=4):
  """Images [n, 32, 32, 3] and labels [n] for each file of either layout."""
  layout, classes = archives.CIFAR[name]['bin'], 10 if name == 'cifar10' else 100
  return {
    split: [
      (RNG.integers(0, 256, (count, 32, 32, 3), np.uint8), RNG.integers(0, classes, count)) for _ in layout[split]
    ]
    for split in ('train', 'test')
  }


def flat(images):
  return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def binary(name, images, labels):
  coarse = [] if name == 'cifar10' else [np.full((len(labels), 1), 7)]
  return np.concatenate([*coarse, labels[:, None], flat(images)], axis=1).astype(np.uint8).tobytes()


def pickled(name, images, labels):
  key = 'labels' if name == 'cifar10' else 'fine_labels'
  return pickle.dumps({'data': np.ascontiguousarray(flat(images)), key: labels.tolist()}, protocol=2)


def cifar_files(name, kind, data):
  pack = binary if kind == 'bin' else pickled
  layout = archives.CIFAR[name][kind]
  return {f: pack(name, *part) for s in ('train', 'test') for f, part in zip(layout[s], data[s], strict=True)}


@pytest.fixture
def publish(monkeypatch):
  """(name of the data set, files): from now on these are the published ones."""

  def publish(name, files):
    sums = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    monkeypatch.setitem(archives.CHECKSUMS, name, archives.CHECKSUMS[name] | sums)

  return publish


def write(root, files):
  root.mkdir(parents=True, exist_ok=True)
  for file, content in files.items():
    (root / file).write_bytes(content)


def write_archive(path, folder, files):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w:gz') as tar:
    for file, content in files.items():
      member = tarfile.TarInfo(f'{folder}/{file}')
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize('place', ['folder', 'root', 'archive'])
@pytest.mark.parametrize('kind', ['bin', 'py'])
@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_cifar_from_every_layout(tmp_path, publish, name, kind, place):
  data = cifar_data(name)
  files, layout = cifar_files(name, kind, data), archives.CIFAR[name][kind]
  if kind == 'py':
    publish(name, files)
  if place == 'archive':
    write_archive(tmp_path / layout['archive'], layout['folder'], files)
  else:
    write(tmp_path / (layout['folder'] if place == 'folder' else ''), files)
  for split in ('train', 'test'):
    arrays, classes = archives.read_cifar(name, split, tmp_path)
    np.testing.assert_array_equal(arrays['image'], np.concatenate([images for images, _ in data[split]]))
    np.testing.assert_array_equal(arrays['label'], np.concatenate([labels for _, labels in data[split]]))
    assert arrays['image'].dtype == np.uint8
    assert arrays['label'].dtype == np.int32
    assert classes == (archives.CIFAR10_CLASSES if name == 'cifar10' else tuple(map(str, range(100))))


def test_no_cifar_is_none(tmp_path):
  assert archives.read_cifar('cifar10', 'train', tmp_path / 'none') is None


@pytest.mark.parametrize('name, n', [('cifar10', 10), ('cifar100', 100)])
def test_cifar_class_names_of_the_files(tmp_path, publish, name, n):
  names = [f'class{k}' for k in range(n)]
  for kind in ('bin', 'py'):
    layout, root = archives.CIFAR[name][kind], tmp_path / kind
    text = ('\n'.join(names) + '\n\n').encode()
    content = text if kind == 'bin' else pickle.dumps({layout['names_key']: names}, protocol=2)
    files = cifar_files(name, kind, cifar_data(name, 1)) | {layout['names']: content}
    publish(name, files)
    write(root, files)
    assert archives.read_cifar(name, 'test', root)[1] == tuple(names)
  write(tmp_path / 'bin', {archives.CIFAR[name]['bin']['names']: b'one\ntwo\n'})
  with refuses(f'expected {n} class names', 'found 2'):
    archives.read_cifar(name, 'test', tmp_path / 'bin')


def test_a_missing_batch_is_named(tmp_path):
  files = cifar_files('cifar10', 'bin', cifar_data('cifar10', 1))
  del files['data_batch_3.bin']
  write(tmp_path, files)
  with refuses('5 files', 'found 4', 'data_batch_3.bin'):
    archives.read_cifar('cifar10', 'train', tmp_path)
  write_archive(tmp_path / 'a' / 'cifar-10-binary.tar.gz', 'cifar-10-batches-bin', {})
  with refuses('1 files', 'found 0', 'test_batch.bin'):
    archives.read_cifar('cifar10', 'test', tmp_path / 'a')


@pytest.mark.parametrize('spoil', [lambda d: d[:-1], lambda d: d + b'x', lambda d: b''])
def test_a_damaged_binary_batch_is_refused(tmp_path, spoil):
  good = cifar_files('cifar100', 'bin', cifar_data('cifar100'))['test.bin']
  write(tmp_path, {'test.bin': spoil(good)})
  with refuses('test.bin', '3074 bytes', f'found {len(spoil(good))}'):
    archives.read_cifar('cifar100', 'test', tmp_path)


def test_a_label_out_of_range_is_refused(tmp_path):
  write(tmp_path, {'test_batch.bin': bytes([10]) + bytes(3072)})
  with refuses('from 0 to 9', 'found 10'):
    archives.read_cifar('cifar10', 'test', tmp_path)


@pytest.mark.parametrize('spoil', [lambda d: d[: len(d) // 2], lambda d: b'no archive', lambda d: d[:-10] + bytes(10)])
def test_a_damaged_archive_is_refused(tmp_path, spoil):
  path = tmp_path / 'cifar-10-binary.tar.gz'
  write_archive(path, 'cifar-10-batches-bin', cifar_files('cifar10', 'bin', cifar_data('cifar10')))
  path.write_bytes(spoil(path.read_bytes()))
  with refuses(path, 'archive'):
    archives.read_cifar('cifar10', 'test', tmp_path)


# Pickles


def python2_pickle(images, labels):
  """The opcodes that Python 2's cPickle wrote for CIFAR: byte strings, and NumPy's old module names."""
  data = flat(images).tobytes()
  return (
    b'\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R'
    b'(K\x01K' + bytes([len(images)]) + b'M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R'
    b'(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T' + len(data).to_bytes(4, 'little') + data + b'tb'
    b'U\x06labels](' + b''.join(b'K' + bytes([k]) for k in labels) + b'eu.'
  )


def test_a_pickle_of_python_2_is_read(tmp_path, publish):
  images, labels = cifar_data('cifar10')['test'][0]
  files = {'test_batch': python2_pickle(images, labels)}
  publish('cifar10', files)
  write(tmp_path, files)
  arrays, _ = archives.read_cifar('cifar10', 'test', tmp_path)
  np.testing.assert_array_equal(arrays['image'], images)
  np.testing.assert_array_equal(arrays['label'], labels)


class Runs:
  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


def test_a_pickle_would_run_code(tmp_path):
  pickle.loads(pickle.dumps(Runs(os.mkdir, str(tmp_path / 'done'))))
  assert (tmp_path / 'done').exists()


@pytest.mark.parametrize('place', ['root', 'archive'])
@pytest.mark.parametrize('name, file', [('cifar10', 'test_batch'), ('cifar100', 'test')])
def test_a_pickle_that_is_not_the_published_one_is_not_opened(tmp_path, name, file, place):
  done, layout = tmp_path / 'done', archives.CIFAR[name]['py']
  files = {file: pickle.dumps({'data': Runs(os.mkdir, str(done))})}
  if place == 'archive':
    write_archive(tmp_path / layout['archive'], layout['folder'], files)
  else:
    write(tmp_path, files)
  found = hashlib.md5(files[file]).hexdigest()
  with refuses(f'/{file} is not', found, archives.CHECKSUMS[name][file], f'{name[:5]}-{name[5:]}-binary.tar.gz'):
    archives.read_cifar(name, 'test', tmp_path)
  assert not done.exists()


def test_names_of_classes_that_are_not_the_published_ones_are_not_opened(tmp_path, publish):
  files, done = cifar_files('cifar10', 'py', cifar_data('cifar10', 1)), tmp_path / 'done'
  publish('cifar10', files)
  write(tmp_path, files | {'batches.meta': pickle.dumps(Runs(os.mkdir, str(done)))})
  with refuses('batches.meta', 'binary.tar.gz'):
    archives.read_cifar('cifar10', 'test', tmp_path)
  assert not done.exists()


@pytest.mark.parametrize('spoil', [lambda d: d[:-1], lambda d: d + b'x', lambda d: b''])
def test_a_damaged_pickle_is_refused(tmp_path, publish, spoil):
  files = cifar_files('cifar10', 'py', cifar_data('cifar10', 1))
  publish('cifar10', files)
  write(tmp_path, {'test_batch': spoil(files['test_batch'])})
  with refuses('test_batch is not the published file'):
    archives.read_cifar('cifar10', 'test', tmp_path)


def test_every_pickle_that_is_read_has_a_published_checksum():
  for name, kinds in archives.CIFAR.items():
    layout = kinds['py']
    assert {*layout['train'], *layout['test'], layout['names']} == archives.CHECKSUMS[name].keys()
  sums = [value for of_set in archives.CHECKSUMS.values() for value in of_set.values()]
  assert len(set(sums)) == len(sums) and all(len(value) == 32 for value in sums)
