"""Files of arrays from strangers: what is in them to the bit, and one line for whatever else they are."""

import hashlib
import io
import pickle
import re
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import weight_files as files
from weight_files import npy, pickled, state, tensor, write_pth, write_zip

from mixer_jax.errors import MixerError
from mixer_jax.weights import archives

FLOATS = np.array([1.5, -2, 0.25, 65504, 0, -0.0], np.float32)
FOUR = struct.pack('<4f', 1, 2, 3, 4)


def read(path):
  """All arrays of a file."""
  return {name: array.read() for name, array in archives.read(path).arrays.items()}


def refused(path, *parts):
  """The message of a file that is refused, be it when opened or when read."""
  with pytest.raises(MixerError) as caught:
    read(path)
  message = str(caught.value)
  assert str(path) in message and '\n' not in message and len(message) < 2000, message
  assert re.search(r'get (it again|another|a file)|choose|look at|convert it|save ', message), message
  for part in parts:
    assert part in message, message
  return message


# ---- any kind


def test_an_end_in_capitals(tmp_path):
  np.savez(tmp_path / 'w.npz', a=FLOATS)
  (tmp_path / 'w.npz').rename(tmp_path / 'W.NPZ')
  np.testing.assert_array_equal(read(tmp_path / 'W.NPZ')['a'], FLOATS)


@pytest.mark.parametrize('name', ['w.npy', 'w', 'w.npz.part', '.npz'])
def test_another_end(tmp_path, name):
  (tmp_path / name).write_bytes(b'x')
  with pytest.raises(MixerError, match=r'by the end of the name, .* Known: \.bin, \.npz, \.pt, \.pth, \.safetensors'):
    archives.read(tmp_path / name)


@pytest.mark.parametrize('end', archives.READERS)
def test_what_is_no_file_of_weights(tmp_path, end, monkeypatch):
  path = tmp_path / f'w{end}'
  refused(path, 'there is no file')
  path.mkdir()
  refused(path, 'cannot be read (Is a directory)')
  path.rmdir()
  path.write_bytes(b'')
  refused(path, 'is empty')
  for text in (b'<!DOCTYPE html><html>404', b'version https://git-lfs.github.com/spec/v1\n', b'\0' * 5000, b'PK\3\4'):
    path.write_bytes(text)
    refused(path, 'is damaged, or not the kind that its name says')

  def not_allowed(*_, **__):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(Path, 'open', not_allowed)
  refused(path, 'cannot be read (Permission denied)')
  with pytest.raises(MixerError, match='Permission denied'):
    archives.checksum(path)


@pytest.mark.parametrize('end', ['.npz', '.safetensors'])
def test_a_pickle_in_disguise(tmp_path, end, capfd):
  path = tmp_path / f'w{end}'
  path.write_bytes(b'cos\nsystem\n' + pickled('echo it ran') + b'\x85R.')
  refused(path, 'is damaged')
  assert capfd.readouterr().out == ''


@pytest.mark.parametrize('kind', ['npz', 'compressed', 'safetensors', 'pth'])
def test_half_a_download(tmp_path, kind):
  arrays = {f'a{i}': x for i, x in enumerate(np.random.default_rng(0).standard_normal((4, 30, 5), np.float32))}
  path = tmp_path / {'compressed': 'w.npz'}.get(kind, f'w.{kind}')
  if kind in ('npz', 'compressed'):
    (np.savez if kind == 'npz' else np.savez_compressed)(path, **arrays)
  elif kind == 'pth':
    files.pth(path, arrays)
  else:
    path.write_bytes(files.safetensors({k: ('F32', x.shape, x.tobytes()) for k, x in arrays.items()}))
  for name, x in read(path).items():
    np.testing.assert_array_equal(x, arrays[name])
  whole = path.read_bytes()
  for tenth in range(1, 10):
    path.write_bytes(whole[: len(whole) * tenth // 10])
    refused(path, 'is damaged')
  path.write_bytes(whole[:-1])
  refused(path, 'is damaged')


def test_the_checksum(tmp_path):
  (tmp_path / 'w').write_bytes(b'abc' * 1000)
  assert archives.checksum(tmp_path / 'w') == hashlib.sha256(b'abc' * 1000).hexdigest()
  with pytest.raises(MixerError, match='there is no file'):
    archives.checksum(tmp_path / 'v')


def test_names_that_would_break_a_line_or_a_terminal(tmp_path):
  for name in ('a\nb', 'a\x1b[2J'):
    refused(write_zip(tmp_path / 'w.npz', {f'{name}.npy': npy()}), 'the name')
    (tmp_path / 'w.safetensors').write_bytes(files.safetensors({name: ('F32', [1], bytes(4))}))
    refused(tmp_path / 'w.safetensors', 'the name')
    refused(write_pth(tmp_path / 'w.pth', state({name: tensor('0', (4,), (1,), 4)}), {0: FOUR}), 'the name')


# ---- .npz


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
  [(6, 8, 1, 'encrypted'), (8, 10, 97, 'compression'), (8, 10, 12, 'Invalid data stream')],
)
def test_npz_flags_of_the_zip(tmp_path, local, central, value, part):
  path = write_zip(tmp_path / 'w.npz', {'a.npy': npy()})
  data = bytearray(path.read_bytes())
  for start, offset in ((0, local), (data.index(b'PK\1\2'), central)):
    data[start + offset : start + offset + 2] = struct.pack('<H', value)
  path.write_bytes(data)
  refused(path, part)


@pytest.mark.parametrize('compression', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_that_unpacks_to_far_more_than_it_is(tmp_path, compression):
  member = npy(shape=f'({2**20},)', data=bytes(2**22))
  path = write_zip(tmp_path / 'w.npz', {'a.npy': member}, compression)
  refused(path, f'would unpack from {path.stat().st_size:,} to {len(member):,} bytes')


def test_npz_of_more_bytes_than_any_mixer(tmp_path, monkeypatch):
  monkeypatch.setattr(archives, 'MOST_BYTES', 400)
  np.savez(tmp_path / 'w.npz', a=np.zeros(100, np.float32))
  refused(tmp_path / 'w.npz', 'would unpack to 528 bytes, more than 400')


def test_npz_whose_directory_lies_about_sizes(tmp_path):
  path = write_zip(tmp_path / 'w.npz', {'a.npy': npy(shape=f'({2**20},)', data=bytes(8))})
  data = bytearray(path.read_bytes())
  start = data.index(b'PK\1\2') + 24
  told = struct.unpack('<I', data[start : start + 4])[0] - 8 + 2**22
  data[start : start + 4] = struct.pack('<I', told)
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


# ---- .safetensors


def test_safetensors_dtypes_and_notes(tmp_path):
  given = {
    'a': ('F32', [2, 2], FOUR),
    'b': ('BF16', [2], b'\x80\x3f\x20\xc0'),
    'c': ('F16', [2], struct.pack('<2e', 1.5, -2)),
    'd': ('F64', [], struct.pack('<d', 1e300)),
    'e': ('I64', [1], struct.pack('<q', -7)),
    'f': ('U8', [2], b'\1\2'),
    'g': ('BOOL', [1], b'\1'),
    'h': ('I8', [0], b''),
  }
  (tmp_path / 'w.safetensors').write_bytes(files.safetensors(given, {'format': 'pt', 'x': 'y'}))
  opened = archives.read(tmp_path / 'w.safetensors')
  assert opened.notes == {'format': 'pt', 'x': 'y'}
  dtypes = ['float32', 'bfloat16', 'float16', 'float64', 'int64', 'uint8', 'bool', 'int8']
  assert [opened.arrays[name].dtype for name in given] == dtypes
  values = [[[1, 2], [3, 4]], [1, -2.5], [1.5, -2], 1e300, [-7], [1, 2], [True], []]
  assert [opened.arrays[name].read().tolist() for name in given] == values


def test_safetensors_dtypes_that_numpy_has_not(tmp_path):
  (tmp_path / 'w.safetensors').write_bytes(
    files.safetensors({'a': ('F8_E4M3', [2], b'12'), 'b': ('F32', [1], FOUR[:4])})
  )
  assert archives.read(tmp_path / 'w.safetensors').arrays['a'].dtype == 'f8_e4m3'
  refused(tmp_path / 'w.safetensors', 'is damaged')


def _with_header(text, data=FOUR):
  return struct.pack('<Q', len(text)) + text + data


@pytest.mark.parametrize(
  'content',
  [
    struct.pack('<Q', 2**62) + b'{}',
    struct.pack('<Q', 2**64 - 1) + b'{}',
    _with_header(b'[]'),
    _with_header(b'{'),
    _with_header(b'\xff\xfe{}'),
    _with_header(b'[' * 100_000),
    _with_header(b'{"a": 3}'),
    _with_header(b'{"__metadata__": {"a": 3}}', b''),
    _with_header(b'{"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}'),
    _with_header(b'{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}'),
    _with_header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}'),
    _with_header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 160]}}'),
    _with_header(b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 16]}}'),
    _with_header(b'{"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}'),
    _with_header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', FOUR + b'more'),
  ],
)
def test_safetensors_headers_of_nonsense(tmp_path, content):
  (tmp_path / 'w.safetensors').write_bytes(content)
  refused(tmp_path / 'w.safetensors', 'is damaged')


# ---- .pth


def save(tmp_path, values, data=FOUR, name='w.pth', **changes):
  """A state dict with one storage '0'."""
  return write_pth(tmp_path / name, state(values), {0: data}, **changes)


def test_pth_state_dict(tmp_path):
  values = {
    'whole': tensor('0', (2, 2), (2, 1), 4),
    'transposed': tensor('0', (2, 2), (1, 2), 4),
    'part': tensor('0', (2,), (1,), 4, start=1),
    'steps': tensor('0', (2,), (2,), 4, start=1),
    'scalar': tensor('0', (), (), 4, start=3),
    'empty': tensor('0', (0, 3), (3, 1), 4),
    'parameter': files.parameter(tensor('0', (4,), (1,), 4)),
    'repeated': tensor('0', (2, 2), (0, 1), 4),
  }
  found = read(save(tmp_path, values))
  assert {name: x.tolist() for name, x in found.items()} == {
    'whole': [[1, 2], [3, 4]], 'transposed': [[1, 3], [2, 4]], 'part': [2, 3], 'steps': [2, 4], 'scalar': 4,
    'empty': [], 'parameter': [1, 2, 3, 4], 'repeated': [[1, 2], [1, 2]],
  }  # fmt: skip
  assert found['empty'].shape == (0, 3) and found['whole'].flags.writeable


@pytest.mark.parametrize('name', ['w.pt', 'w.bin', 'w.PTH'])
def test_pth_other_ends(tmp_path, name):
  assert read(save(tmp_path, {'a': tensor('0', (4,), (1,), 4)}, name=name))['a'].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize('dtype', ['float64', 'float32', 'float16', 'bfloat16', 'int64', 'uint8'])
@pytest.mark.parametrize('order', ['little', 'big', None])
def test_pth_dtypes_and_byte_orders(tmp_path, dtype, order):
  x = np.arange(1, 7).astype(dtype)
  data = x.byteswap().tobytes() if order == 'big' else x.tobytes()
  values = {'a': tensor('0', (2, 2), (3, 1), 6, kind=files.STORAGES[dtype])}
  path = save(tmp_path, values, data, byteorder=order)
  assert archives.read(path).arrays['a'].dtype == dtype
  assert read(path)['a'].tolist() == [[1, 2], [4, 5]]


def test_pth_a_byte_order_that_is_none(tmp_path):
  refused(save(tmp_path, {'a': tensor('0', (4,), (1,), 4)}, byteorder='middle'), "the byte order 'middle'")


@pytest.mark.parametrize('protocol', [2, 4, 5])
@pytest.mark.parametrize('key', ['state_dict', 'model'])
def test_pth_nested(tmp_path, key, protocol):
  weights = state({'a': tensor('0', (4,), (1,), 4)}, metadata=False)
  others = pickle.dumps({'epoch': 3, 'lr': 0.1, 'big': 2**80, 'on': True, 'none': None, 'l': [1, (2, 3)]}, protocol)
  body = others[2:-1] if protocol == 2 else others[11:-1]  # less the frame
  path = write_pth(tmp_path / 'w.pth', body + pickled(key) + weights + b's', {0: FOUR})
  assert {name: x.tolist() for name, x in read(path).items()} == {'a': [1, 2, 3, 4]}


@pytest.mark.parametrize(
  'body, part',
  [
    (pickled([1, 2]), 'holds no state dict'),
    (pickled({'model': {'a': 1}}), 'holds no state dict'),
    (tensor('0', (4,), (1,), 4), 'holds no state dict'),
    (state({}), 'holds no state dict'),
    (state({'a': tensor('0', (4,), (1,), 4), 'epoch': pickled(3)}), "'epoch' is no tensor"),
    (state({7: tensor('0', (4,), (1,), 4)}), '7 is no tensor'),
  ],
)
def test_pth_that_holds_other_things(tmp_path, body, part):
  refused(write_pth(tmp_path / 'w.pth', body, {0: FOUR}), part)


@pytest.mark.parametrize(
  'value, part',
  [
    (tensor('0', (5,), (1,), 4), 'larger than its storage of 4'),
    (tensor('0', (4,), (1,), 4, start=1), 'larger than its storage'),
    (tensor('0', (2,), (10**30,), 4), 'larger than its storage'),
    (tensor('0', (10**10,), (0,), 4), 'larger than its storage'),
    (tensor('0', (2, 2), (2,), 4), 'the strides (2,)'),
    (tensor('0', (2,), (1,), 4, start=-1), 'not described by numbers'),
    (tensor('0', (-2,), (1,), 4), 'not described by numbers'),
    (tensor('0', (2,), (-1,), 4), 'not described by numbers'),
    (tensor('0', (2.0,), (1,), 4), 'not described by numbers'),
    (tensor('0', (True,), (1,), 4), 'not described by numbers'),
    (tensor('0', ('2',), (1,), 4), 'not described by numbers'),
    (tensor('0', [4], (1,), 4), 'not described by numbers'),
    (tensor('0', (4,), None, 4), 'not described by numbers'),
    (tensor('0', (4,), (1,), 4, start=None), 'not described by numbers'),
    (tensor('0', (4,), (1,), '4'), 'a storage of no known kind'),
    (tensor(0, (4,), (1,), 4), 'a storage of no known kind'),
    (tensor('0', (4,), (1,), 4, storage=pickled('complex64')), 'a storage of no known kind'),
    (tensor('0', (4,), (1,), 5), 'a has no storage of 5 float32'),
    (tensor('0', (4,), (1,), 2**40), 'a has no storage of 1,099,511,627,776 float32'),
    (tensor('0', (0,), (1,), -4), 'is damaged'),
    (tensor('1', (4,), (1,), 4), 'a has no storage'),
    (tensor('../version', (4,), (1,), 4), 'a has no storage'),
    (tensor('0', (4,), (1,), 4, kind='DoubleStorage'), 'a has no storage of 4 float64'),
    (b'ctorch._utils\n_rebuild_tensor_v2\n)R', 'is damaged'),
    (b'ctorch._utils\n_rebuild_tensor_v2\n' + pickled((1, 2, 3, 4)) + b'R', 'not described by numbers'),
    (b'ctorch._utils\n_rebuild_parameter\n' + pickled((1, 2, 3)) + b'R', 'is damaged'),
    (pickled((1, 2)) + b'Q', 'is damaged'),
    (pickled(7) + b'Q', 'is damaged'),
  ],
)
def test_pth_tensors_that_are_none(tmp_path, value, part):
  refused(save(tmp_path, {'b': tensor('0', (4,), (1,), 4), 'a': value}), part)


@pytest.mark.parametrize(
  'instructions, name',
  [
    (b'cos\nsystem\n' + pickled('echo it ran') + b'\x85R', "'os.system'"),
    (b'cbuiltins\neval\n' + pickled('print("it ran")') + b'\x85R', "'builtins.eval'"),
    (b'c__builtin__\nprint\n' + pickled('it ran') + b'\x85R', "'__builtin__.print'"),
    (b'cposix\nsystem\n', "'posix.system'"),
    (pickled('builtins') + pickled('print') + b'\x93' + pickled('it ran') + b'\x85R', "'builtins.print'"),
    (pickled('collections') + pickled('OrderedDict.fromkeys') + b'\x93', "'collections.OrderedDict.fromkeys'"),
    (pickled('a\nb') + pickled('c' * 5000) + b'\x93', "'a\\nb.ccc"),
    (pickled(['a']) + pickled('b') + b'\x93', 'is damaged'),
    (b'ctorch\nTensor\n', "'torch.Tensor'"),
    (b'ctorch.nn\nFloatStorage\n', "'torch.nn.FloatStorage'"),
    (b'ctorch._utils\n_rebuild_tensor\n', "'torch._utils._rebuild_tensor'"),
    (b'cmixer_jax.weights.archives\nread\n', "'mixer_jax.weights.archives.read'"),
    (b'(ios\nsystem\n', 'INST'),
    (b'(' + pickled('x') + b'o', 'OBJ'),
    (b'ccollections\nOrderedDict\n)\x81', 'NEWOBJ'),
    (b'ccollections\nOrderedDict\n)}\x92', 'NEWOBJ_EX'),
    (b'\x82\1', 'EXT1'),
    (b'P0\n', 'PERSID'),
    (b')2', 'DUP'),
    (b'\x96' + struct.pack('<Q', 1) + b'a', 'BYTEARRAY8'),
  ],
)
def test_pth_that_would_run_code(tmp_path, instructions, name, capfd):
  message = refused(save(tmp_path, {'b': tensor('0', (4,), (1,), 4), 'a': instructions}), name)
  assert 'is damaged' in message or 'run code, which is not done here; convert it with torch' in message
  assert 'it ran' not in capfd.readouterr().out


@pytest.mark.parametrize(
  'instructions',
  [
    pickled(3) + b')R',
    pickled('float32') + b')R',
    pickled([1]) + b')R',
    b'ctorch\nFloatStorage\n)R',
    tensor('0', (4,), (1,), 4) + b')R',
    b'ccollections\nOrderedDict\n' + pickled(([1],)) + b'R',
    b'ccollections\nOrderedDict\n' + pickled([1]) + b'R',
    b'ccollections\nOrderedDict\n}b',  # sets nothing of what it would have imported
    b'ctorch._utils\n_rebuild_tensor_v2\n}b',
    tensor('0', (4,), (1,), 4) + b'}b',
    pickled('a') + b'}b',
    b'](K\1K\2u',
    b'}K\1a',
    b'}(K\1u',  # a key without a value
    b'})K\1s',
    b'R', b'b', b's', b'u', b'e', b't', b'\x87', b'Q', b'\x93', b'.', b'0', b'1', b'h\7', b'K', b'X\xff\xff\xff\xff',
    b'\x8d' + struct.pack('<Q', 2**63) + b'a', b'\x8b' + struct.pack('<i', -1), b'I99999999999x\n', b'\xff',
    b'L' + b'9' * 5000 + b'L\n',
  ],
)  # fmt: skip
def test_pth_pickles_that_make_no_sense(tmp_path, instructions):
  refused(write_pth(tmp_path / 'w.pth', instructions, {0: FOUR}))
  refused(save(tmp_path, {'a': instructions}))


def test_pth_attributes_change_nothing(tmp_path):
  weights = state({'a': tensor('0', (4,), (1,), 4)}, metadata=False)
  for attributes in ({'items': 1, '__class__': 2, 'get': 3}, (None, {'values': 1}), 7):
    path = write_pth(tmp_path / 'w.pth', weights + pickled(attributes) + b'b', {0: FOUR})
    assert list(read(path)) == ['a']


def test_pth_that_would_take_all_memory_or_crash_python(tmp_path):
  # 10 bytes with which pickle.Unpickler fills 32 GiB: the number of a memo.
  a = tensor('0', (4,), (1,), 4) + b'r' + struct.pack('<I', 2**31)
  assert list(read(save(tmp_path, {'a': a}))) == ['a']
  # Tuples in tuples: as a key, hashed until the stack of C is full, or forever.
  deep, wide = b')' + b'\x85' * 100_000, b')' + b'q\0h\0\x86' * 100
  for nested in (deep, wide):
    refused(write_pth(tmp_path / 'w.pth', b'}' + nested + b'K\1s', {}), 'a tuple as a key')
    refused(save(tmp_path, {'b': tensor('0', (4,), (1,), 4), 'a': nested}), "'a' is no tensor")
    shape = tensor('0', (), (), 4).replace(pickled(0) + b')', pickled(0) + nested, 1)
    refused(save(tmp_path, {'a': shape}), 'not described by numbers')


def test_pth_of_more_than_any_mixer(tmp_path, monkeypatch):
  values = {f'a{i}': tensor('0', (4,), (1,), 4) for i in range(100)}
  path = save(tmp_path, values)
  monkeypatch.setattr(archives, 'MOST_PICKLE', 1000)
  refused(path, 'bytes of names, more than 1,000')
  monkeypatch.undo()
  data = np.arange(4000, dtype=np.float32)
  path = save(tmp_path, {f'a{i}': tensor('0', (4000,), (1,), 4000) for i in range(20)}, data.tobytes())
  monkeypatch.setattr(archives, 'MOST_BYTES', 100_000)
  refused(path, 'announces 320,000 bytes of arrays, more than 100,000')


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_pth_zips_that_torch_does_not_write(tmp_path):
  path = save(tmp_path, {'a': tensor('0', (4,), (1,), 4)})
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr('archive/data/0', FOUR)
  refused(path, 'twice')
  refused(write_zip(path, {'archive/data/0': FOUR}), '0 files data.pkl, not one')
  refused(write_zip(path, {'a/data.pkl': b'}.', 'b/data.pkl': b'}.'}), '2 files data.pkl, not one')
  plain = {'data.pkl': b'\x80\x02' + state({'a': tensor('0', (4,), (1,), 4)}) + b'.', 'data/0': FOUR}
  assert read(write_zip(path, plain))['a'].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize('where', ['namespace', 'old'])
def test_pth_that_is_refused_says_how_to_convert_it(tmp_path, where):
  path = tmp_path / "it's a checkpoint.pth"
  if where == 'old':
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2))  # how torch before 1.6 begins
    message = refused(path, 'is a bare pickle, as PyTorch before 1.6 saved')
  else:
    weights = state({'a': tensor('0', (4,), (1,), 4)})
    args = b'cargparse\nNamespace\n)\x81' + pickled({'lr': 0.1}) + b'b'
    write_pth(path, b'}(' + pickled('model') + weights + pickled('args') + args + b'u', {0: FOUR})
    message = refused(path, "asks for the Python object 'argparse.Namespace'")
  code = message.split('convert it with torch, which runs nothing here either: ')[1]

  # The advice is run, with stand-ins for torch.
  saved = {}

  class Tensor:
    contiguous = clone = lambda self: self

  class Torch:
    class serialization:
      add_safe_globals = staticmethod(lambda classes: saved.update(classes=[c.__name__ for c in classes]))

    @staticmethod
    def load(file, *, map_location, weights_only):
      assert Path(file) == path and map_location == 'cpu' and weights_only is True
      return {'model': {'a': Tensor()}, 'args': None}

  modules = {
    'torch': Torch,
    'safetensors.torch': type('M', (), {'save_file': lambda w, to: saved.update({to: list(w)})}),
  }
  with pytest.MonkeyPatch.context() as patch:
    for name, module in modules.items():
      patch.setitem(__import__('sys').modules, name, module)
    exec(code, {})
  assert saved == {'classes': ['Namespace'], 'weights.safetensors': ['a']}
