"""Layers by name: rates that fall towards the stem, what is frozen, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.optim import groups


def params(scan):
  build = lambda: MlpMixer(
    image=(8, 8, 1), classes=3, patch=4, hidden=4, blocks=3, token_mlp=3, channel_mlp=5, scan=scan, rngs=nnx.Rngs(0)
  )
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
  freeze = ('stem', r'blocks\.[01]\..*kernel')
  for name, factor in scaled(params(False), decay=0.5, freeze=freeze).items():
    still = name.startswith('stem') or name.startswith(('blocks.0', 'blocks.1')) and name.endswith('kernel')
    assert (factor == 0).all() == still and (factor == 0).any() == still, name


def test_patterns_fit_the_beginning_of_a_name():
  chosen = jax.tree_util.tree_leaves_with_path(groups.frozen(params(False), ('head',)))
  assert {groups.name(path)[0] for path, still in chosen if still} == {'head'}


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'freeze': ('haed',)}, "layers.freeze has 'haed', which fits no parameter; they are in blocks, head, "),
    ({'freeze': ('head', 'blocks.7')}, "layers.freeze has 'blocks.7', which fits no parameter"),
    ({'freeze': ('he(ad',)}, r"layers.freeze has 'he\(ad', which is no regular expression"),
    ({'freeze': ('',)}, 'which fits every parameter; leave some to train'),
    ({'decay': 0.0}, r'layers.decay is 0.0, but must be in \(0, 1\]'),
    ({'decay': 1.1}, 'layers.decay is 1.1'),
  ],
)
def test_wrong_settings_are_refused(settings, message):
  with pytest.raises(MixerError, match=message):
    groups.scale(params(False), **settings)


def test_a_model_without_a_row_of_blocks_has_no_layers_to_count():
  tree = {'encoder': {'kernel': jnp.ones((2, 2))}, 'decoder': {'kernel': jnp.ones((2, 2))}}
  with pytest.raises(MixerError, match='layers.decay is 0.5, but only models of a stem and blocks .* decoder, encoder'):
    groups.scale(tree, decay=0.5)
