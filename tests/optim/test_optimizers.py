"""Optimizers against the papers' equations in NumPy, on a tree with the names that models use."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mixer_jax.models.mixer import MlpMixer
from mixer_jax.optim import optimizers

RATE = 0.01


def tree(seed):
  random = np.random.default_rng(seed)
  values = {
    name: jnp.asarray(random.normal(size=shape), jnp.float32) for name, shape in (('kernel', (3, 4)), ('bias', 4))
  }
  return nnx.State({'layer': {name: nnx.Param(value) for name, value in values.items()}})


def arrays(state):
  return {path[-1]: np.asarray(leaf[...], np.float64) for path, leaf in nnx.to_flat_state(state)}


def run(optimizer, steps=3):
  params = tree(0)
  state = optimizer.init(params)
  for step in range(steps):
    updates, state = optimizer.update(tree(step + 1), state, params)
    params = optax.apply_updates(params, updates)
  return arrays(params)


def numpy_adam(steps=3, *, b1=0.9, b2=0.99, eps=1e-8, decay=0.0):
  params = arrays(tree(0))
  for name, p in params.items():
    m = v = 0.0
    for step in range(steps):
      g = arrays(tree(step + 1))[name]
      m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
      update = (m / (1 - b1 ** (step + 1))) / (np.sqrt(v / (1 - b2 ** (step + 1))) + eps)
      p = p - RATE * (update + (decay if name == 'kernel' else 0) * p)
    params[name] = p
  return params


def test_adam():
  result = run(optimizers.adam(schedule=lambda _: RATE, b1=0.9, b2=0.99, eps=1e-8, clip=0.0))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), result, numpy_adam())


def test_adamw_decays_kernels_only():
  result = run(optimizers.adamw(schedule=lambda _: RATE, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.3, clip=0.0))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), result, numpy_adam(decay=0.3))


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_sgd(momentum):
  result = run(optimizers.sgd(schedule=lambda _: RATE, momentum=momentum, clip=0.0))
  expected = arrays(tree(0))
  for name, p in expected.items():
    velocity = 0.0
    for step in range(3):
      velocity = momentum * velocity + arrays(tree(step + 1))[name]
      p = p - RATE * velocity
    expected[name] = p
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), result, expected)


def muon(**settings):
  return optimizers.muon(
    **{'schedule': lambda _: RATE, 'beta': 0.95, 'b1': 0.9, 'b2': 0.99, 'eps': 1e-8, 'weight_decay': 0.0, 'clip': 0.0}
    | settings
  )


def near_orthogonal(update, gradient):
  """Along the singular vectors of the gradient, with singular values near 0.2 times the root of the longer side."""
  u, _, v = np.linalg.svd(gradient, full_matrices=False)
  along = u.T @ update @ v.T
  sizes = np.diag(along) / (-RATE * 0.2 * np.sqrt(max(gradient.shape)))
  np.testing.assert_allclose(along, np.diag(np.diag(along)), atol=2e-5)
  assert sizes.min() > 0.6 and sizes.max() < 1.3


def test_muon_makes_singular_values_equal():
  optimizer, gradient = muon(), tree(1)
  update = arrays(optimizer.update(gradient, optimizer.init(tree(0)), tree(0))[0])
  near_orthogonal(update['kernel'], arrays(gradient)['kernel'])


def test_muon_has_adam_with_nesterov_for_all_else():
  nadam = run(optax.nadam(RATE, 0.9, 0.99, 1e-8))
  np.testing.assert_allclose(run(muon())['bias'], nadam['bias'], rtol=1e-5)


def test_muon_decays_kernels_only():
  plain, decayed = run(muon(), steps=1), run(muon(weight_decay=0.3), steps=1)
  np.testing.assert_array_equal(plain['bias'], decayed['bias'])
  wanted = plain['kernel'] - RATE * 0.3 * arrays(tree(0))['kernel']
  np.testing.assert_allclose(decayed['kernel'], wanted, rtol=1e-4, atol=1e-6)


def test_muon_takes_stacked_kernels_one_by_one_and_windows_as_inputs():
  random = np.random.default_rng(0)
  shapes = {'stacked': (2, 3, 4), 'window': (3, 2, 2, 5), 'flat': (12, 5)}
  values = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
  values['flat'] = values['window'].reshape(12, 5)
  grads = nnx.State({name: {'kernel': nnx.Param(jnp.asarray(value))} for name, value in values.items()})
  optimizer = muon()
  updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
  update = {name: np.asarray(updates[name]['kernel'][...]) for name in values}
  for each, gradient in zip(update['stacked'], values['stacked'], strict=True):
    near_orthogonal(each, gradient)
  np.testing.assert_allclose(update['window'].reshape(12, 5), update['flat'], rtol=1e-4, atol=1e-7)


def test_clipping_is_by_the_norm_of_the_whole_gradient():
  clipped = optimizers.sgd(schedule=lambda _: 1.0, momentum=0.0, clip=0.5)
  grads = tree(1)
  updates, _ = clipped.update(grads, clipped.init(tree(0)), tree(0))
  norm = np.sqrt(sum((g**2).sum() for g in arrays(grads).values()))
  for name, update in arrays(updates).items():
    np.testing.assert_allclose(update, -arrays(grads)[name] * 0.5 / norm, rtol=1e-5)
  assert float(optax.tree.norm(updates)) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize('scan', [False, True])
def test_kernels_are_found_by_name_in_a_mixer_also_when_its_blocks_are_stacked(scan):
  model = nnx.eval_shape(
    lambda: MlpMixer(
      image=(8, 8, 1), classes=3, patch=4, hidden=8, blocks=2, token_mlp=4, channel_mlp=8, scan=scan, rngs=nnx.Rngs(0)
    )
  )
  mask = optimizers.is_kernel(nnx.state(model, nnx.Param))
  decayed = {'/'.join(map(str, path)) for path, leaf in nnx.to_flat_state(mask) if jax.tree.leaves(leaf)[0]}
  blocks = ['blocks'] if scan else ['blocks/0', 'blocks/1']
  mlps = {f'{b}/{m}/{fc}/kernel' for b in blocks for m in ('token_mixing', 'channel_mixing') for fc in ('fc1', 'fc2')}
  assert decayed == {'stem/kernel', 'head/kernel', *mlps}


def test_schedule_free_is_that_of_optax_with_decay_of_kernels_only():
  settings = {'b1': 0.9, 'b2': 0.99, 'eps': 1e-8}
  for decay in (0.0, 0.3):
    ours = optimizers.schedule_free(schedule=lambda _: RATE, **settings, weight_decay=decay, clip=0.0)
    theirs = optax.contrib.schedule_free_adamw(lambda _: RATE, **settings, weight_decay=decay)
    a, b = run(ours), run(theirs)
    np.testing.assert_allclose(a['kernel'], b['kernel'], rtol=1e-6)
    assert np.allclose(a['bias'], b['bias'], rtol=1e-6) == (decay == 0)


def test_the_average_of_schedule_free_is_found_wherever_it_stands():
  """x of the paper is the mean of the z, whose weights are equal for a constant rate."""
  b1 = 0.9
  inner = optimizers.schedule_free(
    schedule=lambda _: RATE, b1=b1, b2=0.99, eps=1e-8, weight_decay=0.0, clip=0.0, after=[optax.scale(2.0)]
  )
  optimizer = optax.chain(optax.identity(), inner)
  params = tree(0)
  state, zs = optimizer.init(params), []
  for step in range(4):
    updates, state = optimizer.update(tree(step + 1), state, params)
    params = optax.apply_updates(params, updates)
    zs.append(arrays(state[1].z))
  x = arrays(optimizers.averaged(state, params))
  for name in x:
    np.testing.assert_allclose(x[name], np.mean([z[name] for z in zs], axis=0), rtol=1e-5)
    np.testing.assert_allclose(arrays(params)[name], b1 * x[name] + (1 - b1) * zs[-1][name], rtol=1e-5)
  assert optimizers.averaged(optax.adam(0.1).init(params), params) is None


def test_noise_comes_last_with_the_variance_it_says():
  params = {'w': jnp.zeros((200, 200))}
  optimizer = optimizers.sgd(
    schedule=lambda _: RATE, momentum=0.0, clip=0.0, after=[optimizers.noise(eta=0.04, gamma=1.0, seed=3)]
  )
  state, grads = optimizer.init(params), {'w': jnp.full((200, 200), 5.0)}
  previous = None
  for step in range(1, 4):
    updates, state = optimizer.update(grads, state, params)
    update = np.asarray(updates['w'])
    assert update.mean() == pytest.approx(-RATE * 5, abs=5e-3)
    assert update.std() == pytest.approx(np.sqrt(0.04 / step), rel=0.02)
    if previous is not None:
      assert abs(np.corrcoef(update.ravel(), previous.ravel())[0, 1]) < 0.02
    previous = update
