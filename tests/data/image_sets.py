"""What the tests of image data sets share: no data of this machine, refusals."""

import gzip
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from mixer_jax import errors
from mixer_jax.data.images import sets

RNG = np.random.default_rng(0)
REAL = os.environ.get('MIXER_DATA_DIR')


def real(path):
  """Marks a test that reads `path` of the real data in MIXER_DATA_DIR."""
  return pytest.mark.skipif(not (REAL and (pathlib.Path(REAL) / path).exists()), reason=f'no {path} in MIXER_DATA_DIR')


def refused(*parts, call=sets.load, **kwargs):
  """Calls, and returns the one line of MixerError, which holds all `parts`."""
  with pytest.raises(errors.MixerError) as info:
    call(**kwargs)
  message = str(info.value)
  assert '\n' not in message
  for part in parts:
    assert str(part) in message, (part, message)
  return message


def digits(split='train', image=(8, 8, 1), classes=10):
  pytest.importorskip('sklearn')
  return sets.load('digits', split, image=image, classes=classes)


def idx(array):
  header = (0x800 + array.ndim, *array.shape)
  return b''.join(n.to_bytes(4, 'big') for n in header) + array.tobytes()


def write_mnist(root, name='mnist', suffix='', n=12):
  data = {}
  (root / name).mkdir(parents=True, exist_ok=True)
  for split, prefix in (('train', 'train'), ('test', 't10k')):
    images = RNG.integers(0, 256, (n, 28, 28), np.uint8)
    labels = RNG.integers(0, 10, n).astype(np.uint8)
    data[split] = images[..., None], labels
    for file, array in (('images-idx3', images), ('labels-idx1', labels)):
      content = idx(array)
      path = root / name / f'{prefix}-{file}-ubyte{suffix}'
      path.write_bytes(gzip.compress(content) if suffix else content)
  return data


def AT(root):
  return {'image': (28, 28, 1), 'classes': 10, 'data_dir': str(root)}


def write_folder(root, split='train', classes=('cat', 'dog'), n=3, suffix='png'):
  for k, name in enumerate(classes):
    (root / split / name).mkdir(parents=True)
    for i in range(n):
      pixels = np.full((6, 8, 3), 50 * k + i, np.uint8)
      Image.fromarray(pixels).save(root / split / name / f'{i}.{suffix}')


def folder(root, split='train', classes=2, image=(6, 8, 3), **kwargs):
  return sets.load(f'image_folder:{root}', split, image=image, classes=classes, **kwargs)
