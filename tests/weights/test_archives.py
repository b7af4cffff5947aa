"""Files from strangers: what is announced is what is read, nothing runs, every damage is one line."""

import collections
import io
import pickle
import struct
import zipfile
from pathlib import Path

import files
import numpy as np
import pytest
import safetensors.numpy

from mixer_jax.errors import MixerError
from mixer_jax.weights import archives


def arrays_of(path):
  return {name: array.read() for name, array in archives.read(path).arrays.items()}


def refused(path, *parts):
  with pytest.raises(MixerError) as caught:
    arrays_of(path)
  message = str(caught.value)
  assert path.name in message and '\n' not in message
  for part in parts:
    assert part in message, message


# ---- .npz


def test_npz_of_every_order_and_byte_order(tmp_path):
  random = np.random.default_rng(0)
  given = {
    'a/plain': random.normal(size=(3, 4)), 'fortran': np.asfortranarray(random.normal(size=(3, 4, 2))),
    'big': random.normal(size=5).astype('>f4'), 'scalar': np.float32(3), 'empty': np.zeros((0, 3), np.float32),
    'half': random.normal(size=(2, 2)).astype(np.float16),
  }  # fmt: skip
  files.write_npz(tmp_path / 'w.npz', given)
  np.savez_compressed(tmp_path / 'small.npz', **given)
  for name in ('w.npz', 'small.npz'):
    found = arrays_of(tmp_path / name)
    assert found.keys() == given.keys()
    for key, array in given.items():
      np.testing.assert_array_equal(found[key], array)
      assert found[key].dtype.isnative


def test_npz_of_bfloat16(tmp_path):
  """NumPy writes two nameless bytes in its place."""
  given = np.array([1.5, -2, 3e38], files.BFLOAT16)
  files.write_npz(tmp_path / 'w.npz', {'a': given})
  found = arrays_of(tmp_path / 'w.npz')['a']
  assert found.dtype == files.BFLOAT16 and np.array_equal(found, given)


def test_npz_with_objects_is_refused_unread(tmp_path):
  class Trap:
    def __reduce__(self):
      return pytest.fail, ('the pickle was run',)

  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(header, {'descr': '|O', 'fortran_order': False, 'shape': (1,)})
  with zipfile.ZipFile(tmp_path / 'w.npz', 'w') as archive:
    archive.writestr('a.npy', header.getvalue() + pickle.dumps(Trap()))
  refused(tmp_path / 'w.npz', 'a.npy holds Python objects')


def test_a_pickle_in_disguise_is_no_npz(tmp_path):
  (tmp_path / 'w.npz').write_bytes(pickle.dumps({'a': np.ones(3)}))
  refused(tmp_path / 'w.npz', 'is damaged')
  (tmp_path / 'w.safetensors').write_bytes(pickle.dumps({'a': np.ones(3)}))
  refused(tmp_path / 'w.safetensors', 'is damaged')


def member(shape, data=b'', dtype='<f4'):
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(header, {'descr': dtype, 'fortran_order': False, 'shape': shape})
  return header.getvalue() + data


def test_npz_whose_members_lie_about_their_size(tmp_path):
  for shape, data in (((3,), b'\0' * 8), ((3,), b'\0' * 16), ((2**40,), b'\0' * 8), ((-3,), b''), ((2, -1), b'')):
    with zipfile.ZipFile(tmp_path / 'w.npz', 'w') as archive:
      archive.writestr('a.npy', member(shape, data))
    refused(tmp_path / 'w.npz')


def test_npz_that_would_unpack_to_more_than_any_mixer(tmp_path, monkeypatch):
  monkeypatch.setattr(archives, 'MOST_BYTES', 10_000)
  with zipfile.ZipFile(tmp_path / 'w.npz', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('a.npy', member((5000,), b'\0' * 20_000))
  assert (tmp_path / 'w.npz').stat().st_size < 1000
  refused(tmp_path / 'w.npz', 'would unpack to 20,128 bytes')


def test_npz_with_a_name_twice_or_encrypted(tmp_path):
  with zipfile.ZipFile(tmp_path / 'w.npz', 'w') as archive:
    archive.writestr('a.npy', member((1,), b'\0' * 4))
    with pytest.warns(UserWarning, match='Duplicate'):
      archive.writestr('a.npy', member((1,), b'\0' * 4))
  refused(tmp_path / 'w.npz', 'a name twice')
  data = bytearray(files.npz_bytes(a=np.ones(3)))
  for signature, place in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
    data[data.index(signature) + place] |= 1
  (tmp_path / 'w.npz').write_bytes(data)
  refused(tmp_path / 'w.npz', 'encrypted')


def test_unknown_compression(tmp_path):
  data = bytearray(files.npz_bytes(a=np.ones(3)))
  for signature, place in ((b'PK\x03\x04', 8), (b'PK\x01\x02', 10)):
    at = data.index(signature) + place
    data[at : at + 2] = struct.pack('<H', 97)
  (tmp_path / 'w.npz').write_bytes(data)
  refused(tmp_path / 'w.npz', 'is damaged')


# ---- every kind


@pytest.mark.parametrize('end', files.WRITERS)
def test_half_a_download(end, tmp_path):
  layout, write = files.WRITERS[end]
  whole, cut = tmp_path / f'whole{end}', tmp_path / f'cut{end}'
  write(whole, files.theirs(layout, files.mixer_arrays()))
  data = whole.read_bytes()
  for tenth in range(10):
    cut.write_bytes(data[: len(data) * tenth // 10])
    refused(cut)
  assert len(arrays_of(whole)) == 2 * 12 + 6


@pytest.mark.parametrize('end', files.WRITERS)
def test_bytes_that_were_changed_give_an_error_or_arrays(end, tmp_path):
  """Whatever was changed, there is one line or what was announced; nothing else is raised."""
  layout, write = files.WRITERS[end]
  path = tmp_path / f'w{end}'
  write(path, files.theirs(layout, files.mixer_arrays()))
  data, random = path.read_bytes(), np.random.default_rng(0)
  refusals = []
  for _ in range(300):
    changed = bytearray(data)
    for at in random.integers(0, len(data), random.integers(1, 4)):
      changed[at] = random.integers(0, 256)
    path.write_bytes(changed)
    try:
      archive = archives.read(path)
      for array in archive.arrays.values():
        assert array.read().shape == array.shape
    except MixerError as error:
      refusals.append(str(error))
  assert len(refusals) > 20 and not any('\n' in message for message in refusals)


def test_places_and_names_that_are_none(tmp_path, monkeypatch):
  refused(tmp_path / 'w.npz', 'there is no file')
  (tmp_path / 'w.npz').write_bytes(b'')
  refused(tmp_path / 'w.npz', 'is empty')
  for name in ('w.NPZ', 'w.h5', 'w'):
    (tmp_path / name).write_bytes(b'x')
    refused(tmp_path / name, 'no kind of weights', '.npz')
  (tmp_path / 'folder.npz').mkdir()
  refused(tmp_path / 'folder.npz', 'cannot be read')

  def no_permission(*_):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(Path, 'open', no_permission)  # the tests may run as root, who may read everything
  refused(tmp_path / 'w.npz', 'cannot be read (Permission denied)')


def test_safetensors_of_every_float_and_whole_numbers(tmp_path):
  given = {
    dtype: np.arange(4).reshape(2, 2).astype(dtype) for dtype in ('float64', 'float32', 'float16', 'int64', 'uint8')
  }
  given['bfloat16'] = np.arange(4).astype(files.BFLOAT16)
  (tmp_path / 'w.safetensors').write_bytes(safetensors.numpy.save(given))
  archive = archives.read(tmp_path / 'w.safetensors')
  for dtype, array in given.items():
    assert archive.arrays[dtype].dtype == dtype
    np.testing.assert_array_equal(archive.arrays[dtype].read(), array)


# ---- .pth


def test_pth_of_every_kind(tmp_path):
  given = {name: array for name, array in files.theirs('timm', files.mixer_arrays()).items()}
  given['half'] = np.arange(3).astype(np.float16)
  given['brain'] = np.arange(3).astype(files.BFLOAT16)
  given['long'] = np.arange(3)
  wraps = {
    'plain': lambda state: state,
    'state_dict': lambda state: files.named({'epoch': files.number(3), 'state_dict': state}),
    'model': lambda state: files.named({'model': state, 'name': files.text('x')}),
  }
  for name, wrap in wraps.items():
    files.write_pth(tmp_path / f'{name}.pth', given, wrap)
    found = arrays_of(tmp_path / f'{name}.pth')
    assert found.keys() == given.keys()
    assert all(np.array_equal(found[key], given[key]) and found[key].dtype == given[key].dtype for key in given)


def test_pth_of_views_parameters_and_the_other_byte_order(tmp_path):
  data = np.arange(12, dtype=np.float32)
  of = files.storage('0', 12)
  parameter = files.name_of('torch._utils', '_rebuild_parameter')
  items = {
    'turned': files.tensor(of, 0, (4, 3), (1, 4)), 'part': files.tensor(of, 5, (2, 3), (3, 1)),
    'repeated': files.tensor(of, 2, (3, 2), (0, 1)), 'scalar': files.tensor(of, 7, (), ()),
    'parameter': parameter + files.several(files.tensor(of, 0, (12,), (1,)), b'\x88', files.EMPTY) + b'R',
  }  # fmt: skip
  expected = {
    'turned': data.reshape(3, 4).T, 'part': data[5:11].reshape(2, 3), 'repeated': np.tile(data[2:4], (3, 1)),
    'scalar': data[7], 'parameter': data,
  }  # fmt: skip
  for order, stored in (('little', data), ('big', data.byteswap())):
    files.pack(tmp_path / 'w.pth', files.named(items), {'0': stored.tobytes()}, byteorder=order.encode())
    found = arrays_of(tmp_path / 'w.pth')
    for name, array in expected.items():
      np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize('start, shape, strides', [
  (0, (13,), (1,)), (10, (3,), (1,)), (0, (2**20, 2**20), (0, 0)), (0, (13,), (0,)), (-1, (2,), (1,)),
  (0, (-2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,)), (2**30, (1,), (1,)), (0, (3,), (6,)),
])  # fmt: skip
def test_pth_with_tensors_that_are_not_in_their_storage(start, shape, strides, tmp_path):
  items = {'a': files.tensor(files.storage('0', 12), start, shape, strides)}
  files.pack(tmp_path / 'w.pth', files.named(items), {'0': bytes(48)})
  refused(tmp_path / 'w.pth', 'is damaged')


def test_pth_with_storages_that_lie(tmp_path):
  good = lambda of: files.named({'a': files.tensor(of, 0, (2,), (1,))})
  for of, data in (
    (files.storage('0', 12), bytes(44)), (files.storage('0', 3), bytes(48)), (files.storage('1', 12), bytes(48)),
    (files.storage('../0', 12), bytes(48)),
  ):  # fmt: skip
    files.pack(tmp_path / 'w.pth', good(of), {'0': data})
    refused(tmp_path / 'w.pth', 'is damaged')
  # A tuple that looks like a storage, of objects or of text for a count.
  for made in (
    files.several(files.text('object'), files.text('0'), files.number(12)),
    files.several(files.text('float32'), files.text('0'), files.text('12')), files.number(3), files.EMPTY,
  ):  # fmt: skip
    files.pack(tmp_path / 'w.pth', good(made), {'0': bytes(48)})
    refused(tmp_path / 'w.pth', 'is damaged')


@pytest.mark.parametrize('module, name', [
  ('builtins', 'eval'), ('os', 'system'), ('posix', 'system'), ('argparse', 'Namespace'), ('torch', 'load'),
  ('torch.storage', '_load_from_bytes'), ('numpy', 'load'), ('collections', 'Counter'), ('torch', 'FloatStorage.x'),
])  # fmt: skip
def test_pth_that_asks_for_anything_else_is_refused_by_its_name(module, name, tmp_path):
  call = files.name_of(module, name) + files.several(files.text('1')) + b'R'
  files.pack(tmp_path / 'w.pth', files.named({'args': call}), {})
  refused(tmp_path / 'w.pth', f'{module}.{name}', 'would run code', 'weights_only=False', 'save_file')


@pytest.mark.parametrize('target', [
  files.name_of('torch', 'BFloat16Storage'), files.name_of('torch._utils', '_rebuild_tensor_v2'),
  files.name_of('collections', 'OrderedDict'),
], ids=['dtype', 'rebuild', 'dict'])  # fmt: skip
def test_pth_cannot_change_what_it_is_given(target, tmp_path):
  """BUILD would set attributes: of a type, of a function's defaults, of bfloat16 itself, once a crash."""
  state = files.several(b'N', b'}' + files.text('__defaults__') + b'Ns' + files.text('type') + files.number(3) + b's')
  files.pack(tmp_path / 'w.pth', files.named({'a': target + state + b'b'}), {})
  refused(tmp_path / 'w.pth')
  assert collections.OrderedDict(a=1)['a'] == 1
  assert float(np.array(1.5, files.BFLOAT16)) == 1.5
  files.write_pth(tmp_path / 'good.pth', {'a': np.ones(3, np.float32)})
  assert np.array_equal(arrays_of(tmp_path / 'good.pth')['a'], np.ones(3))


def test_pth_that_holds_no_state_dict(tmp_path):
  for content in (files.text('x'), files.named({}), files.named({'a': files.number(3)}), b'N'):
    files.pack(tmp_path / 'w.pth', content, {})
    refused(tmp_path / 'w.pth', 'no state dict')
  mixed = files.named({'a': files.tensor(files.storage('0', 1), 0, (1,), (1,)), 'b': files.number(3)})
  files.pack(tmp_path / 'w.pth', mixed, {'0': bytes(4)})
  refused(tmp_path / 'w.pth', "'b' is no tensor")
  (tmp_path / 'old.pth').write_bytes(pickle.dumps({'a': 1}))
  refused(tmp_path / 'old.pth', '1.6 or later', 'weights_only=False')
