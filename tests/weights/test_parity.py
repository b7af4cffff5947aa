"""Against timm (tests/make_timm_golden.py): names and shapes of all seven sizes, numbers of two, files of torch."""

import functools
import importlib.util
import json
import zlib
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import optax
import pytest
import safetensors.numpy
from flax import nnx

from mixer_jax.models import params as network
from mixer_jax.models.mixer import SIZES, MlpMixer
from mixer_jax.weights import layouts, reading

GOLDEN = Path(__file__).parents[1] / 'golden'
PARAMETERS = {
  'S/32': 19_104_624, 'S/16': 18_528_264, 'B/32': 60_293_428, 'B/16': 59_880_472, 'L/32': 206_939_264,
  'L/16': 208_196_168, 'H/14': 432_350_952,
}  # fmt: skip


def weight(name, shape):
  """As in make_timm_golden.py."""
  drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
  if len(shape) == 1:
    return (1 + 0.1 * drawn if 'norm' in name and name.endswith('weight') else 0.1 * drawn).astype(np.float32)
  return (drawn / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@functools.cache
def of_timm():
  return {
    size: {k: tuple(v) for k, v in of.items()} for size, of in json.loads((GOLDEN / 'timm.json').read_text()).items()
  }


def split(size, **more):
  make = lambda: MlpMixer(image=(224, 224, 3), classes=1000, **SIZES[size] | more, rngs=nnx.Rngs(0))
  return nnx.split(nnx.eval_shape(make), nnx.Param)


@pytest.mark.parametrize('size', SIZES)
def test_structure(size):
  """Every name of timm's is one of ours and the other way round, with the shape that the layout says."""
  ours, theirs = network.shapes(split(size, scan=True)[1]), of_timm()[size]
  names = layouts.names('timm', SIZES[size]['blocks'])
  assert set(names) == set(ours) and set(names.values()) == set(theirs)
  patch = SIZES[size]['patch']
  for name, shape in ours.items():
    expected = (shape[1], 3, patch, patch) if name == 'stem.kernel' else shape[::-1]
    assert theirs[names[name]] == expected, name
  assert sum(map(np.prod, theirs.values())) == PARAMETERS[size]


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN / 'timm.npz', allow_pickle=False) as file:
    return dict(file)


@pytest.fixture(scope='module')
def images():
  random = np.random.default_rng(0)
  return random.standard_normal((2, 224, 224, 3), np.float32), random.integers(0, 1000, 2)


def near(found, expected, tolerance=1e-4):
  """Within a part of the largest number."""
  np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize('size, gelu, file', [
  ('S/32', 'exact', 'w.safetensors'), ('S/32', 'tanh', 'old.npz'), ('S/16', 'tanh', 'w.npz'),
  pytest.param('S/32', 'tanh', 'w.npz', marks=pytest.mark.nightly),
  pytest.param('S/16', 'exact', 'w.safetensors', marks=pytest.mark.nightly),
])  # fmt: skip
def test_outputs_and_gradients(size, gelu, file, golden, images, tmp_path):
  """Read from a file in each layout; the published .npz is of the tanh GELU."""
  given = {name: weight(name, shape) for name, shape in of_timm()[size].items()}
  blocks, patch = SIZES[size]['blocks'], SIZES[size]['patch']
  names = layouts.names('timm', blocks)
  if file.endswith('.npz'):
    layout = 'original' if file == 'w.npz' else 'older original'
    ours = {name: layouts.to_ours('timm', name, given[theirs]) for name, theirs in names.items()}
    np.savez(tmp_path / file, **layouts.from_ours(layout, ours, blocks, (patch, patch, 3)))
  else:
    safetensors.numpy.save_file(given, tmp_path / file)
  weights = reading.read(str(tmp_path / file))
  assert weights.model['gelu'] == gelu and weights.image == (224, 224, 3)
  assert {k: weights.model[k] for k in SIZES[size]} == SIZES[size]
  graphdef, params = split(size, gelu=gelu)
  params = network.place(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params), weights.arrays)
  image, label = images

  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss(params):
    logits, named = nnx.merge(graphdef, params)(image, intermediates=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), named

  (value, named), grads = jax.jit(loss)(params)
  at = lambda what: golden[f'{size}/{gelu}/{what}']
  near(named['logits'], at('logits'))
  near(named['pre_logits'], at('pre_logits'))
  np.testing.assert_allclose(value, at('loss'), rtol=1e-5)
  theirs = layouts.from_ours('timm', network.arrays(grads), blocks, (patch, patch, 3))
  largest = at('norms').max()
  for i, name in enumerate(sorted(of_timm()[size])):
    array = theirs[name]
    if name.endswith('mlp_tokens.fc2.bias'):  # no gradient in exact arithmetic: the next LayerNorm takes it out
      assert np.abs(array).max() < 1e-6 * largest and at('norms')[i] < 1e-12
      continue
    np.testing.assert_allclose(np.linalg.norm(array), at('norms')[i], rtol=1e-4, err_msg=name)
    where = np.random.default_rng(zlib.crc32(name.encode()) + 1).integers(0, array.size, 8)
    found, scale = np.ascontiguousarray(array).reshape(-1)[where], np.abs(array).max()
    np.testing.assert_allclose(found, at('entries')[i], rtol=0, atol=1e-4 * scale, err_msg=name)


def test_bfloat16(golden, images):
  """Computed in bfloat16, eight bits of mantissa, the logits are off by a few hundredths of the largest."""
  graphdef, params = split('S/32', gelu='exact', dtype='bfloat16')
  given = {name: weight(name, shape) for name, shape in of_timm()['S/32'].items()}
  ours = {name: layouts.to_ours('timm', name, given[theirs]) for name, theirs in layouts.names('timm', 8).items()}
  params = network.place(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params), ours)
  logits = jax.jit(lambda params: nnx.merge(graphdef, params)(images[0]))(params)
  assert logits.dtype == np.float32
  near(logits, golden['S/32/exact/logits'], 0.05)
  assert np.abs(np.asarray(logits) - golden['S/32/exact/logits']).max() > 1e-4  # it is another arithmetic


def test_files_as_torch_writes_them():
  plain = reading.read(str(GOLDEN / 'timm_float32.safetensors'))
  expected = {
    name: layouts.to_ours('timm', name, weight(theirs, shape_of(theirs)))
    for name, theirs in layouts.names('timm', 1).items()
  }
  of_torch = ('timm_plain.pth', 'timm_nested.pth') if importlib.util.find_spec('torch') else ()
  for name in ('timm_float32.safetensors', *of_torch):
    found = reading.read(str(GOLDEN / name))
    assert found.kind == 'timm' and found.model == plain.model and found.data['image'] == [8, 8, 2]
    assert found.arrays.keys() == expected.keys()
    assert all(np.array_equal(found.arrays[k], expected[k]) for k in expected), name
  for kind in ('float16', 'bfloat16'):
    found = reading.read(str(GOLDEN / f'timm_{kind}.safetensors'))
    assert found.notes[-1] == f'18 arrays: {kind} -> float32'
    dtype = getattr(ml_dtypes, kind, np.float16)
    assert all(np.array_equal(found.arrays[k], expected[k].astype(dtype).astype(np.float32)) for k in expected)


def shape_of(name):
  """Of the small Mixer in make_timm_golden.py: four patches of 4x4x2, a width of 12."""
  sizes = {'stem.proj.weight': (12, 2, 4, 4), 'head.weight': (3, 12), 'head.bias': (3,)}
  of_block = {
    'mlp_tokens.fc1.weight': (6, 4), 'mlp_tokens.fc1.bias': (6,), 'mlp_tokens.fc2.weight': (4, 6),
    'mlp_tokens.fc2.bias': (4,), 'mlp_channels.fc1.weight': (48, 12), 'mlp_channels.fc1.bias': (48,),
    'mlp_channels.fc2.weight': (12, 48),
  }  # fmt: skip
  return sizes.get(name) or of_block.get(name.removeprefix('blocks.0.')) or (12,)
