"""What tests of models share: models without values, random values, one compiled program for each question.

A model that is built eagerly runs dozens of tiny programs, which take seconds to compile. `start` and `build` compile
one; `shapes` and `randomised`, for tests that need no first values, none.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx


def split(model):
  return nnx.split(model, nnx.Param)


def shapes(make):
  """Graph and parameters without their values, for tests that draw their own."""
  return split(nnx.eval_shape(make))


def start(make):
  """Graph and parameters as the initialisers give them."""
  return shapes(make)[0], jax.jit(lambda: split(make())[1])()


def build(make):
  """The model as its initialisers give it."""
  return nnx.merge(*start(make))


def count(make):
  return sum(leaf.size for leaf in jax.tree.leaves(shapes(make)[1]))


def randomise(params, seed=0):
  """Every parameter random: what starts as 0 or 1 would hide a mistake."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    scale = leaf.shape[-2] ** -0.5 if path[-1] == 'kernel' else 0.3
    return jnp.asarray((path[-1] == 'scale') + scale * rng.normal(size=leaf.shape), jnp.float32)

  return nnx.map_state(draw, params)


def randomised(make):
  """The model with random parameters."""
  graphdef, params = shapes(make)
  return nnx.merge(graphdef, randomise(params))


def images(batch=4, shape=(12, 8, 3), seed=0):
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


def check_forms(make, others, label):
  """Scanned and recomputed blocks give the logits, loss and gradients of the listed ones, dropout included.

  Args:
    make: settings -> a model of two blocks.
  """
  settings = {'dropout': 0.3, 'stochastic_depth': 0.5}
  graphdef, params = shapes(lambda: make(**settings))
  params = randomise(params)
  image, key = images(len(label)), jax.random.key(3)
  (loss, logits), grads = loss_and_gradients(graphdef, params, image, label, key)
  assert np.abs(logits - run(graphdef, params, image)[0]).max() > 0.01  # that dropout was on
  for other in others:
    pure = functools.partial(stack, blocks=2) if 'scan' in other else nnx.to_pure_dict
    other, like = shapes(lambda other=other: make(**settings, **other))
    nnx.replace_by_pure_dict(like, pure(params))
    (other_loss, other_logits), other_grads = loss_and_gradients(other, like, image, label, key)
    np.testing.assert_allclose(other_logits, logits, atol=1e-5)
    np.testing.assert_allclose(other_loss, loss, atol=1e-5)
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, nnx.to_pure_dict(other_grads), pure(grads))


def check_golden(make, golden, names, gelu, is_zero=lambda name: False):
  """Logits, loss and every gradient are those of PyTorch.

  Args:
    golden: arrays of tests/make_golden.py.
    names: (name, value) of the torch model -> (name, value) here.
    is_zero: the gradients that are zero but for rounding, in torch (float64) and here: nothing to be relative to.
  """
  torch = lambda prefix: dict(
    names(key.removeprefix(prefix), value) for key, value in golden.items() if key.startswith(prefix)
  )
  weights, expected = torch('weight/'), torch(f'{gelu}/grad/')
  graphdef, params = shapes(make)
  assert {k: v.shape for k, v in flat(params).items()} == {k: v.shape for k, v in weights.items()}
  params = nnx.map_state(lambda path, _: jnp.asarray(weights['/'.join(map(str, path))]), params)
  (loss, logits), grads = loss_and_gradients(graphdef, params, golden['image'], golden['label'])
  np.testing.assert_allclose(logits, golden[f'{gelu}/logits'], rtol=0, atol=1e-5)
  np.testing.assert_allclose(loss, golden[f'{gelu}/loss'], rtol=0, atol=1e-5)
  grads = flat(grads)
  assert grads.keys() == expected.keys()
  for key, value in expected.items():
    largest = np.abs(value).max()
    if is_zero(key):
      assert largest < 1e-12
      largest = 1.0
    np.testing.assert_allclose(grads[key], value, rtol=0, atol=1e-5 * largest, err_msg=key)
