""".npz: every dtype, order and version; objects, lies and damage are refused unread."""

import contextlib
import io
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from archive_files import FLOATS, FOUR, read, refused
from weight_files import npy, write_zip

from mixer_jax.errors import MixerError
from mixer_jax.weights import archives


@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize('order', 'CF')
@pytest.mark.parametrize('dtype', ['<f4', '>f4', '<f8', '>f8', '<f2', '>f2', '>i8', '|u1', '|b1'])
def test_npz_dtypes_orders_and_versions(tmp_path, dtype, order, version):
  rng, arrays = np.random.default_rng(1), {}
  for name, shape in (('a', (2, 3, 4)), ('b/c', (5,)), ('d', ()), ('e', (0, 3))):
    arrays[name] = np.asarray(rng.integers(0, 100, shape), dtype, order=order)
  members = {}
  for name, x in arrays.items():
    file = io.BytesIO()
    np.lib.format.write_array(file, x, (version, 0))
    members[f'{name}.npy'] = file.getvalue()
  found = read(write_zip(tmp_path / 'w.npz', members))
  assert list(found) == ['a', 'b/c', 'd', 'e']
  for name, x in arrays.items():
    np.testing.assert_array_equal(found[name], x)
    assert (
      found[name].shape == x.shape and found[name].dtype.isnative and found[name].dtype == x.dtype.newbyteorder('=')
    )


def test_npz_bfloat16(tmp_path):
  np.savez(tmp_path / 'w.npz', a=FLOATS.astype(ml_dtypes.bfloat16), b=FLOATS.astype(np.float16))
  opened = archives.read(tmp_path / 'w.npz').arrays
  assert {name: array.dtype for name, array in opened.items()} == {'a': 'bfloat16', 'b': 'float16'}
  assert opened['a'].read().astype(np.float32).tolist() == [1.5, -2, 0.25, 65536, 0, -0.0]


def test_npz_header_by_python_2(tmp_path):
  header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 2L), }"
  found = read(write_zip(tmp_path / 'w.npz', {'a.npy': npy(header=header, data=FOUR)}))
  assert found['a'].tolist() == [[1, 2], [3, 4]]


def test_npz_dtypes_that_are_no_numbers_are_named_and_not_read(tmp_path):
  np.savez(tmp_path / 'w.npz', a=np.array(['ab', 'c']), b=np.zeros(2, [('x', 'f4'), ('y', 'i8')]))
  opened = archives.read(tmp_path / 'w.npz').arrays
  assert opened['a'].dtype == 'str64' and opened['b'].dtype == 'void96'


def test_npz_objects(tmp_path, capfd):
  class Bad:
    def __reduce__(self):
      return print, ('it ran',)

  np.savez(tmp_path / 'w.npz', a=np.array([Bad()], object))
  capfd.readouterr()
  refused(tmp_path / 'w.npz', 'a.npy holds Python objects')
  assert capfd.readouterr().out == ''


@pytest.mark.parametrize(
  'member, part',
  [
    (npy(shape='(10000000000,)'), 'a.npy has 8 bytes for (10000000000,) float32'),
    (npy(shape='(3,)'), 'a.npy has 8 bytes for (3,) float32'),
    (npy(shape='(1,)'), 'a.npy has 8 bytes for (1,) float32'),
    (npy(shape='(-1, -2)'), 'shape (-1, -2)'),
    (npy(shape='(-2,)'), 'shape (-2,)'),
    (npy(shape='2'), 'shape is not valid'),
    (npy(shape='(2.0,)'), 'shape is not valid'),
    (npy(version=3), 'version (3, 0)'),
    (npy(version=9), 'version (9, 0)'),
    (npy(descr="'<f40'"), 'descr is not a valid dtype'),
    (npy(descr="'(2,'"), 'is damaged'),
    (npy(descr='[]'), 'is damaged'),
    (npy(descr='7'), 'is damaged'),
    (npy(header='{' * 150), 'is damaged'),
    (npy(header='('), 'is damaged'),
    (npy(header='-' * 9000 + '1'), 'a.npy'),
    (npy(header='1+' * 3000 + '1'), 'is damaged'),
    (npy(header="{'descr': '<f4'}"), 'correct keys'),
    (npy(header="__import__('os').system('true')"), 'is damaged'),
    (npy(header=' ' * 20_000), 'is large'),
    (npy()[:40], 'is damaged'),
    (b'', 'is damaged'),
    (b'README', 'is damaged'),
  ],
)
def test_npz_members_that_are_no_arrays(tmp_path, member, part):
  path = write_zip(tmp_path / 'w.npz', {'b.npy': npy(), 'a.npy': member})
  message = refused(path, part.replace('a.npy', '') if '-' * 9 in str(member) else part)
  assert 'allow_pickle' not in message


def test_npz_of_folders(tmp_path):
  refused(write_zip(tmp_path / 'w.npz', {'a/': b'', 'a/b.npy': npy()}), 'is damaged')
  assert list(read(write_zip(tmp_path / 'w.npz', {'a/b/c.npy': npy(), '../d.npy': npy()}))) == ['a/b/c', '../d']


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('second', ['a.npy', 'a'])
def test_npz_a_name_twice(tmp_path, second):
  with zipfile.ZipFile(tmp_path / 'w.npz', 'w') as archive:
    archive.writestr('a.npy', npy())
    archive.writestr(second, npy())
  refused(tmp_path / 'w.npz', 'twice')


@pytest.mark.parametrize(
  'local, central, value, part',
  [(6, 8, 1, 'encrypted'), (8, 10, 97, 'compression'), (8, 10, 12, 'compression')],
)
def test_npz_flags_of_the_zip(tmp_path, local, central, value, part):
  path = write_zip(tmp_path / 'w.npz', {'a.npy': npy()})
  data = bytearray(path.read_bytes())
  for start, offset in ((0, local), (data.index(b'PK\1\2'), central)):
    data[start + offset : start + offset + 2] = struct.pack('<H', value)
  path.write_bytes(data)
  refused(path, part)


@pytest.mark.parametrize('compression', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_of_compressions_that_numpy_does_not_write(tmp_path, compression):
  refused(write_zip(tmp_path / 'w.npz', {'a.npy': npy()}, compression), f'a compression of kind {compression}')


@contextlib.contextmanager
def little_memory():
  tracemalloc.start()
  yield
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2**22, peak


def test_npz_headers_that_claim_gigabytes(tmp_path):
  """NumPy would read as many bytes, and judge them then."""
  member = b'\x93NUMPY\2\0' + struct.pack('<I', 2**25 - 12) + b' ' * (2**25 - 12)
  path = write_zip(tmp_path / 'w.npz', {'a.npy': member}, zipfile.ZIP_STORED)
  with little_memory():
    refused(path, 'is damaged')


def test_npz_of_a_long_list_of_names(tmp_path):
  """zipfile would read all of it before the first name can be looked at."""
  path = tmp_path / 'w.npz'
  size = archives.MOST_HEADER + 1
  with path.open('wb') as file:
    file.truncate(size)
    file.seek(size)
    file.write(struct.pack('<4s4H2LH', b'PK\5\6', 0, 0, 3, 3, size, 0, 0))
  with little_memory():
    refused(path, 'a part of 16,777,217 bytes, above the limit of 16,777,216')


def test_npz_that_unpacks_to_far_more_than_it_is(tmp_path):
  member = npy(shape=f'({2**20},)', data=bytes(2**22))
  path = write_zip(tmp_path / 'w.npz', {'a.npy': member}, zipfile.ZIP_DEFLATED)
  refused(path, f'would unpack from {path.stat().st_size:,} to {len(member):,} bytes')


def test_npz_of_more_bytes_than_any_mixer(tmp_path, monkeypatch):
  monkeypatch.setattr(archives, 'MOST_BYTES', 400)
  np.savez(tmp_path / 'w.npz', a=np.zeros(100, np.float32))
  refused(tmp_path / 'w.npz', 'would unpack to 528 bytes, above the limit of 400')


def test_npz_whose_directory_lies_about_sizes(tmp_path):
  path = write_zip(tmp_path / 'w.npz', {'a.npy': npy(shape=f'({2**20},)', data=bytes(8))})
  data = bytearray(path.read_bytes())
  start = data.index(b'PK\1\2') + 24
  length = struct.unpack('<I', data[start : start + 4])[0] - 8 + 2**22
  data[start : start + 4] = struct.pack('<I', length)
  path.write_bytes(data + bytes(2**17))  # so that it is no bomb by its size
  refused(path)


def test_npz_changed_between_opening_and_reading(tmp_path):
  np.savez(tmp_path / 'w.npz', a=np.ones(4, np.float32))
  opened = archives.read(tmp_path / 'w.npz').arrays
  np.savez(tmp_path / 'w.npz', a=np.ones(3, np.float32))
  with pytest.raises(MixerError, match='is damaged'):
    opened['a'].read()
  (tmp_path / 'w.npz').unlink()
  with pytest.raises(MixerError, match='there is no file'):
    opened['a'].read()
