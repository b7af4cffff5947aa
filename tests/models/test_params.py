"""Parameters by dotted names, the same for stacked and for listed blocks."""

import jax
import networks
import numpy as np
from flax import nnx

from mixer_jax.models import params as network
from mixer_jax.models.mixer import MlpMixer

SETTINGS = {
  'image': (4, 6, 2), 'patch': 2, 'classes': 3, 'hidden': 8, 'blocks': 3, 'token_mlp': 5, 'channel_mlp': 7,
  'init': 'torch',
}  # fmt: skip


def params(**settings):
  return networks.start(lambda: MlpMixer(**SETTINGS | settings, rngs=nnx.Rngs(0)))[1]


def test_names_are_those_of_the_listed_blocks():
  listed, stacked = params(), params(scan=True)
  assert network.shapes(listed) == network.shapes(stacked)
  assert network.shapes(listed)['blocks.2.token_mixing.fc1.kernel'] == (6, 5)
  assert len(network.shapes(listed)) == 2 + 3 * 12 + 2 + 2


def test_what_is_taken_out_goes_in_again():
  for state in (params(), params(scan=True)):
    random = np.random.default_rng(0)
    given = {name: random.normal(size=shape).astype(np.float32) for name, shape in network.shapes(state).items()}
    placed = network.place(state, given)
    found = network.arrays(placed)
    assert found.keys() == given.keys()
    assert all(np.array_equal(found[name], given[name]) for name in given)
    assert jax.tree.structure(placed) == jax.tree.structure(state)


def test_the_same_arrays_make_the_same_network_stacked_or_not():
  make = lambda scan: networks.build(lambda: MlpMixer(**SETTINGS, scan=scan, rngs=nnx.Rngs(scan)))
  listed, stacked = make(False), make(True)
  arrays = network.arrays(nnx.state(listed, nnx.Param))
  nnx.update(stacked, network.place(nnx.state(stacked, nnx.Param), arrays))
  image = np.random.default_rng(1).normal(size=(2, 4, 6, 2)).astype(np.float32)
  run = jax.jit(lambda image: (stacked(image), listed(image)))
  np.testing.assert_allclose(*run(image), rtol=1e-5, atol=1e-6)


def test_what_is_not_given_stays():
  state = params()
  bias = np.arange(3, dtype=np.float32)
  found, before = network.arrays(network.place(state, {'head.bias': bias})), network.arrays(state)
  assert np.array_equal(found.pop('head.bias'), bias)
  assert all(np.array_equal(found[name], before[name]) for name in found)
