"""The Mixer against PyTorch (tests/make_golden.py), against itself, and every refusal."""

import functools
import itertools
import pkgutil
import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.models import MODELS
from mixer_jax.models.mixer import SIZES, MixerBlock, MlpBlock, MlpMixer
from mixer_jax.training import experiment

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
SEED = {'norm_over': 'tokens', 'first': 'channels', 'pool': 'flatten'}


def make(seed=0, **settings):
  return MlpMixer(**{**SMALL, **settings}, rngs=nnx.Rngs(seed))


def split(model):
  return nnx.split(model, nnx.Param)


def shapes(**settings):
  """Graph and parameters without their values, for tests that draw their own."""
  return split(nnx.eval_shape(lambda: make(**settings)))


def start(**settings):
  """Graph and parameters as the initialisers give them."""
  return shapes(**settings)[0], jax.jit(lambda: split(make(**settings))[1])()


def randomise(params, seed=0):
  """Every parameter random: what starts as 0 or 1 would hide a mistake."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    scale = leaf.shape[-2] ** -0.5 if path[-1] == 'kernel' else 0.3
    return jnp.asarray((path[-1] == 'scale') + scale * rng.normal(size=leaf.shape), jnp.float32)

  return nnx.map_state(draw, params)


def images(batch=4, shape=SMALL['image'], seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, *shape)), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def run(graphdef, params, image, key=None):
  """Logits and intermediates."""
  rngs = None if key is None else nnx.Rngs(dropout=key)
  return nnx.merge(graphdef, params)(image, rngs=rngs, intermediates=True)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(graphdef, params, image, label, key=None):
  def loss_fn(params):
    rngs = None if key is None else nnx.Rngs(dropout=key)
    logits = nnx.merge(graphdef, params)(image, rngs=rngs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), logits

  return jax.value_and_grad(loss_fn, has_aux=True)(params)


def flat(params):
  return {'/'.join(map(str, path)): jax.tree.leaves(leaf)[0] for path, leaf in nnx.to_flat_state(params)}


def stack(params, blocks):
  """Parameters of unrolled blocks -> those of the same blocks scanned."""
  params = nnx.to_pure_dict(params)
  params['blocks'] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params['blocks'][i] for i in range(blocks)))
  return params


# Parameter counts


def count(make):
  return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(nnx.eval_shape(make), nnx.Param)))


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize('size', SIZES)
def test_parameters_of_the_published_sizes(size, scan):
  make = lambda: MlpMixer(image=(224, 224, 3), classes=1000, **SIZES[size], scan=scan, rngs=nnx.Rngs(0))
  assert count(make) == PARAMETERS[size]


def test_every_size_has_a_count():
  assert SIZES.keys() == PARAMETERS.keys()


def test_parameters_of_the_mnist_mixer():
  config = runpy.run_path(str(ROOT / 'configs' / 'mnist.py'))['get_config']()
  assert experiment.build(configs.plain(config)).parameters == 1_379_578


# The same numbers as PyTorch

BLOCK = {
  'paper': {
    'ln_tokens': 'token_norm', 'tokens_in': 'token_mixing/fc1', 'tokens_out': 'token_mixing/fc2',
    'ln_channels': 'channel_norm', 'channels_in': 'channel_mixing/fc1', 'channels_out': 'channel_mixing/fc2',
  },
  'mnist': {
    'ln1': 'channel_norm', 'mlp1.fc1': 'channel_mixing/fc1', 'mlp1.fc2': 'channel_mixing/fc2',
    'ln2': 'token_norm', 'mlp2.fc1': 'token_mixing/fc1', 'mlp2.fc2': 'token_mixing/fc2',
  },
}  # fmt: skip
OUTSIDE = {
  'conv': 'stem', 'ln_last': 'pre_head_norm', 'classifier': 'head',
  'patch_embedding': 'stem', 'clf.0': 'head_hidden/0', 'clf.2': 'head_hidden/1', 'clf.4': 'head',
}  # fmt: skip
GOLDEN_SETTINGS = {
  'paper': {},
  'mnist': {**SEED, 'image': (12, 8, 1), 'hidden': 12, 'channel_mlp': 10, 'head': (14, 14), 'init': 'torch'},
}


def ours(model, name, value):
  """A parameter of the torch model -> (name, value) here."""
  layer, kind = name.rsplit('.', 1)
  block = re.fullmatch(r'(?:layers|mixers)\.(\d+)\.(.*)', layer)
  layer = f'blocks/{block[1]}/{BLOCK[model][block[2]]}' if block else OUTSIDE[layer]
  if kind == 'bias':
    return f'{layer}/bias', value
  if value.ndim == 4:  # [outputs, channels, height, width] of the patch
    return f'{layer}/kernel', value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
  return (f'{layer}/kernel', value.T) if value.ndim == 2 else (f'{layer}/scale', value)


@pytest.mark.parametrize('name, gelu', [('paper', 'tanh'), ('paper', 'exact'), ('mnist', 'exact')])
def test_logits_loss_and_every_gradient_are_those_of_torch(name, gelu):
  with np.load(ROOT / 'tests' / 'golden' / f'{name}.npz', allow_pickle=False) as file:
    golden = dict(file)
  torch = lambda prefix: dict(
    ours(name, key.removeprefix(prefix), value) for key, value in golden.items() if key.startswith(prefix)
  )
  weights, expected = torch('weight/'), torch(f'{gelu}/grad/')

  graphdef, params = shapes(**GOLDEN_SETTINGS[name], gelu=gelu)
  assert {k: v.shape for k, v in flat(params).items()} == {k: v.shape for k, v in weights.items()}
  params = nnx.map_state(lambda path, _: jnp.asarray(weights['/'.join(map(str, path))]), params)
  (loss, logits), grads = loss_and_gradients(graphdef, params, golden['image'], golden['label'])

  np.testing.assert_allclose(logits, golden[f'{gelu}/logits'], rtol=0, atol=1e-5)
  np.testing.assert_allclose(loss, golden[f'{gelu}/loss'], rtol=0, atol=1e-5)
  grads = flat(grads)
  assert grads.keys() == expected.keys()
  for key, value in expected.items():
    largest = np.abs(value).max()
    if name == 'paper' and re.fullmatch(r'blocks/\d+/token_mixing/fc2/bias', key):
      # It moves all channels of a token alike, which every later LayerNorm, the last one too, takes out.
      # What is left is rounding, in torch (float64) and here, and nothing to be relative to.
      assert largest < 1e-12
      largest = 1.0
    np.testing.assert_allclose(grads[key], value, rtol=0, atol=1e-5 * largest, err_msg=key)


def test_the_gelus_differ_by_more_than_the_tolerance():
  with np.load(ROOT / 'tests' / 'golden' / 'paper.npz', allow_pickle=False) as golden:
    assert np.abs(golden['tanh/logits'] - golden['exact/logits']).max() > 5e-5


# The same numbers in every form


@pytest.mark.parametrize(
  'form, others',
  [
    ({}, [{'scan': True}, {'remat': True}, {'scan': True, 'remat': True}]),
    ({**SEED, 'head': (14,)}, [{'scan': True, 'remat': True}]),
  ],
  ids=['paper', 'mnist'],
)
def test_scanned_and_recomputed_blocks_give_the_same(form, others):
  settings = {**form, 'dropout': 0.3, 'stochastic_depth': 0.5}
  graphdef, params = shapes(**settings)
  params = randomise(params)
  image, label, key = images(8), jnp.arange(8) % SMALL['classes'], jax.random.key(3)
  (loss, logits), grads = loss_and_gradients(graphdef, params, image, label, key)
  assert np.abs(logits - run(graphdef, params, image)[0]).max() > 0.01  # that dropout was on
  for other in others:
    pure = functools.partial(stack, blocks=2) if 'scan' in other else nnx.to_pure_dict
    other, like = shapes(**settings, **other)
    nnx.replace_by_pure_dict(like, pure(params))
    (other_loss, other_logits), other_grads = loss_and_gradients(other, like, image, label, key)
    np.testing.assert_allclose(other_logits, logits, atol=1e-5)
    np.testing.assert_allclose(other_loss, loss, atol=1e-5)
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, nnx.to_pure_dict(other_grads), pure(grads))


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


@pytest.mark.parametrize('head', [(), (14,)])
def test_logits_start_as_the_bias_of_the_head(head):
  graphdef, params = start(head_bias=-6.9, head=head)
  np.testing.assert_array_equal(run(graphdef, params, images())[0], np.full((4, 5), -6.9, np.float32))


WIDE = {'hidden': 256, 'token_mlp': 300, 'channel_mlp': 280, 'patch': 1, 'blocks': 1, 'head': (200,)}


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


# Dropout and stochastic depth


def test_no_rngs_no_randomness_and_other_keys_other_draws():
  graphdef, params = shapes(dropout=0.2, stochastic_depth=0.2)
  params, image = randomise(params), images()
  plain = shapes()[0]
  np.testing.assert_array_equal(run(graphdef, params, image)[0], run(plain, params, image)[0])
  draws = [run(graphdef, params, image, jax.random.key(seed))[0] for seed in (0, 1, 0)]
  assert np.abs(draws[0] - draws[1]).max() > 0.01
  np.testing.assert_array_equal(draws[0], draws[2])


def test_every_block_has_its_own_draws():
  graphdef, params = shapes(dropout=0.5, blocks=3)
  named = run(graphdef, zero_channel_mixing(randomise(params)), images(), jax.random.key(0))[1]
  outputs = [named[name] for name in ('stem', 'block_0', 'block_1', 'block_2')]
  masks = [np.asarray(a == b) for a, b in zip(outputs, outputs[1:], strict=False)]
  for mask, other in itertools.combinations(masks, 2):
    assert 0.4 < mask.mean() < 0.6 and 0.4 < (mask != other).mean() < 0.6


def zero_channel_mixing(params):
  """The second branch of every block gives 0: a block's output minus its input is the first branch."""
  zero = lambda path, leaf: leaf * 0 if path[-3:-1] == ('channel_mixing', 'fc2') else leaf
  return nnx.map_state(zero, params)


@pytest.mark.parametrize('over', ['tokens', 'channels'])
def test_dropout_after_both_linear_layers_at_its_rate(over):
  rate, x = 0.25, jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 16)), jnp.float32)
  features = 6 if over == 'tokens' else 16
  settings = {'over': over, 'activation': jax.nn.gelu, 'dropout': rate, 'init': 'torch', 'dtype': jnp.float32}
  block = jax.jit(lambda: MlpBlock(features, 12, **settings, rngs=nnx.Rngs(0)))()
  expected = jax.jit(block)(x)
  draw = lambda key: block(x, rngs=nnx.Rngs(dropout=key))
  out = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000)))
  dropped = out == 0
  # After the second layer: 4,000 draws of every entry, each known to 0.007.
  np.testing.assert_allclose(dropped.mean(axis=0), rate, atol=0.04)
  # After the first: what is kept still varies, and with both rescaled the mean is the output without dropout.
  assert (np.nanstd(np.where(dropped, np.nan, out), axis=0) > 1e-3).all()
  np.testing.assert_allclose(out.mean(axis=0), expected, atol=5 * out.std(axis=0).max() / 4000**0.5)
  # Entries, examples among them, are dropped independently of each other.
  together = np.corrcoef(dropped.reshape(4000, -1), rowvar=False)
  assert np.abs(together - np.eye(len(together))).max() < 0.1


def test_dropout_differs_between_equal_examples():
  graphdef, params = shapes(dropout=0.3)
  image = jnp.broadcast_to(images(1), (4, *SMALL['image']))
  logits = np.asarray(run(graphdef, randomise(params), image, jax.random.key(0))[0])
  assert len({row.tobytes() for row in logits}) == 4


@pytest.mark.parametrize('scan', [False, True])
def test_stochastic_depth_rises_linearly_from_zero(scan):
  graphdef, params = shapes(blocks=5, stochastic_depth=0.4, scan=scan)
  named = run(graphdef, zero_channel_mixing(randomise(params)), images(3000), jax.random.key(0))[1]
  x, dropped = named['stem'], []
  for i in range(5):
    same = np.asarray(named[f'block_{i}'] == x)
    x = named[f'block_{i}']
    # One mask an example: all of its tokens and channels, or none but what rounding loses of a branch.
    assert ((same.mean(axis=(1, 2)) == 1) | (same.mean(axis=(1, 2)) < 0.05)).all()
    dropped.append(same.all(axis=(1, 2)))
  assert not dropped[0].any()
  # 3,000 examples: a standard deviation of a share is at most 0.009.
  np.testing.assert_allclose(np.mean(dropped, axis=1), [0, 0.1, 0.2, 0.3, 0.4], atol=0.036)
  assert np.abs(np.corrcoef(dropped[1:]) - np.eye(4)).max() < 0.1


def test_stochastic_depth_draws_for_each_branch():
  """At rate 1/2 a quarter of the examples each keep both branches, one, the other, none."""
  block = make_block(rescale=False)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4000, 16)), jnp.float32)

  @jax.jit
  def forms(x):
    tokens = lambda x: x + block.token_mixing(block.token_norm(x))
    channels = lambda x: x + block.channel_mixing(block.channel_norm(x))
    expected = {'both': channels(tokens(x)), 'tokens': tokens(x), 'channels': channels(x), 'none': x}
    return block(x, drop_rate=0.5, rngs=nnx.Rngs(dropout=1)), expected

  out, expected = forms(x)
  close = {name: np.isclose(out, form, atol=1e-5).all(axis=(0, 2)) for name, form in expected.items()}
  assert (sum(c.astype(int) for c in close.values()) == 1).all()
  for name, share in close.items():
    assert share.mean() == pytest.approx(0.25, abs=0.03), name


def test_kept_branches_are_rescaled_when_asked():
  block = make_block(rescale=True)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 50, 16)), jnp.float32)
  block.channel_mixing.fc2.kernel[...] *= 0
  block.channel_mixing.fc2.bias[...] *= 0
  branch = jax.jit(lambda x: block(x, drop_rate=0.5, rngs=nnx.Rngs(dropout=1)) - x)(x)
  kept = np.asarray(branch != 0).any(axis=(0, 2))
  assert 10 < kept.sum() < 40
  np.testing.assert_allclose(branch[:, kept], 2 * (jax.jit(block)(x) - x)[:, kept], atol=1e-5)


def make_block(**settings):
  settings = {'norm_over': 'channels', 'first': 'tokens', 'activation': jax.nn.gelu, 'dropout': 0.0, **settings}
  return jax.jit(lambda: MixerBlock(6, 16, 10, 24, **settings, init='torch', dtype=jnp.float32, rngs=nnx.Rngs(0)))()


# Types and intermediates


@pytest.mark.parametrize('scan', [False, True])
def test_bfloat16_keeps_float32_parameters_and_logits(scan):
  settings = {'stochastic_depth': 0.3, 'dropout': 0.1, 'scan': scan, 'head': (14,)}
  graphdef, params = shapes(**settings, dtype='bfloat16')
  params, image, key = randomise(params), images(), jax.random.key(0)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  logits, named = run(graphdef, params, image, key)
  assert logits.dtype == named['pre_logits'].dtype == jnp.float32
  assert {named[k].dtype for k in ('stem', 'block_0', 'block_1')} == {jnp.dtype('bfloat16')}
  exact = run(shapes(**settings)[0], params, image, key)[0]
  error = np.abs(logits - exact).max() / np.abs(exact).max()
  assert 1e-5 < error < 0.05
  (loss, _), grads = loss_and_gradients(graphdef, params, image, jnp.zeros(4, jnp.int32), key)
  assert loss.dtype == jnp.float32 and {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype('float32')}


@pytest.mark.parametrize(
  'form, features, width, scan',
  [({}, 16, 16, False), ({}, 16, 16, True), (SEED, 96, 96, False), ({**SEED, 'head': (14, 13)}, 96, 13, True)],
)
def test_intermediates_by_name(form, features, width, scan):
  graphdef, params = shapes(**form, scan=scan)
  params = randomise(params)
  logits, named = run(graphdef, params, images())
  expected = {
    'stem': (4, 6, 16),
    'block_0': (4, 6, 16),
    'block_1': (4, 6, 16),
    'features': (4, features),
    'pre_logits': (4, width),
    'logits': (4, 5),
  }
  assert {name: value.shape for name, value in named.items()} == expected
  np.testing.assert_array_equal(named['logits'], logits)
  values = flat(params)
  expected = named['pre_logits'] @ values['head/kernel'] + values['head/bias']
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  last = np.asarray(named['block_1'])
  if form:
    np.testing.assert_array_equal(named['features'], last.transpose(0, 2, 1).reshape(4, -1))
  else:
    last = (last - last.mean(axis=2, keepdims=True)) / np.sqrt(last.var(axis=2, keepdims=True) + 1e-6)
    last = last * values['pre_head_norm/scale'] + values['pre_head_norm/bias']
    np.testing.assert_allclose(named['features'], last.mean(axis=1), atol=1e-5)
  if not form.get('head'):
    np.testing.assert_array_equal(named['pre_logits'], named['features'])


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
    ({'pool': 'max'}, "unknown model.pool 'max'.* Known: flatten, mean"),
    ({'norm_over': 'token'}, "unknown model.norm_over 'token'; did you mean 'tokens'"),
    ({'first': 'channel'}, "unknown model.first 'channel'; did you mean 'channels'"),
    ({'dtype': 'float16'}, "unknown model.dtype 'float16'.* Known: bfloat16, float32"),
    ({'init': 'lecun'}, "unknown initialiser 'lecun'.* Known: original, torch"),
    ({'hidden': 0}, 'model.hidden is 0, but must be at least 1'),
    ({'blocks': 0}, 'model.blocks is 0, but must be at least 1'),
    ({'token_mlp': 0}, 'model.token_mlp is 0'),
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
