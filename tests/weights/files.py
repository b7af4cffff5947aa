"""Files of weights as others write them, made without their libraries."""

import io
import struct
import zipfile

import ml_dtypes
import numpy as np
import safetensors.numpy
from flax import nnx

from mixer_jax.models.mixer import MlpMixer
from mixer_jax.weights import layouts, network

SIZES = {'hidden': 6, 'blocks': 2, 'token_mlp': 5, 'channel_mlp': 7}
IMAGE, PATCH, CLASSES = (6, 6, 3), 2, 4
STORAGES = {'float32': 'FloatStorage', 'float16': 'HalfStorage', 'bfloat16': 'BFloat16Storage', 'int64': 'LongStorage'}


def mixer_arrays(**changes) -> dict[str, np.ndarray]:
  """Random arrays of a small Mixer, by our names."""
  make = lambda: MlpMixer(image=IMAGE, patch=PATCH, classes=CLASSES, **SIZES | changes, rngs=nnx.Rngs(0))
  random = np.random.default_rng(0)
  shapes = network.shapes(nnx.state(nnx.eval_shape(make), nnx.Param))
  return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def theirs(layout: str, arrays: dict, dtype=np.float32) -> dict[str, np.ndarray]:
  given = layouts.from_ours(layout, arrays, SIZES['blocks'], (PATCH, PATCH, IMAGE[2]))
  return {name: array.astype(dtype) for name, array in given.items()}


def write_npz(path, arrays):
  with path.open('wb') as file:
    np.savez(file, **arrays)


def write_safetensors(path, arrays):
  path.write_bytes(safetensors.numpy.save(arrays))


# ---- torch's own format, opcode by opcode


def text(value: str) -> bytes:
  return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def number(value: int) -> bytes:
  return b'J' + struct.pack('<i', value)


def several(*parts: bytes) -> bytes:
  return b'(' + b''.join(parts) + b't'


def name_of(module: str, name: str) -> bytes:
  return f'c{module}\n{name}\n'.encode()


EMPTY = name_of('collections', 'OrderedDict') + b')R'


def storage(key: str, count: int, kind: str = 'FloatStorage') -> bytes:
  return several(text('storage'), name_of('torch', kind), text(key), text('cpu'), number(count)) + b'Q'


def tensor(of: bytes, start: int, shape: tuple, strides: tuple) -> bytes:
  whole = lambda values: several(*map(number, values))
  parts = several(of, number(start), whole(shape), whole(strides), b'\x89', EMPTY)
  return name_of('torch._utils', '_rebuild_tensor_v2') + parts + b'R'


def named(items: dict[str, bytes]) -> bytes:
  return EMPTY + b'(' + b''.join(text(name) + value for name, value in items.items()) + b'u'


def pack(path, content: bytes, storages: dict[str, bytes], **more: bytes) -> None:
  """A file of torch.save: the pickle `content`, its storages, and whatever else."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', b'\x80\x02' + content + b'.')
    for key, data in storages.items():
      archive.writestr(f'archive/data/{key}', data)
    for name, data in more.items():
      archive.writestr(f'archive/{name}', data)


def write_pth(path, arrays, wrap=lambda state: state):
  """A state dict, as torch.save writes it."""
  items, storages = {}, {}
  for i, (name, array) in enumerate(arrays.items()):
    strides = tuple(stride // array.itemsize for stride in array.strides)
    items[name] = tensor(storage(str(i), array.size, STORAGES[array.dtype.name]), 0, array.shape, strides)
    storages[str(i)] = array.tobytes()
  pack(path, wrap(named(items)), storages, version=b'3\n', byteorder=b'little')


WRITERS = {'.npz': ('original', write_npz), '.safetensors': ('timm', write_safetensors), '.pth': ('timm', write_pth)}
BFLOAT16 = ml_dtypes.bfloat16


def npz_bytes(**arrays) -> bytes:
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()
