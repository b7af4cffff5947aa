"""SAM and its relatives: closed forms on a quadratic, optax's own SAM on a Mixer, the order of a step, bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx

from mixer_jax import parts
from mixer_jax.errors import MixerError
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.optim import optimizers
from mixer_jax.optim import sam as sams
from mixer_jax.optim.schedules import Length

RATE, RHO = 0.1, 0.3
LENGTH = Length(10, 1.0)
METHODS = {
  'sam': {}, 'asam': {'eta': 0.01}, 'gsam': {'rho_min': 0.1, 'alpha': 0.4, 'schedule': lambda _: 0.5, 'peak': 1.0},
  'fisher_sam': {'sparsity': 0.5, 'refresh': 2},
  'dynamic_sam': {'sparsity': 0.5, 'refresh': 2, 'drop': 0.5, 'seed': 0, 'length': LENGTH},
  'look_sam': {'every': 2, 'alpha': 0.7},
}  # fmt: skip


def quadratic(size=6, seed=0):
  """The matrix, the kernel's start and the bias' start of a loss of w A w / 2, with w = [kernel, bias]."""
  random = np.random.default_rng(seed)
  root = random.normal(size=(size, size))
  return root @ root.T / size, random.normal(size=size)


def as_tree(w):
  return {'layer': {'kernel': jnp.asarray(w[:4], jnp.float32), 'bias': jnp.asarray(w[4:], jnp.float32)}}


def as_array(tree):
  return np.concatenate([np.asarray(tree['layer']['kernel']), np.asarray(tree['layer']['bias'])]).astype(np.float64)


def make(name, base=None, rho=RHO, **changes):
  return sams.SAMS[name](base or optax.sgd(RATE), rho=rho, **METHODS[name] | changes)


def run(optimizer, steps=1, **settings):
  """The points that an optimizer goes through on the quadratic, and its states."""
  a, w = quadratic()
  loss = lambda p: 0.5 * jnp.dot(flat(p), jnp.asarray(a, jnp.float32) @ flat(p))
  flat = lambda p: jnp.concatenate([p['layer']['kernel'], p['layer']['bias']])
  grad = jax.value_and_grad(loss) if settings.get('has_loss') else jax.grad(loss)
  params = as_tree(w)
  state = optimizer.init(params)
  points, states = [w], []

  @jax.jit
  def step(params, state):
    updates, state = optimizer.update(jax.grad(loss)(params), state, params, grad_fn=lambda p, _: grad(p))
    return optax.apply_updates(params, updates), state

  for _ in range(steps):
    params, state = step(params, state)
    points.append(as_array(params))
    states.append(state)
  return points, states


def unit(x):
  return x / np.linalg.norm(x)


def upright(x, on):
  return x - np.dot(x, unit(on)) * unit(on)


def assert_close(a, b):
  np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_sam_on_a_quadratic():
  a, w = quadratic()
  points, states = run(make('sam', has_loss=True), has_loss=True)
  e = RHO * unit(a @ w)
  assert_close(points[1], w - RATE * a @ (w + e))
  assert_close(states[0].report, (RHO, 0.5 * (w + e) @ a @ (w + e), 1))


def test_asam_on_a_quadratic():
  a, w = quadratic()
  t = np.concatenate([np.abs(w[:4]) + 0.01, np.ones(2)])
  e = RHO * t * unit(t * (a @ w))
  points, states = run(make('asam'))
  assert_close(points[1], w - RATE * a @ (w + e))
  assert_close(states[0].report.norm, np.linalg.norm(e))


def test_asam_does_not_see_how_a_kernel_and_the_next_share_their_size():
  """Two layers, loss of a product of scalars: times c and divided by c is the same function, and has the same rise."""

  def rise(c, name):
    loss = lambda p: jnp.square(p['a']['kernel'] * p['b']['kernel'] - 1)
    params = {'a': {'kernel': jnp.float32(1.3 * c)}, 'b': {'kernel': jnp.float32(0.4 / c)}}
    extra = {'eta': 0.0} if name == 'asam' else {}
    optimizer = make(name, has_loss=True, **extra)
    grad_fn = lambda p, _: jax.value_and_grad(loss)(p)
    _, state = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params, grad_fn=grad_fn)
    return float(state.report.loss)

  assert rise(1.0, 'asam') == pytest.approx(rise(7.0, 'asam'), rel=1e-5)
  assert rise(1.0, 'sam') != pytest.approx(rise(7.0, 'sam'), rel=0.1)


def test_gsam_on_a_quadratic():
  a, w = quadratic()
  g = a @ w
  e = (0.1 + (RHO - 0.1) * 0.5) * unit(g)
  second = a @ (w + e)
  assert_close(run(make('gsam'))[0][1], w - RATE * (second - 0.4 * upright(g, second)))


def test_gsam_goes_on_lowering_the_gap_where_the_loss_at_the_perturbation_stands_still():
  """The part with alpha leaves loss(w + e) as it is, to first order, and raises loss(w) towards it."""
  a, w = quadratic()
  g = a @ w
  second = a @ (w + RHO * unit(g))
  extra = run(make('gsam', rho_min=RHO))[0][1] - run(make('sam'))[0][1]
  assert abs(second @ extra) < 1e-4 * np.linalg.norm(second) * np.linalg.norm(extra)
  assert g @ extra > 0


@pytest.mark.parametrize('sparsity', [0.0, 0.5, 0.7])
def test_fisher_sam_keeps_the_largest_squares(sparsity):
  a, _ = quadratic()
  points, states = run(make('fisher_sam', sparsity=sparsity), steps=5)
  squares = 0
  for step, (w, state) in enumerate(zip(points[:-1], states, strict=True)):
    g = a @ w
    squares = squares + g**2
    if step % 2 == 0:
      mask = np.isin(np.arange(6), np.argsort(-squares)[: 6 - round(6 * sparsity)])
      squares = 0
    assert (as_array(state.memory[0]) == mask).all()
    assert_close(points[step + 1], w - RATE * a @ (w + RHO * unit(g) * mask))


def test_dynamic_sam_gives_up_the_smallest_gradients_for_random_others():
  a, _ = quadratic()
  points, states = run(make('dynamic_sam'), steps=6)
  old = None
  for step, (w, state) in enumerate(zip(points[:-1], states, strict=True)):
    g, mask = a @ w, as_array(state.memory[0]).astype(bool)
    assert mask.sum() == 3
    assert_close(points[step + 1], w - RATE * a @ (w + RHO * unit(g) * mask))
    if step and step % 2 == 0:
      dropped = int(np.floor(3 * 0.5 * (1 + np.cos(np.pi * step / 10)) / 2))
      kept = np.flatnonzero(old)[np.argsort(-np.abs(g[old]))][: 3 - dropped]
      assert mask[kept].all() and (mask & ~old).sum() == dropped
    elif step:
      assert (mask == old).all()
    old = mask
  masks = [as_array(run(make('dynamic_sam', seed=seed))[1][0].memory[0]) for seed in range(8)]
  assert len({tuple(mask) for mask in masks}) > 3


def test_look_sam_goes_on_with_the_old_direction():
  a, w = quadratic()
  points, states = run(make('look_sam', every=3), steps=4)
  g = a @ w
  second = a @ (w + RHO * unit(g))
  v = upright(second, g)
  assert_close(points[1], w - RATE * second)
  for step in (1, 2):
    g = a @ points[step]
    assert_close(points[step + 1], points[step] - RATE * (g + 0.7 * np.linalg.norm(g) * unit(v)))
  assert [float(state.report.taken) for state in states] == [1, 0, 0, 1]
  g = a @ points[3]
  assert_close(points[4], points[3] - RATE * a @ (points[3] + RHO * unit(g)))


def mixer(seed=0):
  model = MlpMixer(
    image=(8, 8, 1), classes=3, patch=4, hidden=8, blocks=2, token_mlp=4, channel_mlp=12, rngs=nnx.Rngs(seed)
  )
  graphdef, params = nnx.split(model, nnx.Param)
  keys = iter(jax.random.split(jax.random.key(seed), 100))
  params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params)
  image, label = jax.random.normal(jax.random.key(1), (5, 8, 8, 1)), jnp.array([0, 1, 2, 1, 0])

  def loss(params):
    logits = nnx.merge(graphdef, params)(image)
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

  return params, loss


def steps_of(optimizer, params, grad_fn, count=3):
  state = optimizer.init(params)

  @jax.jit
  def step(params, state):
    updates, state = optimizer.update(grad_fn(params), state, params, grad_fn=lambda p, _: grad_fn(p))
    return optax.apply_updates(params, updates), state

  for _ in range(count):
    params, state = step(params, state)
  return params


def test_sam_is_that_of_optax_on_a_mixer():
  params, loss = mixer()
  # Adam would turn the rounding of gradients that are zero into steps.
  base = optax.chain(optax.clip_by_global_norm(0.5), optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
  theirs = optax.contrib.sam(base, optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), opaque_mode=True)
  ours = sams.sam(base, rho=0.05)
  a, b = (steps_of(optimizer, params, jax.grad(loss)) for optimizer in (ours, theirs))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)
  moved = max(float(jnp.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (a, params)), strict=True))
  assert moved > 0.01


@pytest.mark.parametrize('name', METHODS)
def test_rho_0_is_the_wrapped_optimizer_bit_for_bit(name):
  params, loss = mixer()
  base = optax.adamw(0.01)
  none = {'rho_min': 0.0} if name == 'gsam' else {}
  wrapped = steps_of(make(name, base, rho=0.0, **none), params, jax.grad(loss))
  plain = steps_of(optax.with_extra_args_support(base), params, jax.grad(loss))
  jax.tree.map(np.testing.assert_array_equal, wrapped, plain)


@pytest.mark.parametrize('name', METHODS)
def test_clipping_and_decay_are_of_the_second_gradient_at_the_old_parameters(name):
  """The wrapped optimizer sees what plain descent sees: clipped after, decayed at w, so that w' is known from it."""
  base = optax.chain(optax.clip_by_global_norm(0.2), optax.add_decayed_weights(0.5), optax.sgd(RATE))
  (w, plain), _ = run(make(name))
  second = (w - plain) / RATE
  assert_close(run(make(name, base))[0][1], w - RATE * (0.2 * unit(second) + 0.5 * w))


# A large eps: what has no gradient in exact arithmetic, the second bias of token mixing, is left where it is.
ADAM = {'b1': 0.9, 'b2': 0.99, 'eps': 1e-3, 'clip': 1.0}
BASES = {
  'adam': ADAM, 'adamw': ADAM | {'weight_decay': 0.1}, 'sgd': {'momentum': 0.9, 'clip': 1.0},
  'muon': ADAM | {'weight_decay': 0.1, 'beta': 0.95}, 'schedule_free': ADAM | {'weight_decay': 0.1},
}  # fmt: skip


ALWAYS = ('adamw',)  # the others' steps are compiled by night


@pytest.mark.parametrize(
  'name', [n if n in ALWAYS else pytest.param(n, marks=pytest.mark.nightly) for n in optimizers.OPTIMIZERS]
)
def test_every_optimizer_can_be_wrapped(name):
  """It has the gradient at the perturbed parameters, those where schedule_free takes its own among them."""
  params, loss = mixer()
  base = optimizers.OPTIMIZERS[name](schedule=optax.constant_schedule(0.01), **BASES[name])
  wrapped = steps_of(sams.sam(base, rho=0.05), params, jax.grad(loss))

  def second(params):
    g = jax.grad(loss)(params)
    return jax.grad(loss)(jax.tree.map(lambda p, x: p + 0.05 * x / optax.tree.norm(g), params, g))

  written_out = steps_of(optax.with_extra_args_support(base), params, second)
  unperturbed = steps_of(optax.with_extra_args_support(base), params, jax.grad(loss))
  apart = lambda a, b: max(float(jnp.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
  assert apart(wrapped, written_out) < 1e-4 < 5e-4 < apart(wrapped, unperturbed)


@pytest.mark.parametrize('name', METHODS)
def test_without_sync_every_device_has_its_own_perturbation(name):
  """Two devices with losses of their own: each is perturbed alone, and the mean of what comes of it goes on."""
  losses = [quadratic(seed=s)[0] for s in (0, 1)]
  w = quadratic()[1]
  matrices = jnp.asarray(np.stack(losses), jnp.float32)

  def grads(params):
    x = jnp.concatenate([params['layer']['kernel'], params['layer']['bias']], axis=-1)
    return jax.vmap(as_jax_tree)(jnp.einsum('dij,dj->di', matrices, x))

  as_jax_tree = lambda x: {'layer': {'kernel': x[:4], 'bias': x[4:]}}
  both = jax.tree.map(lambda x: jnp.stack([x, x]), as_tree(w))
  optimizer = make(name, sync=False)
  params = as_tree(w)
  updates, state = optimizer.update(grads(both), optimizer.init(params), params, grad_fn=lambda p, _: grads(p))

  def alone(a):
    g = a @ w
    t = np.concatenate([np.abs(w[:4]) + 0.01, np.ones(2)])
    mask = as_array(state.memory[0]) if name in ('fisher_sam', 'dynamic_sam') else 1.0
    e = {'asam': RHO * t * unit(t * g), 'gsam': 0.2 * unit(g)}.get(name, RHO * unit(g) * mask)
    second = a @ (w + e)
    return second - (0.4 * upright(g, second) if name == 'gsam' else 0)

  assert_close(as_array(updates), -RATE * (alone(losses[0]) + alone(losses[1])) / 2)
  if name == 'fisher_sam':
    assert set(np.flatnonzero(as_array(state.memory[0]))) == set(np.argsort(-(((losses[0] + losses[1]) @ w) ** 2))[:3])


@pytest.mark.parametrize(
  'name, settings, parts',
  [
    ('gsam', {'rho_min': 0.5}, ['sam.rho_min is 0.5', 'sam.rho, 0.3']),
    ('gsam', {'rho_min': np.nan}, ['sam.rho_min is nan']),
  ],
)
def test_bad_settings_are_refused_by_name(name, settings, parts):
  with pytest.raises(MixerError) as error:
    make(name, **settings)
  assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize('given', [{}, {'params': True}])
def test_who_cannot_give_the_gradient_twice_is_reported(given):
  optimizer, params = make('sam'), as_tree(np.ones(6))
  state = optimizer.init(params)
  with pytest.raises(MixerError, match='takes the gradient twice'):
    optimizer.update(params, state, params if given else None)


def test_the_defaults_are_the_published_ones():
  """None for rho, which every paper tunes."""
  found = {
    name: {key: p.default for key, p in parts.parameters(sams.SAMS[name]).items() if p.default is not p.empty}
    for name in sams.SAMS
  }
  both = {'sync': True, 'has_loss': False}
  sparse = {'sparsity': 0.5, 'refresh': 100, **both}
  assert found == {
    'sam': both, 'asam': {'eta': 0.01, **both}, 'gsam': {'rho_min': 0.0, 'alpha': 0.2, **both}, 'fisher_sam': sparse,
    'dynamic_sam': {**sparse, 'drop': 0.5}, 'look_sam': {'every': 5, 'alpha': 0.7, **both},
  }  # fmt: skip


def test_an_update_that_lacks_its_gradient_or_its_parameters():
  params = {'kernel': jnp.ones(3)}
  optimizer = sams.sam(optax.sgd(0.1), rho=0.1)
  state = optimizer.init(params)
  with pytest.raises(MixerError, match='got no grad_fn'):
    optimizer.update(params, state, params)
  with pytest.raises(MixerError, match='got no params'):
    optimizer.update(params, state, grad_fn=lambda params, i: params)
