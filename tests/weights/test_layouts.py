"""Prefixes of names, training checkpoints and sides of one, in all layouts."""

import numpy as np
import pytest
import weight_files as files

from mixer_jax.errors import MixerError
from mixer_jax.weights import reading

OURS = files.mixer()
LAYOUTS = {
  'original': (files.original, 'w.npz'),
  'older original': (files.older, 'w.npz'),
  'timm': (files.timm, 'w.safetensors'),
}


def write(path, arrays):
  if path.suffix == '.npz':
    np.savez(path, **arrays)
  else:
    kinds = {'float32': 'F32', 'int64': 'I64'}
    path.write_bytes(
      files.safetensors({k: (kinds[x.dtype.name], list(x.shape), x.tobytes()) for k, x in arrays.items()})
    )
  return path


def refused(path, part):
  with pytest.raises(MixerError, match=part):
    reading.read(str(path))


def check(weights, ours=OURS):
  assert weights.arrays.keys() == ours.keys()
  for name, x in ours.items():
    np.testing.assert_array_equal(weights.arrays[name], x, name)


@pytest.mark.parametrize('prefix', ['optimum.', 'net.net.net.net.', 'opt/', 'params.', 'params/params/'])
def test_other_prefixes(tmp_path, prefix):
  for make, name in LAYOUTS.values():
    refused(write(tmp_path / name, {prefix + k: x for k, x in make(OURS).items()}), 'holds no Mixer by the')


@pytest.mark.parametrize(
  'kind, prefix, states',
  [
    ('original', 'opt/target/', ('opt/state/step', 'opt/state/param_states/stem/kernel/grad_ema')),
    ('older original', 'opt/target/', ('opt/state/step', 'extra/accum_train_time')),
    ('original', 'target/', ('state/step', 'epoch')),
    ('original', 'params/', ('opt/0/mu/stem/kernel', 'opt/0/count', 'step')),
    ('timm', 'module.', ('n_averaged',)),
  ],
)
def test_training_checkpoints(tmp_path, kind, prefix, states):
  make, name = LAYOUTS[kind]
  arrays = {prefix + k: x for k, x in make(OURS).items()}
  path = write(tmp_path / name, arrays | {state: np.zeros(3, np.int64) for state in states})
  weights = reading.read(str(path))
  check(weights)
  read = f'read {prefix[:-1]} of a training checkpoint, left out {len(states)} arrays that only training needs'
  assert f'{read}, such as {min(states)}' in weights.notes
  write(path, arrays | {'more': np.zeros(3, np.float32)})
  refused(path, 'extra more')


@pytest.mark.parametrize(
  'sizes', [{'tokens': 1}, {'classes': 1}, {'tokens': 1, 'classes': 1, 'hidden': 1}, {'blocks': 1}]
)
@pytest.mark.parametrize('kind', LAYOUTS)
def test_sides_of_one(tmp_path, kind, sizes):
  make, name = LAYOUTS[kind]
  ours = files.mixer(**sizes)
  weights = reading.read(str(write(tmp_path / name, make(ours))))
  check(weights, ours)
  assert weights.tokens == sizes.get('tokens', files.TOKENS)
  assert weights.data['classes'] == sizes.get('classes', files.CLASSES)
