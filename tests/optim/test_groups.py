"""Layers by name: rates that fall towards the stem, what is frozen, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models.mnist_mixer import MnistMixer
from mixer_jax.optim import groups


def params(scan, blocks=3, head=()):
  """Of a Mixer, with hidden layers in its head."""
  sizes = {'patch': 4, 'hidden': 4, 'blocks': blocks, 'token_mlp': 3, 'channel_mlp': 5, 'head': head, 'scan': scan}
  paper = {'norm_over': 'channels', 'first': 'tokens', 'pool': 'mean'}
  build = lambda: MnistMixer(image=(8, 8, 1), classes=3, **sizes, **paper, rngs=nnx.Rngs(0))
  return nnx.state(nnx.eval_shape(build), nnx.Param)


def scaled(tree, **settings):
  """What becomes of updates of 1."""
  transform = groups.scale(tree, **settings)
  ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), tree)
  updates, _ = transform.update(ones, transform.init(ones))
  return {'.'.join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(updates)}


@pytest.mark.parametrize('scan', [False, True])
def test_rates_fall_from_the_head_to_the_stem(scan):
  for name, factor in scaled(params(scan), decay=0.5).items():
    part, _, rest = name.partition('.')
    if part == 'blocks':
      wanted = 0.5 ** np.array([3, 2, 1]) if scan else 0.5 ** (3 - int(rest[0]))
      factor = factor.reshape(3, -1).T if scan else factor
    else:
      wanted = 0.5**4 if part == 'stem' else 1.0
    np.testing.assert_array_equal(factor, np.broadcast_to(np.float32(wanted), factor.shape), err_msg=name)


def test_what_is_frozen_does_not_move():
  freeze = ('stem', 'blocks.[01].*.*.kernel')
  for name, factor in scaled(params(False), decay=0.5, freeze=freeze).items():
    still = name.startswith('stem') or name.startswith(('blocks.0', 'blocks.1')) and name.endswith('kernel')
    assert (factor == 0).all() == still and (factor == 0).any() == still, name


def still_of(patterns, scan, blocks=12):
  """The names of what is frozen, each block of a stack under its own."""
  tree = params(scan, blocks, head=(5,))
  names = set()
  for path, still in jax.tree_util.tree_leaves_with_path(groups.frozen(tree, patterns)):
    parts = groups.name(path)
    if scan and parts[0] == 'blocks':
      still = np.broadcast_to(np.ravel(still), blocks)
      names |= {'.'.join(map(str, ('blocks', i, *parts[1:]))) for i in np.flatnonzero(still)}
    elif still:
      names.add('.'.join(map(str, parts)))
  return names


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize(
  'pattern, of_part',
  [
    ('head', lambda first, *_: first == 'head'),
    ('head*', lambda first, *_: first.startswith('head')),
    ('blocks', lambda first, *_: first == 'blocks'),
    ('blocks.1', lambda first, *rest: first == 'blocks' and rest[0] == '1'),
    ('blocks.1?', lambda first, *rest: first == 'blocks' and rest[0] in ('10', '11')),
    ('blocks.[0-2].token_*', lambda first, *rest: first == 'blocks' and rest[0] in '012' and rest[1][:6] == 'token_'),
    ('blocks.*.*.fc1.bias', lambda first, *rest: first == 'blocks' and rest[-2:] == ('fc1', 'bias')),
  ],
)
def test_patterns_fit_whole_parts_of_names_also_of_stacked_blocks(pattern, of_part, scan):
  every = still_of(('blocks', 'head*', 'pre_head_norm'), scan) | {'stem.kernel', 'stem.bias'}
  assert len(every) == 12 * 12 + 8
  assert still_of((pattern,), scan) == {name for name in every if of_part(*name.split('.'))}


def test_single_blocks_of_a_stack_have_no_gradient_and_do_not_move():
  tree = params(True)
  frozen = groups.frozen(tree, ('blocks.1', 'stem'))
  random = np.random.default_rng(0)
  values = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32), tree)
  loss = lambda p: sum(jnp.square(x).sum() for x in jax.tree.leaves(groups.hold(p, frozen)))
  still = groups.freeze(optax.identity(), frozen)
  updates, _ = still.update(values, still.init(values), values)
  gradient, updates = (dict(nnx.to_flat_state(found)) for found in (jax.grad(loss)(values), updates))
  factors = scaled(tree, freeze=('blocks.1', 'stem'), decay=0.5)
  for path, value in nnx.to_flat_state(values):
    wanted = np.array(value[...])
    wanted[1 if path[0] == 'blocks' else ...] *= path[0] not in ('blocks', 'stem')
    np.testing.assert_array_equal(updates[path][...], wanted)
    np.testing.assert_array_equal(gradient[path][...], 2 * wanted)
    assert ((factors['.'.join(path)] == 0) == (wanted == 0)).all()


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'freeze': ('haed',)}, "layers.freeze has 'haed', which fits no parameter; they are in blocks, head, "),
    ({'freeze': ('head', 'blocks.7')}, "layers.freeze has 'blocks.7', which fits no parameter"),
    ({'freeze': ('hea',)}, "layers.freeze has 'hea', which fits no parameter"),
    ({'freeze': ('head.kernel.x',)}, 'which fits no parameter'),
    ({'freeze': ('',)}, 'which fits no parameter'),
    ({'freeze': ('*',)}, 'which fits every parameter; leave some to train'),
  ],
)
def test_wrong_settings_are_refused(settings, message):
  with pytest.raises(MixerError, match=message):
    groups.scale(params(False), **settings)


def test_a_model_without_blocks_has_a_layer_for_each_part_before_its_head():
  kernel = {'kernel': nnx.Param(jnp.ones((2, 2)))}
  tree = nnx.State({'encoder': {0: kernel, 1: kernel}, 'decoder': kernel, 'head': kernel})
  factors = scaled(tree, decay=0.5, order=('encoder', 'decoder', 'head'))
  found = {name.removesuffix('.kernel'): float(factor.max()) for name, factor in factors.items()}
  assert found == {'encoder.0': 0.125, 'encoder.1': 0.25, 'decoder': 0.5, 'head': 1.0}
  with pytest.raises(MixerError, match='layers.decay is 0.5, but this model has no layers before a head: .*encoder'):
    groups.scale(tree, decay=0.5)
