"""Arrays in files that come from strangers: .npz, .safetensors and PyTorch's .pth, none of which runs anything.

A file is opened to a list of what it says it holds, by name. An array is read when it is asked for, so that whoever
asks can look at names and shapes first, and what is read is exactly what was announced: no more bytes than its shape
has. NumPy's objects are refused. Of a .pth only the plain kind is read, names and tensors: its pickle is interpreted
with nothing but dicts and a record of a tensor to make, and any other thing that it asks for is refused by name.
"""

import collections
import contextlib
import functools
import hashlib
import io
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from mixer_jax.errors import MixerError

MOST_BYTES = 2**33  # of all arrays of a file: 5 times the largest Mixer
MOST_PICKLE = 2**26  # of what names the tensors of a .pth
FLOATS = ('float64', 'float32', 'float16', 'bfloat16')
SAFETENSORS = {'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}
STORAGES = {
  'DoubleStorage': 'float64', 'FloatStorage': 'float32', 'HalfStorage': 'float16', 'BFloat16Storage': 'bfloat16',
  'LongStorage': 'int64', 'IntStorage': 'int32', 'ShortStorage': 'int16', 'CharStorage': 'int8',
  'ByteStorage': 'uint8', 'BoolStorage': 'bool',
}  # fmt: skip
CONVERT = (
  'where you trust it, with torch: import torch; from safetensors.torch import save_file;'
  " w = torch.load(FILE, map_location='cpu', weights_only=False); w = w.get('state_dict', w.get('model', w));"
  " save_file({k: v.contiguous() for k, v in w.items()}, 'weights.safetensors')"
)


class Array(NamedTuple):
  """What a file announces of an array; `read()` gives it, of that shape and dtype."""

  shape: tuple[int, ...]
  dtype: str  # NumPy's name, or bfloat16
  read: Callable[[], np.ndarray]


class Archive(NamedTuple):
  """`arrays` by their names in the file, `notes` what else the file says of itself, in words."""

  arrays: dict[str, Array]
  notes: dict[str, str]


def read(path: Path) -> Archive:
  """What is in a file of weights, by the end of its name.

  Raises:
    MixerError: no such file, a name of another end, a file that is damaged, cut off or needs code to be read.
  """
  if path.suffix not in READERS:
    raise MixerError(f'{path} is no kind of weights by the end of its name; known are {", ".join(READERS)}')
  with _reported(path):
    with path.open('rb') as file:  # first, for the readers below say nothing of permissions
      if not file.read(1):
        raise MixerError(f'{path} is empty; get it again')
    archive = READERS[path.suffix](path)
    total = sum(_size(array) for array in archive.arrays.values())
    if total > MOST_BYTES:
      raise MixerError(
        f'{path} announces {total:,} bytes of arrays, more than {MOST_BYTES:,}, so no Mixer; get another'
      )
  guard = lambda array, name: array._replace(read=functools.partial(_checked, path, name, array))
  return Archive({name: guard(array, name) for name, array in archive.arrays.items()}, archive.notes)


def checksum(path: Path) -> str:
  """SHA-256 of a file, in hexadecimals."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _checked(path: Path, name: str, array: Array) -> np.ndarray:
  with _reported(path):
    value = array.read()
  if value.shape != array.shape or value.dtype.name != array.dtype:
    raise MixerError(f'{path}: {name} is {value.dtype} {value.shape}, but was announced as {array.dtype} {array.shape}')
  return value


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
  """What can go wrong with a file from elsewhere, in one line."""
  try:
    yield
  except FileNotFoundError as error:
    raise MixerError(f'there is no file {path}') from error
  except OSError as error:
    raise MixerError(f'{path} cannot be read ({error.strerror or error}); mend it, or choose another file') from error
  except MemoryError as error:
    raise MixerError(f'{path} holds arrays that are larger than the memory here') from error
  except (
    ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, OverflowError, RecursionError, RuntimeError,
    NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError,
    safetensors.SafetensorError,
  ) as error:  # fmt: skip
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise MixerError(f'{path} is damaged, or not the kind that its name says ({reason}); get it again') from error


def _size(array: Array) -> int:
  return math.prod(array.shape) * np.dtype(array.dtype if array.dtype != 'bfloat16' else 'uint16').itemsize


def _read_npz(path: Path) -> Archive:
  with zipfile.ZipFile(path) as archive:
    members = archive.infolist()
    _check_members(path, members)
    arrays = {}
    for member in members:
      with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
          raise ValueError(f'{member.filename} is of version {version}')
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
          raise MixerError(
            f'{path}: {member.filename} holds Python objects, which only code could read; get a file of plain arrays'
          )
        if any(side < 0 for side in shape):
          raise ValueError(f'{member.filename} has the shape {shape}')
        size = math.prod(shape) * dtype.itemsize
        if file.tell() + size != member.file_size:
          raise ValueError(f'{member.filename} has {member.file_size - file.tell():,} bytes for {shape} {dtype}')
        read = functools.partial(_read_member, path, member, file.tell(), shape, fortran, dtype)
      # NumPy has no bfloat16 and writes two nameless bytes in its place.
      name = 'bfloat16' if dtype == np.dtype('V2') else dtype.name
      arrays[member.filename.removesuffix('.npy')] = Array(shape, name, read)
  return Archive(arrays, {})


def _read_member(path: Path, member, start: int, shape: tuple, fortran: bool, dtype: np.dtype) -> np.ndarray:
  with zipfile.ZipFile(path) as archive, archive.open(member) as file:
    data = file.read(member.file_size)
  kind = np.dtype(ml_dtypes.bfloat16) if dtype == np.dtype('V2') else dtype
  flat = np.frombuffer(data, kind, offset=start)
  array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
  return array.astype(array.dtype.newbyteorder('='), copy=False)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
  """Refuses what no writer of arrays makes: names twice, encryption, contents a thousand times the file."""
  names = [member.filename for member in members]
  if len(set(names)) < len(names):
    raise ValueError('it has a name twice')
  if any(member.flag_bits & 1 for member in members):
    raise ValueError('it is encrypted')
  total = sum(member.file_size for member in members)
  if total > MOST_BYTES:
    raise MixerError(
      f'{path} would unpack to {total:,} bytes, more than {MOST_BYTES:,}, so it is no Mixer; get another'
    )


def _read_safetensors(path: Path) -> Archive:
  with safetensors.safe_open(path, 'numpy') as file:
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    shapes = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    notes = file.metadata() or {}
  read = lambda name: functools.partial(_read_tensor, path, name)
  kind = lambda dtype: SAFETENSORS.get(dtype, dtype.lower().replace('i', 'int').replace('u', 'uint'))
  return Archive({name: Array(shape, kind(dtype), read(name)) for name, (shape, dtype) in shapes.items()}, notes)


def _read_tensor(path: Path, name: str) -> np.ndarray:
  with safetensors.safe_open(path, 'numpy') as file:
    return file.get_tensor(name)


class _Tensor(NamedTuple):
  """A tensor as a .pth describes it: entries of a storage, from `start` on, `strides` apart."""

  storage: tuple  # (dtype, key, how many)
  start: int
  shape: tuple
  strides: tuple


class _Rebuild:
  """What a pickle may call for a tensor or a parameter; without attributes, which a pickle could set."""

  __slots__ = ()

  def __call__(self, storage: Any, *described: Any) -> _Tensor:
    if isinstance(storage, _Tensor):  # a parameter is its tensor
      return storage
    start, shape, strides = described[:3]
    whole = lambda values: isinstance(values, tuple) and all(type(v) is int and v >= 0 for v in values)
    if not (_is_storage(storage) and whole((start,)) and whole(shape) and whole(strides)):
      raise ValueError('a tensor of it is not described by numbers')
    if len(shape) != len(strides):
      raise ValueError(f'a tensor of it has the shape {shape} and the strides {strides}')
    reach = start + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) + 1
    if math.prod(shape) > storage[2] or (math.prod(shape) and reach > storage[2]):
      raise ValueError(f'a tensor of it of shape {shape} is larger than its storage of {storage[2]:,}')
    return _Tensor(storage, start, shape, strides)


def _is_storage(value: Any) -> bool:
  if not isinstance(value, tuple) or len(value) != 3:
    return False
  dtype, key, count = value
  return isinstance(dtype, str) and dtype in STORAGES.values() and isinstance(key, str) and type(count) is int


class _Unpickler(pickle.Unpickler):
  """Makes dicts and records of tensors; what it is asked to import is a name in a table, or refused."""

  def __init__(self, path: Path, data: bytes):
    super().__init__(io.BytesIO(data), encoding='utf-8')
    self._path = path

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    if module == 'torch._utils' and name in ('_rebuild_tensor_v2', '_rebuild_parameter'):
      return _Rebuild()
    if module == 'torch' and name in STORAGES:
      return STORAGES[name]  # a string: nothing that a pickle could call or change
    raise MixerError(
      f'{self._path} asks for the Python object {module}.{name}, so reading it would run code, which is not done here;'
      f' convert it {CONVERT}'
    )

  def persistent_load(self, pid: Any) -> tuple:
    kind, dtype, key, _, count = pid
    if kind != 'storage' or not _is_storage((dtype, key, count)):
      raise ValueError('a tensor of it has a storage of no known kind')
    return dtype, key, count


def _read_pth(path: Path) -> Archive:
  if not zipfile.is_zipfile(path):
    raise MixerError(
      f'{path} is no file of torch.save of PyTorch 1.6 or later: older ones cannot be read without running code;'
      f' convert it {CONVERT}'
    )
  with zipfile.ZipFile(path) as archive:
    members = {member.filename: member for member in archive.infolist()}
    _check_members(path, list(members.values()))
    found = [name for name in members if name.endswith('/data.pkl') or name == 'data.pkl']
    if len(found) != 1:
      raise ValueError('it has no data.pkl')
    if members[found[0]].file_size > MOST_PICKLE:
      raise MixerError(f'{path} has {members[found[0]].file_size:,} bytes of names, more than {MOST_PICKLE:,}')
    folder = found[0].removesuffix('data.pkl')
    order = archive.read(f'{folder}byteorder').decode() if f'{folder}byteorder' in members else 'little'
    content = _Unpickler(path, archive.read(found[0])).load()
  tensors = dict(_state(path, content))
  arrays = {}
  for name, tensor in tensors.items():
    dtype, key, count = tensor.storage
    member = members.get(f'{folder}data/{key}')
    size = np.dtype('uint16' if dtype == 'bfloat16' else dtype).itemsize
    if member is None or member.file_size != count * size:
      raise ValueError(f'{name} has no storage of {count:,} {dtype}')
    arrays[name] = Array(tensor.shape, dtype, functools.partial(_read_storage, path, member, tensor, order))
  return Archive(arrays, {})


def _state(path: Path, content: Any) -> Iterator[tuple[str, _Tensor]]:
  """The named tensors, which may lie in 'state_dict' or 'model' of what was saved."""
  for key in ('state_dict', 'model'):
    if isinstance(content, dict) and isinstance(content.get(key), dict):
      content = content[key]
  if not isinstance(content, dict) or not any(isinstance(value, _Tensor) for value in content.values()):
    raise MixerError(f'{path} holds no state dict, names and their tensors; save model.state_dict()')
  for name, value in content.items():
    if not isinstance(name, str) or not isinstance(value, _Tensor):
      raise MixerError(f'{path}: {str(name)[:80]!r} is no tensor; save model.state_dict() and nothing else')
    yield name, value


def _read_storage(path: Path, member: zipfile.ZipInfo, tensor: _Tensor, order: str) -> np.ndarray:
  with zipfile.ZipFile(path) as archive, archive.open(member) as file:
    data = file.read(member.file_size)
  dtype = np.dtype(ml_dtypes.bfloat16 if tensor.storage[0] == 'bfloat16' else tensor.storage[0])
  flat = np.frombuffer(data, dtype)
  flat = flat.byteswap() if order == 'big' else flat
  # Within the storage by _Rebuild's check.
  strides = [stride * dtype.itemsize for stride in tensor.strides]
  return np.lib.stride_tricks.as_strided(flat[tensor.start :], tensor.shape, strides).copy()


READERS = {
  '.npz': _read_npz, '.safetensors': _read_safetensors, '.pth': _read_pth, '.pt': _read_pth, '.bin': _read_pth,
}  # fmt: skip
