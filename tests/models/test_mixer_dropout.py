"""Dropout and stochastic depth of the Mixer: at their rates, every block with its own draws."""

import itertools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import nnx
from networks import images, randomise, run

from mixer_jax.models.mixer import MixerBlock, MlpBlock, MlpMixer

# No two sizes are equal, so that no transposition goes unseen: 6 tokens of 48 pixels.
SMALL = {
  'image': (12, 8, 3), 'classes': 5,
  'patch': 4, 'hidden': 16, 'blocks': 2, 'token_mlp': 10, 'channel_mlp': 24,
}  # fmt: skip


def shapes(**settings):
  return networks.shapes(lambda: MlpMixer(**{**SMALL, **settings}, rngs=nnx.Rngs(0)))


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
  block = networks.build(lambda: MlpBlock(features, 12, **settings, rngs=nnx.Rngs(0)))
  expected = jax.jit(lambda x: block(x))(x)
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
  np.testing.assert_allclose(branch[:, kept], 2 * (jax.jit(lambda x: block(x))(x) - x)[:, kept], atol=1e-5)


def make_block(rescale):
  mixing = {'name': 'token_mlp', 'hidden': 10}
  settings = {'mixing': mixing, 'activation': jax.nn.gelu, 'dropout': 0.0, 'init': 'torch', 'dtype': jnp.float32}
  return networks.build(lambda: MixerBlock((3, 2), 16, 24, rescale=rescale, **settings, rngs=nnx.Rngs(0)))
