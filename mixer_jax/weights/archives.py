"""Arrays in files that come from strangers: .npz, .safetensors and PyTorch's .pth, none of which runs anything.

A file is opened to a list of what it says it holds, by name. An array is read when it is asked for, so that whoever
asks can look at names and shapes first, and what is read is exactly what was announced: no more bytes than its shape
has. NumPy's objects are refused. Of a .pth only the plain kind is read, names and tensors: its pickle is gone through
instruction by instruction with nothing but plain values and a record of a tensor to make, and any other thing that it
asks for is refused by name.
"""

import contextlib
import functools
import hashlib
import math
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from mixer_jax.errors import MixerError, unknown

MOST_BYTES = 2**33  # of all arrays of a file: 5 times the largest Mixer
MOST_UNPACKED = 100  # times the size of a file; trained weights hardly shrink
MOST_PICKLE = 2**24  # of what names the tensors of a .pth
FLOATS = {'float64': 8, 'float32': 4, 'float16': 2, 'bfloat16': 2}  # bytes an entry
SAFETENSORS = {'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}
STORAGES = {
  'DoubleStorage': 'float64', 'FloatStorage': 'float32', 'HalfStorage': 'float16', 'BFloat16Storage': 'bfloat16',
  'LongStorage': 'int64', 'IntStorage': 'int32', 'ShortStorage': 'int16', 'CharStorage': 'int8',
  'ByteStorage': 'uint8', 'BoolStorage': 'bool',
}  # fmt: skip
PICKLED = {  # instructions that only put a value on the stack
  'NONE', 'NEWTRUE', 'NEWFALSE', 'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'FLOAT', 'BINFLOAT',
  'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8',
}  # fmt: skip
CONVERT = (  # with weights_only, torch makes tensors and the classes that it was told of, and calls nothing else
  'convert it with torch, which runs nothing here either: import argparse, torch;'
  ' from safetensors.torch import save_file; torch.serialization.add_safe_globals([argparse.Namespace]);'
  " w = torch.load({path!r}, map_location='cpu', weights_only=True);"
  " w = w.get('state_dict', w.get('model', w));"
  " save_file({{k: v.contiguous().clone() for k, v in w.items()}}, 'weights.safetensors')"
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
  reader = READERS.get(path.suffix.lower())
  if reader is None:
    raise unknown('kind of weights, by the end of the name,', path.suffix or path.name, READERS)
  with _reported(path):
    with path.open('rb') as file:  # first, for the readers below say nothing of permissions
      if not file.read(1):
        raise MixerError(f'{path} is empty; get it again')
    archive = reader(path)
    if odd := [name for name in archive.arrays if not name.isprintable()]:
      raise ValueError(f'the name {odd[0]!r:.80}')
    total = sum(math.prod(array.shape) * FLOATS.get(array.dtype, 0) for array in archive.arrays.values())
    if total > MOST_BYTES:
      raise MixerError(
        f'{path} announces {total:,} bytes of arrays, more than {MOST_BYTES:,}, so no Mixer; get another'
      )
  guard = lambda array, name: array._replace(read=functools.partial(_checked, path, name, array))
  return Archive({name: guard(array, name) for name, array in archive.arrays.items()}, archive.notes)


def checksum(path: Path) -> str:
  """SHA-256 of a file, in hexadecimals.

  Raises:
    MixerError: no such file, or one that cannot be read.
  """
  with _reported(path), path.open('rb') as file:
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
  except MixerError:
    raise
  except FileNotFoundError as error:
    raise MixerError(f'there is no file {path}; look at the path') from error
  except OSError as error:
    raise MixerError(f'{path} cannot be read ({error.strerror or error}); mend it, or choose another file') from error
  except MemoryError as error:
    raise MixerError(f'{path} holds more than the memory here; choose another file') from error
  except Exception as error:  # Each reader raises what it likes of bytes that it does not expect.
    reason = (str(error).strip().splitlines() or [''])[0][:300] or type(error).__name__
    raise MixerError(f'{path} is damaged, or not the kind that its name says ({reason}); get it again') from error


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
        with warnings.catch_warnings(action='ignore'):  # of headers by Python 2
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
      kind = 'bfloat16' if dtype == np.dtype('V2') else dtype.name
      name = member.filename.removesuffix('.npy')
      if name in arrays:
        raise ValueError(f'it has {name} twice')
      arrays[name] = Array(shape, kind, read)
  return Archive(arrays, {})


def _read_member(path: Path, member, start: int, shape: tuple, fortran: bool, dtype: np.dtype) -> np.ndarray:
  with zipfile.ZipFile(path) as archive, archive.open(member) as file:
    data = file.read(member.file_size)
  kind = np.dtype(ml_dtypes.bfloat16) if dtype == np.dtype('V2') else dtype
  flat = np.frombuffer(data, kind, offset=start)
  array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
  return array.astype(array.dtype.newbyteorder('='), copy=False)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
  """Refuses what no writer of weights makes: names twice, encryption, contents many times the file."""
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
  if total > MOST_UNPACKED * (size := path.stat().st_size):
    raise MixerError(
      f'{path} would unpack from {size:,} to {total:,} bytes, which weights never do; get another, or save it without'
      ' compression'
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


def _unpickle(path: Path, data: bytes) -> Any:
  """What a pickle describes with dicts, lists, tuples, numbers, text and tensors.

  Not pickle.Unpickler, of which ten bytes take gigabytes (the number of a memo) and a few million crash Python (tuples
  in tuples as a key), whatever it is allowed to import.
  """
  stack, marks, memo = [], [], {}

  def take(count: int) -> list:
    if count > len(stack) - (marks[-1] if marks else 0):
      raise ValueError('its pickle takes what is not there')
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken

  def take_marked() -> list:
    taken = stack[marks[-1] :]
    del stack[marks.pop() :]
    return taken

  for instruction, given, _ in pickletools.genops(data):
    match instruction.name:
      case 'PROTO' | 'FRAME':
        pass
      case 'STOP':
        return take(1)[0]
      case 'MARK':
        marks.append(len(stack))
      case 'PUT' | 'BINPUT' | 'LONG_BINPUT':
        memo[given] = stack[-1]
      case 'MEMOIZE':
        memo[len(memo)] = stack[-1]
      case 'GET' | 'BINGET' | 'LONG_BINGET':
        stack.append(memo[given])
      case 'NEWTRUE' | 'NEWFALSE':
        stack.append(instruction.name == 'NEWTRUE')
      case name if name in PICKLED:
        stack.append(given)
      case 'EMPTY_TUPLE' | 'EMPTY_LIST' | 'EMPTY_DICT':
        stack.append({'EMPTY_TUPLE': tuple, 'EMPTY_LIST': list, 'EMPTY_DICT': dict}[instruction.name]())
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        stack.append(tuple(take(int(instruction.name[-1]))))
      case 'TUPLE':
        stack.append(tuple(take_marked()))
      case 'APPEND' | 'APPENDS':
        values = take(1) if instruction.name == 'APPEND' else take_marked()
        _exactly(list, stack[-1]).extend(values)
      case 'SETITEM' | 'SETITEMS':
        values = take(2) if instruction.name == 'SETITEM' else take_marked()
        for key, value in zip(values[::2], values[1::2], strict=True):
          if not isinstance(key, (str, int, float)):
            raise ValueError(f'a {type(key).__name__} as a key')
          _exactly(dict, stack[-1])[key] = value
      case 'GLOBAL':
        stack.append(_imported(path, *given.split(' ', 1)))
      case 'STACK_GLOBAL':
        stack.append(_imported(path, *take(2)))
      case 'BINPERSID':
        stack.append(_storage(take(1)[0]))
      case 'REDUCE':
        make, values = take(2)
        if make not in (_ordered, _tensor, _parameter):
          raise ValueError(f'its pickle calls a {type(make).__name__}')
        stack.append(make(*_exactly(tuple, values)))
      case 'BUILD':  # a state dict's _metadata
        take(1)
        _exactly(dict, stack[-1])
      case name:
        raise MixerError(
          f'{path} has the pickle instruction {name}, which a state dict does not need, so reading it might run code,'
          f' which is not done here; {CONVERT.format(path=str(path))}'
        )


def _exactly(kind: type, value: Any) -> Any:
  if type(value) is not kind:
    raise ValueError(f'its pickle has a {type(value).__name__} in the place of a {kind.__name__}')
  return value


def _imported(path: Path, module: Any, name: Any) -> Any:
  """What stands here for a name that a pickle imports."""
  if (module, name) in IMPORTED:
    return IMPORTED[module, name]
  if module == 'torch' and name in STORAGES:
    return STORAGES[name]
  raise MixerError(
    f'{path} asks for the Python object {f"{module}.{name}"!r:.200}, so reading it would run code, which is not done'
    f' here; {CONVERT.format(path=str(path))}'
  )


def _storage(described: Any) -> tuple:
  kind, dtype, key, _, count = described
  if kind != 'storage' or not _is_storage((dtype, key, count)):
    raise ValueError('a tensor of it has a storage of no known kind')
  return dtype, key, count


def _is_storage(value: Any) -> bool:
  if not isinstance(value, tuple) or len(value) != 3:
    return False
  dtype, key, count = value
  return isinstance(dtype, str) and dtype in STORAGES.values() and isinstance(key, str) and type(count) is int


def _ordered() -> dict:
  return {}


def _tensor(storage: Any, start: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
  whole = lambda values: isinstance(values, tuple) and all(type(v) is int and v >= 0 for v in values)
  if not (_is_storage(storage) and whole((start,)) and whole(shape) and whole(strides)):
    raise ValueError('a tensor of it is not described by numbers')
  if len(shape) != len(strides):
    raise ValueError(f'a tensor of it has the shape {shape} and the strides {strides}')
  reach = start + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) + 1
  if math.prod(shape) > storage[2] or (math.prod(shape) and reach > storage[2]):
    raise ValueError(f'a tensor of it of shape {shape} is larger than its storage of {storage[2]:,}')
  return _Tensor(storage, start, shape, strides)


def _parameter(tensor: Any, *_: Any) -> _Tensor:
  return _exactly(_Tensor, tensor)


IMPORTED = {
  ('collections', 'OrderedDict'): _ordered,
  ('torch._utils', '_rebuild_tensor_v2'): _tensor,
  ('torch._utils', '_rebuild_parameter'): _parameter,
}


def _read_pth(path: Path) -> Archive:
  with path.open('rb') as file:
    if file.read(1) == b'\x80':  # a bare pickle
      raise MixerError(
        f'{path} is a bare pickle, as PyTorch before 1.6 saved, but only the zip of later ones is read here;'
        f' {CONVERT.format(path=str(path))}'
      )
  with zipfile.ZipFile(path) as archive:
    _check_members(path, archive.infolist())
    members = {member.filename: member for member in archive.infolist()}
    found = [name for name in members if name.endswith('/data.pkl') or name == 'data.pkl']
    if len(found) != 1:
      raise ValueError(f'it has {len(found)} files data.pkl, not one')
    if members[found[0]].file_size > MOST_PICKLE:
      raise MixerError(
        f'{path} has {members[found[0]].file_size:,} bytes of names, more than {MOST_PICKLE:,}; save model.state_dict()'
      )
    folder = found[0].removesuffix('data.pkl')
    order = archive.read(f'{folder}byteorder').decode() if f'{folder}byteorder' in members else 'little'
    if order not in ('little', 'big'):
      raise ValueError(f'the byte order {order!r:.80}')
    content = _unpickle(path, archive.read(found[0]))
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
      raise MixerError(f'{path}: {name!r:.80} is no tensor; save model.state_dict() and nothing else')
    yield name, value


def _read_storage(path: Path, member: zipfile.ZipInfo, tensor: _Tensor, order: str) -> np.ndarray:
  with zipfile.ZipFile(path) as archive, archive.open(member) as file:
    data = file.read(member.file_size)
  dtype = np.dtype(ml_dtypes.bfloat16 if tensor.storage[0] == 'bfloat16' else tensor.storage[0])
  flat = np.frombuffer(data, dtype)
  flat = flat.byteswap() if order == 'big' else flat
  # Within the storage, by the check of _tensor.
  strides = [stride * dtype.itemsize for stride in tensor.strides]
  return np.lib.stride_tricks.as_strided(flat[tensor.start :], tensor.shape, strides).copy()


READERS = {
  '.npz': _read_npz, '.safetensors': _read_safetensors, '.pth': _read_pth, '.pt': _read_pth, '.bin': _read_pth,
}  # fmt: skip
