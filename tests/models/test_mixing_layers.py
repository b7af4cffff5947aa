"""Mixing layers: by hand, in every model that takes one, and a user's own."""

import math

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models import layers, mixing
from mixer_jax.models.autoencoder import MixerAutoencoder, MixingAutoencoder
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.models.tabular import TabularMixer

CONTEXT = {'activation': layers.exact_gelu, 'dropout': 0.0, 'init': 'torch', 'dtype': jnp.float32}
CNNS = {'cnn': [(1, 9)], 'cnnf': [(1, 9), (1, 4)], 'cnn2d': [(3, 3)], 'cnn2df': [(3, 3), (2, 2)]}
ALL = [{'name': name, 'kernel': 3} for name in CNNS] + [{'name': 'mlp'}, {'name': 'token_mlp', 'hidden': 5}]
every_mixing = pytest.mark.parametrize('settings', ALL, ids=[settings['name'] for settings in ALL])


def make(settings, grid=(2, 2), width=9):
  return networks.randomised(lambda: mixing.make(settings, grid=grid, width=width, **CONTEXT, rngs=nnx.Rngs(1)))


def numbers(tokens, width, seed=0, batch=3):
  return np.random.default_rng(seed).normal(size=(tokens, batch, width)).astype(np.float32)


def correlate(x, kernel, bias):
  """x [channels, height, width], kernel [rows, columns, inputs, outputs]: the sum, place by place."""
  rows, columns, _, outputs = kernel.shape
  _, height, width = x.shape
  out = np.zeros((outputs, height, width))
  for o, y, z, a, b in np.ndindex(outputs, height, width, rows, columns):
    v, u = y + a - (rows - 1) // 2, z + b - (columns - 1) // 2
    if 0 <= v < height and 0 <= u < width:
      out[o, y, z] += x[:, v, u] @ kernel[a, b, :, o]
  return out + bias[:, None, None]


# Each by hand


@pytest.mark.parametrize('name', CNNS)
def test_convolutions_by_hand(name):
  layer, x = make({'name': name, 'kernel': 3}), numbers(4, 9)
  wanted = x.transpose(1, 0, 2)  # [batch, tokens, width]
  for i, (step, shape) in enumerate(zip(layer.layers, CNNS[name], strict=True)):
    flipped = i == 1  # the second one has the width as its channels
    channels = wanted.transpose(0, 2, 1) if flipped else wanted
    planes = [
      correlate(e.reshape(-1, *shape), np.asarray(step.kernel[...]), np.asarray(step.bias[...])) for e in channels
    ]
    wanted = np.stack(planes).reshape(channels.shape)
    wanted = wanted.transpose(0, 2, 1) if flipped else wanted
  np.testing.assert_allclose(jax.jit(lambda x: layer(x))(x), wanted.transpose(1, 0, 2), rtol=1e-4, atol=1e-4)


def test_linear_mixing_by_hand():
  layer, x = make('mlp', (2, 3), 5), numbers(6, 5)
  wanted = x.transpose(1, 0, 2).reshape(3, -1) @ np.asarray(layer.linear.kernel[...])
  wanted = (wanted + np.asarray(layer.linear.bias[...])).reshape(3, 6, 5).transpose(1, 0, 2)
  np.testing.assert_allclose(jax.jit(lambda x: layer(x))(x), wanted, rtol=1e-4, atol=1e-4)


def test_the_token_mlp_by_hand():
  layer, x = make({'name': 'token_mlp', 'hidden': 7}, (2, 3), 5), numbers(6, 5)
  (w1, b1), (w2, b2) = ((np.asarray(fc.kernel[...]), np.asarray(fc.bias[...])) for fc in (layer.fc1, layer.fc2))
  hidden = np.einsum('th,tbc->bch', w1, x) + b1
  hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
  found = jax.jit(lambda x: layer(x))(x)
  np.testing.assert_allclose(found, np.moveaxis(hidden @ w2 + b2, 2, 0), rtol=1e-4, atol=1e-4)


@every_mixing
def test_tokens_mix_and_examples_do_not(settings):
  layer, x = make(settings), jnp.asarray(numbers(4, 9))
  jacobian = np.asarray(jax.jit(jax.jacobian(lambda x: layer(x)))(x)) != 0  # [t, b, c, t, b, c]
  assert jacobian.any(axis=(1, 2, 4, 5)).all()  # every token sees every token
  np.testing.assert_array_equal(jacobian.any(axis=(0, 2, 3, 5)), np.eye(3, dtype=bool))


@every_mixing
def test_computes_in_bfloat16_with_float32_parameters(settings):
  context = CONTEXT | {'dtype': jnp.dtype('bfloat16')}
  make_it = lambda: mixing.make(settings, grid=(2, 2), width=9, **context, rngs=nnx.Rngs(0))
  layer, x = networks.randomised(make_it), jnp.asarray(numbers(4, 9))
  assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param))} == {jnp.dtype('float32')}
  low = jax.jit(lambda x: layer(x.astype(jnp.bfloat16)))(x)
  assert low.dtype == jnp.bfloat16
  exact = np.asarray(jax.jit(lambda x: make(settings)(x))(x))
  np.testing.assert_allclose(low.astype(jnp.float32), exact, atol=0.03 * np.abs(exact).max())
  gradient = jax.eval_shape(jax.grad(lambda x: layer(x).astype(jnp.float32).sum()), x.astype(jnp.bfloat16))
  assert gradient.dtype == jnp.bfloat16


# In every model


def mixer(settings, **others):
  hidden = {'token_mlp': settings['hidden']} if settings['name'] == 'token_mlp' else {}
  return MlpMixer(
    image=(4, 4, 2), classes=3, patch=2, hidden=9, blocks=2, channel_mlp=7, init='torch', **hidden, **others,
    mixing={key: value for key, value in settings.items() if key != 'hidden'}, rngs=nnx.Rngs(0),
  )  # fmt: skip


def mixer_autoencoder(settings):
  hidden = {'token_mlp': settings['hidden']} if settings['name'] == 'token_mlp' else {}
  return MixerAutoencoder(
    image=(4, 4, 2), patch=2, hidden=9, encoder_blocks=1, decoder_blocks=1, channel_mlp=7, bottleneck=3, code=4,
    **hidden, mixing={key: value for key, value in settings.items() if key != 'hidden'}, rngs=nnx.Rngs(0),
  )  # fmt: skip


def mixing_autoencoder(settings):
  return MixingAutoencoder(
    image=(4, 4, 2), patch=2, widths=(9, 4), code=4, after=(1, 2), mixing=settings, rngs=nnx.Rngs(0)
  )


def tabular(settings):
  name = settings['name']
  return TabularMixer(
    columns=4, vocabularies=(), outputs=2, hidden=9, blocks=2, pool='flatten',
    mixing=name if name == 'token_mlp' else settings, rngs=nnx.Rngs(0),
  )  # fmt: skip


def inputs_of(make):
  if make is tabular:
    return numbers(1, 4, batch=5)[0], np.zeros((5, 0), np.int32)
  return (np.asarray(networks.images(5, (4, 4, 2))),)


CLASSES = {name: target.rpartition(':')[2] for name, target in mixing.MIXINGS.items()}


def parameters_of(settings, grid, width):
  """By hand."""
  tokens, kernel = math.prod(grid), settings.get('kernel')
  convolution = lambda channels, taps: channels * channels * taps + channels
  return {
    'token_mlp': lambda: 2 * tokens * settings['hidden'] + settings['hidden'] + tokens,
    'mlp': lambda: (tokens * width) ** 2 + tokens * width,
    'cnn': lambda: convolution(tokens, kernel),
    'cnnf': lambda: convolution(tokens, kernel) + convolution(width, kernel),
    'cnn2d': lambda: convolution(tokens, kernel**2),
    'cnn2df': lambda: convolution(tokens, kernel**2) + convolution(width, kernel**2),
  }[settings['name']]()


@every_mixing
def test_counts_by_hand(settings):
  linear = lambda i, o: i * o + o
  block = 4 * 9 + linear(9, 7) + linear(7, 9) + parameters_of(settings, (2, 2), 9)
  assert networks.count(lambda: mixer(settings)) == linear(8, 9) + 2 * block + 2 * 9 + linear(9, 3)
  around = linear(8, 9) + linear(9, 3) + linear(12, 4) + linear(4, 12) + linear(3, 9) + linear(9, 8) + 4 * 9
  assert networks.count(lambda: mixer_autoencoder(settings)) == around + 2 * block
  around = linear(8, 9) + linear(9, 4) + linear(16, 4) + linear(4, 16) + linear(4, 9) + linear(9, 8)
  mixings = sum(2 * parameters_of(settings, (2, 2), width) for width in (9, 4))
  assert networks.count(lambda: mixing_autoencoder(settings)) == around + mixings


@pytest.mark.parametrize('make, settings', [
  *((mixer, settings) for settings in ALL), *((mixing_autoencoder, settings) for settings in ALL),
  (mixer_autoencoder, ALL[3]), (mixer_autoencoder, ALL[4]), (tabular, ALL[1]), (tabular, ALL[4]),
], ids=lambda value: value['name'] if isinstance(value, dict) else value.__name__)  # fmt: skip
def test_every_parameter_has_a_gradient_in_every_model(make, settings):
  graphdef, params = networks.shapes(lambda: make(settings))
  inputs = inputs_of(make)
  loss = lambda params: (nnx.merge(graphdef, params)(*inputs) ** 3).sum()
  grads = networks.flat(jax.jit(jax.grad(loss))(networks.randomise(params)))
  missing = {name for name, value in grads.items() if not np.abs(value).max() > 0}
  assert missing == set() and len(grads) > 10
  assert type(layer_of(make, nnx.merge(graphdef, params))).__name__ == CLASSES[settings['name']]


def layer_of(make, model):
  """The first mixing layer of a model."""
  if make is mixing_autoencoder:
    return model.encoder[1]
  return (model.encoder if make is mixer_autoencoder else model.blocks)[0].token_mixing


def test_convolutions_in_a_plane_need_a_square_of_tokens():
  with pytest.raises(MixerError, match='cnn2df needs a square grid of tokens, but this is 1x4'):
    nnx.eval_shape(lambda: tabular({'name': 'cnn2df'}))


@pytest.mark.parametrize('settings, dtype, tolerance', [(ALL[3], 'float32', 1e-5), (ALL[4], 'bfloat16', 0.05)])
def test_stacked_blocks_give_the_same(settings, dtype, tolerance):
  image = networks.images(2, (4, 4, 2))
  graphdef, params = networks.shapes(lambda: mixer(settings, dtype=dtype))
  params = networks.randomise(params)
  other, like = networks.shapes(lambda: mixer(settings, dtype=dtype, scan=True))
  nnx.replace_by_pure_dict(like, networks.stack(params, 2))
  logits, named = networks.run(graphdef, params, image)
  assert named['block_1'].dtype == dtype and logits.dtype == jnp.float32
  np.testing.assert_allclose(networks.run(other, like, image)[0], logits, atol=tolerance)


# A user's own


class Shuffle(nnx.Module):
  """Every token gets the next one, times a number."""

  def __init__(self, *, grid, width, by: float = 1.0, rngs):
    self.tokens, self.scale = grid[0] * grid[1], nnx.Param(jnp.full(width, by))

  def __call__(self, x, *, rngs=None):
    assert len(x) == self.tokens
    return jnp.roll(x, 1, axis=0) * self.scale[...]


class Shrink(nnx.Module):
  def __init__(self, *, grid, width, rngs):
    pass

  def __call__(self, x, *, rngs=None):
    return x[:1]


OWN = f'{__name__}:Shuffle'


@pytest.mark.parametrize('make', [mixer, mixer_autoencoder, mixing_autoencoder, tabular])
def test_a_users_own_stands_in_every_model(make):
  model = nnx.eval_shape(lambda: make({'name': OWN, 'by': 2.5}))
  assert type(layer_of(make, model)).__name__ == 'Shuffle'
  inputs = inputs_of(make)
  nnx.eval_shape(lambda: make({'name': OWN})(*inputs))


def test_a_users_own_by_hand():
  make_it = lambda: mixing.make({'name': OWN, 'by': 2.5}, grid=(2, 2), width=9, **CONTEXT, rngs=nnx.Rngs(0))
  layer, x = networks.build(make_it), numbers(4, 9)
  np.testing.assert_allclose(layer(x), 2.5 * np.roll(x, 1, axis=0), rtol=1e-6)


@pytest.mark.parametrize(
  'settings, message',
  [
    ('mpl', "unknown model.mixing.name 'mpl'; did you mean 'mlp'"),
    ({'kernel': 3}, 'model.mixing.name'),
    ({'name': 'cnn', 'kernal': 3}, 'no model.mixing.kernal|key model.mixing.kernal.*did you mean .kernel'),
    ({'name': 'cnn', 'kernel': 4}, 'model.mixing.kernel is 4, but must be odd'),
    ({'name': 'cnn', 'kernel': 3.0}, 'model.mixing.kernel is 3.0'),
    ({'name': 'cnn', 'grid': (1, 1)}, 'key model.mixing.grid'),
    ({'name': OWN, 'speed': 3}, 'key model.mixing.speed'),
    ('os:system', "model.mixing.name is 'os:system', but a mixing layer must be a subclass of nnx.Module"),
    ('nowhere:Mixing', "there is no module 'nowhere'"),
    ({'name': 'token_mlp'}, 'model.mixing.hidden is 0, but must be at least 1'),
  ],
)
def test_what_is_refused(settings, message):
  with pytest.raises(MixerError, match=message):
    make(settings)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'mixing': 'cnn', 'token_mlp': 3}, "model.token_mlp is 3, but does nothing with model.mixing 'cnn'; set it to 0"),
    ({'mixing': {'name': 'token_mlp', 'hidden': 3}, 'token_mlp': 3}, 'hidden is 3, but here model.token_mlp sets that'),
    ({'mixing': {'name': 'token_mlp'}}, 'model.token_mlp is 0, but must be at least 1'),
    ({'mixing': 'cnn2d'}, 'one of model.hidden or model.widths is 8; 4 and 9 are'),
    ({'mixing': 'cnn2df', 'image': (4, 8, 1), 'hidden': 9}, 'this is 2x4'),
  ],
)
def test_what_a_mixer_refuses(settings, message):
  settings = {'image': (4, 4, 1), 'classes': 3, 'patch': 2, 'hidden': 8, 'blocks': 1, 'channel_mlp': 4, **settings}
  with pytest.raises(MixerError, match=message):
    nnx.eval_shape(lambda: MlpMixer(**settings, rngs=nnx.Rngs(0)))


def test_a_tabular_mixer_refuses_an_expansion_that_does_nothing():
  settings = {'columns': 4, 'vocabularies': (), 'outputs': 1, 'hidden': 8, 'blocks': 1, 'mixing': 'cnn'}
  nnx.eval_shape(lambda: TabularMixer(**settings, rngs=nnx.Rngs(0)))
  with pytest.raises(MixerError, match="model.token_expansion is 2.0, but does nothing with model.mixing 'cnn'"):
    nnx.eval_shape(lambda: TabularMixer(**settings, token_expansion=2.0, rngs=nnx.Rngs(0)))


def test_a_mixing_layer_that_changes_the_shape_is_refused():
  give = lambda: mixer({'name': f'{__name__}:Shrink'})(networks.images(2, (4, 4, 2)))
  with pytest.raises(MixerError, match=r'gave the shape \(1, 2, 9\) for \(4, 2, 9\), but must keep it'):
    nnx.eval_shape(give)
