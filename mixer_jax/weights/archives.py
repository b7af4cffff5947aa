"""Arrays in untrusted files: .npz, .safetensors, its shards and PyTorch's .pth; nothing in them is run.

A file is opened to a list of the arrays that it declares, by name. Arrays are read lazily, so that names and shapes
can be looked at first, and no more bytes are read than a shape has. NumPy's objects are refused. PyTorch's files are
read by torch, where it is installed, and hold tensors alone. numpy.load is not used since it reads an array before its
header can be judged, and safetensors.numpy since it has no bfloat16.

Refused, mostly unread: arrays of more than MOST_BYTES, more than MOST_ARRAYS of them, lists of names of more than
MOST_HEADER bytes, zip members that unpack to MOST_UNPACKED times the file, and pickles as `pickles` says.
"""

import contextlib
import functools
import hashlib
import io
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from mixer_jax import files
from mixer_jax.errors import MixerError, unknown
from mixer_jax.weights import pickles

MOST_BYTES = 2**33  # of all arrays of a file: 5 times the largest Mixer
MOST_ARRAYS = 10_000  # 20 times those of the largest Mixer with its optimizer's state
MOST_HEADER = 2**24  # bytes of a list of names: the directory of a zip, the header of a .safetensors
MOST_NPY_HEADER = 2**16 + 12  # the longest header that NumPy writes by itself
MOST_UNPACKED = 100  # times the size of a file; trained weights hardly shrink
FLOATS = {'float64': 8, 'float32': 4, 'float16': 2, 'bfloat16': 2}  # bytes an entry
SAFETENSORS = {'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}
STATES = ('state_dict', 'model', 'model_state_dict', 'state_dict_ema', 'model_ema')  # in training checkpoints
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
  """`arrays` by their names in the file; `notes`: its other metadata; `told`: what was left out, for the user."""

  arrays: dict[str, Array]
  notes: dict[str, str]
  told: tuple[str, ...] = ()


def end_of(name: str) -> str:
  """By which of READERS a file of that name is read, '' by none."""
  ends = [end for end in READERS if name.lower().endswith(end) and len(name) > len(end)]
  return max(ends, key=len, default='')


def read(path: Path, part: str = '') -> Archive:
  """The contents of a file of weights; refuses an unknown suffix, and a file that is missing, damaged or needs code.

  Args:
    part: which of several state dicts in a file of PyTorch's, by its key; '' for the one that is trained.
  """
  end = end_of(path.name)
  if not end:
    raise unknown('kind of weights, by the end of the name,', path.suffix or path.name, READERS)
  with _reported(path):
    with path.open('rb') as file:  # first, for the readers below say nothing of permissions
      start = file.read(files.START)
    if not start:
      raise MixerError(f'{path} is empty; download it again')
    if what := files.stand_in(start):
      raise MixerError(f'{path} is {what}')
    if start[257:262] == b'ustar' and READERS[end] is _read_torch:
      raise MixerError(f'{path} is a tar archive, not a file by torch.save; unpack it, and choose a file of it')
    archive = READERS[end](path, part) if part else READERS[end](path)
    if len(archive.arrays) > MOST_ARRAYS:
      raise ValueError(f'it has {len(archive.arrays):,} arrays, above the limit of {MOST_ARRAYS:,}')
    if odd := [name for name in archive.arrays if not name.isprintable()]:
      raise ValueError(f'the name {odd[0]!r:.80}')
    total = sum(math.prod(array.shape) * FLOATS.get(array.dtype, 0) for array in archive.arrays.values())
    if total > MOST_BYTES:
      raise MixerError(
        f'{path} declares {total:,} bytes of arrays, above the limit of {MOST_BYTES:,}; this is not a Mixer, get'
        ' another file'
      )
  guard = lambda array, name: array._replace(read=functools.partial(_checked, path, name, array))
  return archive._replace(arrays={name: guard(array, name) for name, array in archive.arrays.items()})


def checksum(path: Path) -> str:
  """SHA-256 of a file, in hexadecimals; of an index, that of its own and its shards' checksums, a line each."""
  with _reported(path):
    with path.open('rb') as file:
      found = hashlib.file_digest(file, 'sha256').hexdigest()
    if end_of(path.name) == INDEX:
      shards = sorted(set(_shards(path).values()))
      found = '\n'.join([found, *(checksum(path.with_name(shard)) for shard in shards)])
      found = hashlib.sha256(found.encode()).hexdigest()
  return found


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


class _Bounded(io.BufferedReader):
  """A file that gives MOST_HEADER bytes at a time: zipfile reads a directory of any size at once."""

  def read(self, size: int | None = -1) -> bytes:
    if size is not None and size > MOST_HEADER:
      raise ValueError(f'a part of {size:,} bytes, above the limit of {MOST_HEADER:,}')
    # All that is left is the end of a zip, which says where its directory is.
    return super().read(2**17 if size is None or size < 0 else size)


@contextlib.contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
  with _Bounded(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
    yield archive


def _read_npz(path: Path) -> Archive:
  with _zip(path) as archive:
    members = archive.infolist()
    _check_members(path, members)
    arrays = {}
    for member in members:
      with archive.open(member) as file, warnings.catch_warnings(action='ignore'):  # of headers by Python 2
        shape, dtype = _npy_header(file, member.file_size, member.filename)
      if dtype.hasobject:
        raise MixerError(
          f'{path}: {member.filename} holds Python objects, which only code could read; get a file of plain arrays'
        )
      # NumPy has no bfloat16 and writes two nameless bytes in its place.
      kind = 'bfloat16' if dtype == np.dtype('V2') else dtype.name
      name = member.filename.removesuffix('.npy')
      if name in arrays:
        raise ValueError(f'it has {name} twice')
      arrays[name] = Array(shape, kind, functools.partial(_read_member, path, member))
  return Archive(arrays, {})


def _npy_header(file: BinaryIO, length: int, name: str) -> tuple[tuple[int, ...], np.dtype]:
  """(shape, dtype) of an .npy of so many bytes; refuses one with other bytes than these take, unless of objects."""
  # NumPy reads as many bytes as a header claims to have, and judges them then.
  start = io.BytesIO(file.read(MOST_NPY_HEADER))
  version = np.lib.format.read_magic(start)
  if version not in ((1, 0), (2, 0)):
    raise ValueError(f'{name} is of version {version}')
  header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
  shape, _, dtype = header(start)
  if any(side < 0 for side in shape):
    raise ValueError(f'{name} has the shape {shape}')
  if not dtype.hasobject and start.tell() + math.prod(shape) * dtype.itemsize != length:
    raise ValueError(f'{name} has {length - start.tell():,} bytes for {shape} {dtype}')
  return shape, dtype


def read_npy(file: BinaryIO, length: int, name: str) -> np.ndarray:
  """The array of an .npy of so many bytes; raises any exception for what is none, for objects, for a wrong length."""
  _npy_header(file, length, name)
  file.seek(0)
  return np.lib.format.read_array(file, allow_pickle=False)


def _read_member(path: Path, member: zipfile.ZipInfo) -> np.ndarray:
  with _zip(path) as archive, archive.open(member) as file, warnings.catch_warnings(action='ignore'):
    array = np.lib.format.read_array(file, allow_pickle=False)
  array = array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype('V2') else array
  return array.astype(array.dtype.newbyteorder('='), copy=False)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
  """Refuses what no writer of weights makes: names twice, encryption, rare compression, contents of many times it."""
  names = [member.filename for member in members]
  if len(set(names)) < len(names):
    raise ValueError('it has a name twice')
  if any(member.flag_bits & 1 for member in members):
    raise ValueError('it is encrypted')
  if other := {m.compress_type for m in members} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
    raise ValueError(f'a compression of kind {min(other)}, which no writer of weights uses')
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
  with path.open('rb') as file:
    if (length := int.from_bytes(file.read(8), 'little')) > MOST_HEADER:
      raise ValueError(f'a header of {length:,} bytes, above the limit of {MOST_HEADER:,}')
    files.parse_json(file.read(length).decode())  # of a name twice, safetensors takes either
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


def _read_index(path: Path) -> Archive:
  """The shards that an index names, which lie beside it."""
  names = _shards(path)
  found = {shard: read(path.with_name(shard)).arrays for shard in sorted(set(names.values()))}
  lost = [f'{name} in {shard}' for name, shard in names.items() if name not in found[shard]]
  lost += [f'{name} of {shard} in the index' for shard in found for name in found[shard] if names.get(name) != shard]
  if lost:
    raise MixerError(f'{path} and its shards do not agree: there is no {", ".join(lost[:4])}; download them again')
  return Archive({name: found[shard][name] for name, shard in names.items()}, {})


def _shards(path: Path) -> dict[str, str]:
  """Name of an array -> the file that holds it."""
  index = files.load_json(path)
  names = index.get('weight_map') if isinstance(index, dict) else None
  if not isinstance(names, dict) or not names or not all(isinstance(shard, str) for shard in names.values()):
    raise ValueError('it has no weight_map from names to files')
  if odd := [name for name in names if not name.isprintable()]:
    raise ValueError(f'the name {odd[0]!r:.80}')
  if odd := [shard for shard in names.values() if not re.fullmatch(r'[\w. -]+\.safetensors', shard)]:
    raise MixerError(f'{path} names the shard {odd[0]!r:.80}, but shards are NAME.safetensors in the same folder')
  return names


def _read_torch(path: Path, part: str = '') -> Archive:
  """PyTorch's own files, by torch itself: weights_only makes tensors and plain values, and calls nothing else."""
  try:
    import torch
  except ImportError as error:
    raise MixerError(f"reading {path} needs torch: python -m pip install -e '.[torch]', or {CONVERT}") from error
  if zipfile.is_zipfile(path):
    with _zip(path) as archive:
      _check_members(path, archive.infolist())
      for member in archive.infolist():
        if member.filename.lower().endswith('.pkl'):
          with archive.open(member) as file:
            pickles.check(file.read(pickles.MOST_BYTES))
  else:  # before torch 1.6: five pickles, and the numbers
    with path.open('rb') as file:
      pickles.check(file.read(pickles.MOST_BYTES), 5)
  try:
    content = torch.load(path, map_location='cpu', weights_only=True)
  except pickle.UnpicklingError as error:
    reason = next((line for line in str(error).splitlines() if 'Unsupported' in line), str(error)).strip()[:200]
    raise MixerError(
      f'{path} is damaged or holds more than weights ({reason}), so it is not read;'
      f' {CONVERT.replace("weights_only=True", "weights_only=False")}'
    ) from error
  content, told = _state_dict(path, content, part, torch.Tensor)
  for name, value in content.items():
    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
      raise MixerError(f'{path}: {name!r:.80} is not a tensor; save model.state_dict() and nothing else')
  return Archive({name: _declared(tensor.detach()) for name, tensor in content.items()}, {}, told)


def _state_dict(path: Path, content: Any, part: str, tensor: type) -> tuple[dict, tuple[str, ...]]:
  """The state dict of a file, or of a training checkpoint the one called `part`, and what else is there, in words."""
  has_tensors = lambda value: isinstance(value, dict) and any(isinstance(v, tensor) for v in value.values())
  states = [key for key, value in content.items() if has_tensors(value)] if isinstance(content, dict) else []
  states = [key for key in (*STATES, *states) if key in states and isinstance(key, str) and key.isprintable()]
  states = list(dict.fromkeys(states))
  if part and part not in states:
    raise unknown(f'part of {path}', part, states)
  if not part and has_tensors(content):
    return content, ()
  if not states:
    raise MixerError(f'{path} does not hold a state dict, names and their tensors; save model.state_dict()')
  if not part and states[0] not in STATES and len(states) > 1:
    raise MixerError(f'{path} holds several networks: {", ".join(states[:8])}; choose one, as {path}#{states[0]}')
  chosen = part or states[0]
  others = sorted(str(key) for key in content if key != chosen and str(key).isprintable())
  told = f'read {chosen} of the checkpoint' + (f', not {", ".join(others[:8])}' if others else '')
  if len(others) > 8:
    told += f', ... ({len(others)} in all)'
  if others := [state for state in states if state != chosen]:
    told += f'; {path}#{others[0]} would read {others[0]}'
  return content[chosen], (told,)


def _declared(tensor: Any) -> Array:
  dtype = str(tensor.dtype).removeprefix('torch.')
  # NumPy has no bfloat16; by way of float32 no bit is lost.
  read = lambda: (tensor.float().numpy().astype(ml_dtypes.bfloat16) if dtype == 'bfloat16' else tensor.numpy()).copy()
  return Array(tuple(tensor.shape), dtype, read)


INDEX = '.safetensors.index.json'
READERS = {
  '.npz': _read_npz, '.safetensors': _read_safetensors, INDEX: _read_index,
  **dict.fromkeys(('.pth', '.pth.tar', '.pt', '.bin', '.ckpt'), _read_torch),
}  # fmt: skip
