"""The Mixer against PyTorch (tests/make_golden.py), against itself, and every refusal."""

import functools
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import nnx
from networks import flat, images, loss_and_gradients, randomise, run

from mixer_jax.errors import MixerError
from mixer_jax.models import MODELS
from mixer_jax.models.mixer import SIZES, MlpMixer

ROOT = Path(__file__).parents[2]
# spec: run with timm 1.0 at 224x224x3 and 1000 classes.
PARAMETERS = {
  'S/32': 19_104_624,
  'S/16': 18_528_264,
  'B/32': 60_293_428,
  'B/16': 59_880_472,
  'L/32': 206_939_264,
  'L/16': 208_196_168,
  'H/14': 432_350_952,
}
# No two sizes are equal, so that no transposition goes unseen: 6 tokens of 48 pixels.
SMALL = {
  'image': (12, 8, 3), 'classes': 5,
  'patch': 4, 'hidden': 16, 'blocks': 2, 'token_mlp': 10, 'channel_mlp': 24,
}  # fmt: skip


def make(seed=0, **settings):
  return MlpMixer(**{**SMALL, **settings}, rngs=nnx.Rngs(seed))


def shapes(**settings):
  return networks.shapes(lambda: make(**settings))


def start(**settings):
  return networks.start(lambda: make(**settings))


# Parameter counts


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize('size', SIZES)
def test_parameters_of_the_published_sizes(size, scan):
  make = lambda: MlpMixer(image=(224, 224, 3), classes=1000, **SIZES[size], scan=scan, rngs=nnx.Rngs(0))
  assert networks.count(make) == PARAMETERS[size]


def test_every_size_has_a_count():
  assert SIZES.keys() == PARAMETERS.keys()


# The same numbers as PyTorch

BLOCK = {
    'ln_tokens': 'token_norm', 'tokens_in': 'token_mixing/fc1', 'tokens_out': 'token_mixing/fc2',
    'ln_channels': 'channel_norm', 'channels_in': 'channel_mixing/fc1', 'channels_out': 'channel_mixing/fc2',
}  # fmt: skip
OUTSIDE = {'conv': 'stem', 'ln_last': 'pre_head_norm', 'classifier': 'head'}


def ours(name, value):
  """A parameter of the torch model -> (name, value) here."""
  layer, kind = name.rsplit('.', 1)
  block = re.fullmatch(r'layers\.(\d+)\.(.*)', layer)
  layer = f'blocks/{block[1]}/{BLOCK[block[2]]}' if block else OUTSIDE[layer]
  if kind == 'bias':
    return f'{layer}/bias', value
  if value.ndim == 4:  # [outputs, channels, height, width] of the patch
    return f'{layer}/kernel', value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
  return (f'{layer}/kernel', value.T) if value.ndim == 2 else (f'{layer}/scale', value)


@pytest.mark.parametrize('gelu', ['tanh', 'exact'])
def test_logits_loss_and_every_gradient_are_those_of_torch(gelu):
  with np.load(ROOT / 'tests' / 'golden' / 'paper.npz', allow_pickle=False) as file:
    golden = dict(file)
  # It moves all channels of a token alike, which every later LayerNorm, the last one too, takes out.
  is_zero = lambda name: re.fullmatch(r'blocks/\d+/token_mixing/fc2/bias', name)
  networks.check_golden(lambda: make(gelu=gelu), golden, ours, gelu, is_zero)


def test_the_gelus_differ_by_more_than_the_tolerance():
  with np.load(ROOT / 'tests' / 'golden' / 'paper.npz', allow_pickle=False) as golden:
    assert np.abs(golden['tanh/logits'] - golden['exact/logits']).max() > 5e-5


# The same numbers in every form


def test_scanned_and_recomputed_blocks_give_the_same():
  others = [{'scan': True}, {'remat': True}, {'scan': True, 'remat': True}]
  networks.check_forms(make, others, jnp.arange(8) % SMALL['classes'])


@pytest.mark.parametrize(
  'image, patch, tokens',
  [
    ((8, 8, 1), 4, 4),
    ((6, 8, 5), (3, 2), 8),
    ((4, 20, 3), (2, 5), 8),
    ((7, 3, 2), (7, 3), 1),
    ((3, 2, 13), 1, 6),
  ],
)
def test_any_channels_images_and_patches(image, patch, tokens):
  graphdef, params = shapes(image=image, patch=patch)
  logits, named = run(graphdef, randomise(params), images(2, image))
  assert logits.shape == (2, 5) and named['stem'].shape == (2, tokens, 16)
  assert np.isfinite(logits).all()


def test_token_order_is_only_in_the_token_mlps():
  graphdef, params = shapes()
  params = randomise(params)
  image, order = np.asarray(images()), np.random.default_rng(1).permutation(6)
  patches = image.reshape(4, 3, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(4, 6, 4, 4, 3)[:, order]
  moved = patches.reshape(4, 3, 2, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(image.shape)

  def permute(path, leaf):
    match path[-3:]:
      case ('token_mixing', 'fc1', 'kernel'):
        return leaf[order]
      case ('token_mixing', 'fc2', _):
        return leaf[..., order]
    return leaf

  expected = run(graphdef, params, image)[0]
  assert np.abs(run(graphdef, params, moved)[0] - expected).max() > 0.01
  np.testing.assert_allclose(run(graphdef, nnx.map_state(permute, params), moved)[0], expected, atol=1e-5)


def test_examples_do_not_see_each_other():
  graphdef, params = shapes(dropout=0.3, stochastic_depth=0.3)
  params, key = randomise(params), jax.random.key(0)
  image = images()
  other = image.at[0].set(image[1])
  np.testing.assert_allclose(
    run(graphdef, params, image, key)[0][1:], run(graphdef, params, other, key)[0][1:], atol=1e-6
  )


# The start


def test_logits_start_as_the_bias_of_the_head():
  graphdef, params = start(head_bias=-6.9)
  np.testing.assert_array_equal(run(graphdef, params, images())[0], np.full((4, 5), -6.9, np.float32))


WIDE = {'hidden': 256, 'token_mlp': 300, 'channel_mlp': 280, 'patch': 1, 'blocks': 1}


def test_every_kernel_starts_with_variance_one_over_its_inputs():
  params = flat(start(**WIDE)[1])
  for name, value in params.items():
    if name.endswith('kernel') and name != 'head/kernel' and not name.startswith('stem'):
      assert value.var() == pytest.approx(1 / value.shape[0], rel=0.05), name
    elif not name.endswith('kernel'):
      np.testing.assert_array_equal(value, np.full(value.shape, name.endswith('scale')))


def test_torch_start_is_uniform_everywhere():
  params = flat(start(**WIDE, init='torch')[1])
  for name in (n.removesuffix('/kernel') for n in params if n.endswith('kernel')):
    bound = params[f'{name}/kernel'].shape[0] ** -0.5
    for value in (params[f'{name}/kernel'], params[f'{name}/bias']):
      assert np.abs(value).max() <= bound and value.std() > 0.1 * bound
    assert np.abs(params[f'{name}/kernel']).max() > 0.99 * bound


@pytest.mark.parametrize('scan', [False, True])
def test_blocks_start_different(scan):
  params = flat(start(blocks=3, scan=scan)[1])
  for layer in ('token_mixing/fc1', 'token_mixing/fc2', 'channel_mixing/fc1', 'channel_mixing/fc2'):
    name = f'{layer}/kernel'
    kernels = params[f'blocks/{name}'] if scan else [params[f'blocks/{i}/{name}'] for i in range(3)]
    assert len({k.tobytes() for k in kernels}) == 3


def test_every_layer_norm_has_the_originals_epsilon():
  norms = [m for _, m in nnx.iter_modules(nnx.eval_shape(make)) if isinstance(m, nnx.LayerNorm)]
  assert len(norms) == 5 and {m.epsilon for m in norms} == {1e-6}


# Types and intermediates


@pytest.mark.parametrize('scan', [False, True])
def test_bfloat16_keeps_float32_parameters_and_logits(scan):
  settings = {'stochastic_depth': 0.3, 'dropout': 0.1, 'scan': scan}
  graphdef, params = shapes(**settings, dtype='bfloat16')
  params, image, key = randomise(params), images(), jax.random.key(0)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  logits, named = run(graphdef, params, image, key)
  assert logits.dtype == named['pre_logits'].dtype == jnp.float32
  assert {named[k].dtype for k in ('stem', 'block_0', 'block_1')} == {jnp.dtype('bfloat16')}
  exact = run(shapes(**settings)[0], params, image, key)[0]
  error = np.abs(logits - exact).max() / np.abs(exact).max()
  assert 1e-5 < error < 0.05
  given = (params, image, jnp.zeros(4, jnp.int32), key)
  (loss, _), grads = jax.eval_shape(functools.partial(loss_and_gradients, graphdef), *given)
  assert loss.dtype == jnp.float32 and {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('scan', [False, True])
def test_intermediates_by_name(scan):
  graphdef, params = shapes(scan=scan)
  params = randomise(params)
  logits, named = run(graphdef, params, images())
  expected = {
    'stem': (4, 6, 16),
    'block_0': (4, 6, 16),
    'block_1': (4, 6, 16),
    'features': (4, 16),
    'pre_logits': (4, 16),
    'logits': (4, 5),
  }
  assert {name: value.shape for name, value in named.items()} == expected
  np.testing.assert_array_equal(named['logits'], logits)
  np.testing.assert_array_equal(named['pre_logits'], named['features'])
  values = flat(params)
  np.testing.assert_allclose(logits, named['features'] @ values['head/kernel'] + values['head/bias'], atol=1e-5)
  last = np.asarray(named['block_1'])
  last = (last - last.mean(axis=2, keepdims=True)) / np.sqrt(last.var(axis=2, keepdims=True) + 1e-6)
  last = last * values['pre_head_norm/scale'] + values['pre_head_norm/bias']
  np.testing.assert_allclose(named['features'], last.mean(axis=1), atol=1e-5)


def test_features_are_what_the_head_sees():
  graphdef, params = shapes(dropout=0.3)
  params, image, key = randomise(params), images(), jax.random.key(0)
  features = jax.jit(lambda params, key: nnx.merge(graphdef, params).features(image, rngs=nnx.Rngs(dropout=key)))
  np.testing.assert_allclose(features(params, key), run(graphdef, params, image, key)[1]['features'], atol=1e-6)


def test_logits_are_the_same_without_intermediates():
  graphdef, params = shapes()
  params, image = randomise(params), images()
  logits = loss_and_gradients(graphdef, params, image, jnp.zeros(4, jnp.int32))[0][1]
  np.testing.assert_allclose(logits, run(graphdef, params, image)[0], atol=1e-6)


# Refusals


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'patch': 5}, 'patch 5x5 does not divide the image 12x8'),
    ({'patch': (4, 3)}, 'patch 4x3 does not divide the image 12x8'),
    ({'dropout': 1.0}, r'model.dropout is 1.0, but a rate must be in \[0, 1\)'),
    ({'dropout': -0.1}, r'model.dropout is -0.1, but a rate'),
    ({'stochastic_depth': 1.0}, r'model.stochastic_depth is 1.0, but a rate'),
    ({'stochastic_depth': -0.5}, r'model.stochastic_depth is -0.5, but a rate'),
    ({'gelu': 'tan'}, "unknown GELU 'tan'; did you mean 'tanh'"),
    ({'dtype': 'float16'}, "unknown model.dtype 'float16'.* Known: bfloat16, float32"),
    ({'init': 'lecun'}, "unknown initialiser 'lecun'.* Known: original, torch"),
    ({'hidden': 0}, 'model.hidden is 0, but must be at least 1'),
    ({'blocks': 0}, 'model.blocks is 0, but must be at least 1'),
    ({'token_mlp': 0}, 'model.token_mlp is 0, but must be at least 1'),
    ({'mixing': 'token_mlp', 'token_mlp': -2}, 'model.token_mlp is -2, but must be at least 1'),
    ({'channel_mlp': -3}, 'model.channel_mlp is -3'),
  ],
)
def test_refused_when_made(settings, message):
  with pytest.raises(MixerError, match=message):
    make(**settings)


@pytest.mark.parametrize('shape', [(8, 12, 3), (12, 8, 1), (24, 16, 3)])
def test_another_image_shape_is_refused_with_both(shape):
  with pytest.raises(MixerError, match=re.escape(f'images of shape (12, 8, 3), but got {shape}')):
    nnx.eval_shape(lambda: make()(images(1, shape)))


def test_the_mixer_has_its_name():
  assert pkgutil.resolve_name(MODELS['mixer']) is MlpMixer
