"""Arrays in untrusted files: .npz, .safetensors and PyTorch's .pth; nothing in them is run.

A file is opened to a list of the arrays that it declares, by name. Arrays are read lazily, so that names and shapes
can be looked at first, and no more bytes are read than a shape has. NumPy's objects are refused. PyTorch's files are
read by torch, where it is installed, and hold tensors alone. numpy.load is not used since it reads an array before its
header can be judged, and safetensors.numpy since it has no bfloat16.
"""

import contextlib
import functools
import hashlib
import math
import pickle
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
FLOATS = {'float64': 8, 'float32': 4, 'float16': 2, 'bfloat16': 2}  # bytes an entry
SAFETENSORS = {'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}
CONVERT = (
  'convert it where torch is and the file is trusted: w = torch.load(FILE, weights_only=True);'
  " w = w.get('state_dict', w.get('model', w));"
  " safetensors.torch.save_file({k: v.contiguous().clone() for k, v in w.items()}, 'weights.safetensors')"
)


class Array(NamedTuple):
  """What a file declares of an array; `read()` gives it, of that shape and dtype."""

  shape: tuple[int, ...]
  dtype: str  # NumPy's name, or bfloat16
  read: Callable[[], np.ndarray]


class Archive(NamedTuple):
  """`arrays` by their names in the file; `notes`: the file's other metadata."""

  arrays: dict[str, Array]
  notes: dict[str, str]


def read(path: Path) -> Archive:
  """The contents of a file of weights; refuses an unknown suffix, and a file that is missing, damaged or needs code."""
  reader = READERS.get(path.suffix.lower())
  if reader is None:
    raise unknown('kind of weights, by the end of the name,', path.suffix or path.name, READERS)
  with _reported(path):
    with path.open('rb') as file:  # first, for the readers below say nothing of permissions
      if not file.read(1):
        raise MixerError(f'{path} is empty; download it again')
    archive = reader(path)
    if odd := [name for name in archive.arrays if not name.isprintable()]:
      raise ValueError(f'the name {odd[0]!r:.80}')
    total = sum(math.prod(array.shape) * FLOATS.get(array.dtype, 0) for array in archive.arrays.values())
    if total > MOST_BYTES:
      raise MixerError(
        f'{path} declares {total:,} bytes of arrays, above the limit of {MOST_BYTES:,}; this is not a Mixer, get'
        ' another file'
      )
  guard = lambda array, name: array._replace(read=functools.partial(_checked, path, name, array))
  return Archive({name: guard(array, name) for name, array in archive.arrays.items()}, archive.notes)


def checksum(path: Path) -> str:
  """SHA-256 of a file, in hexadecimals."""
  with _reported(path), path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _checked(path: Path, name: str, array: Array) -> np.ndarray:
  with _reported(path):
    value = array.read()
  if value.shape != array.shape or value.dtype.name != array.dtype:
    raise MixerError(f'{path}: {name} is {value.dtype} {value.shape}, but was declared as {array.dtype} {array.shape}')
  return value


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
  """Turns read errors into one-line MixerErrors."""
  try:
    yield
  except MixerError:
    raise
  except FileNotFoundError as error:
    raise MixerError(f'there is no file {path}; look at the path') from error
  except OSError as error:
    raise MixerError(f'{path} cannot be read ({error.strerror or error}); fix it, or choose another file') from error
  except MemoryError as error:
    raise MixerError(f'{path} holds more than the memory here; choose another file') from error
  except Exception as error:  # A reader can raise anything on unexpected bytes.
    reason = (str(error).strip().splitlines() or [''])[0][:300] or type(error).__name__
    raise MixerError(f'{path} is damaged, or not the kind that its name says ({reason}); download it again') from error


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
          shape, _, dtype = header(file)
        if dtype.hasobject:
          raise MixerError(
            f'{path}: {member.filename} holds Python objects, which only code could read; get a file of plain arrays'
          )
        if any(side < 0 for side in shape):
          raise ValueError(f'{member.filename} has the shape {shape}')
        size = math.prod(shape) * dtype.itemsize
        if file.tell() + size != member.file_size:
          raise ValueError(f'{member.filename} has {member.file_size - file.tell():,} bytes for {shape} {dtype}')
      # NumPy has no bfloat16 and writes two nameless bytes in its place.
      kind = 'bfloat16' if dtype == np.dtype('V2') else dtype.name
      name = member.filename.removesuffix('.npy')
      if name in arrays:
        raise ValueError(f'it has {name} twice')
      arrays[name] = Array(shape, kind, functools.partial(_read_member, path, member))
  return Archive(arrays, {})


def _read_member(path: Path, member: zipfile.ZipInfo) -> np.ndarray:
  with zipfile.ZipFile(path) as archive, archive.open(member) as file, warnings.catch_warnings(action='ignore'):
    array = np.lib.format.read_array(file, allow_pickle=False)
  array = array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype('V2') else array
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
      f'{path} would unpack to {total:,} bytes, above the limit of {MOST_BYTES:,}; this is not a Mixer, get another'
      ' file'
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
  kind = lambda dtype: SAFETENSORS.get(dtype, dtype.lower().replace('i', 'int').replace('u', 'uint'))

  def read(name):
    with safetensors.safe_open(path, 'numpy') as file:
      return file.get_tensor(name)

  arrays = {name: Array(shape, kind(dtype), functools.partial(read, name)) for name, (shape, dtype) in shapes.items()}
  return Archive(arrays, notes)


def _read_torch(path: Path) -> Archive:
  """PyTorch's own files, by torch itself: weights_only makes tensors and plain values, and calls nothing else."""
  try:
    import torch
  except ImportError as error:
    raise MixerError(f"reading {path} needs torch: python -m pip install -e '.[torch]', or {CONVERT}") from error
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      _check_members(path, archive.infolist())
  try:
    content = torch.load(path, map_location='cpu', weights_only=True)
  except pickle.UnpicklingError as error:
    reason = next((line for line in str(error).splitlines() if 'Unsupported' in line), str(error)).strip()[:200]
    raise MixerError(
      f'{path} is damaged or holds more than weights ({reason}), so it is not read; {CONVERT}'
    ) from error
  for key in ('state_dict', 'model'):  # where the named tensors may lie
    if isinstance(content, dict) and isinstance(content.get(key), dict):
      content = content[key]
  if not isinstance(content, dict) or not any(isinstance(value, torch.Tensor) for value in content.values()):
    raise MixerError(f'{path} does not hold a state dict, names and their tensors; save model.state_dict()')
  for name, value in content.items():
    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
      raise MixerError(f'{path}: {name!r:.80} is not a tensor; save model.state_dict() and nothing else')
  return Archive({name: _declared(tensor.detach()) for name, tensor in content.items()}, {})


def _declared(tensor: Any) -> Array:
  dtype = str(tensor.dtype).removeprefix('torch.')
  # NumPy has no bfloat16; by way of float32 no bit is lost.
  read = lambda: (tensor.float().numpy().astype(ml_dtypes.bfloat16) if dtype == 'bfloat16' else tensor.numpy()).copy()
  return Array(tuple(tensor.shape), dtype, read)


READERS = {
  '.npz': _read_npz, '.safetensors': _read_safetensors, '.pth': _read_torch, '.pt': _read_torch, '.bin': _read_torch,
}  # fmt: skip
