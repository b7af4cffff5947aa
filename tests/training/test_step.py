"""The pure train step: accumulation, averages, sums, and the loop that stops where a loss is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.optim.schedules import Length
from mixer_jax.training import experiment as experiments
from mixer_jax.training import mesh as meshes
from mixer_jax.training.step import make_train_loop

MODEL = {'hidden': 16, 'blocks': 1, 'token_mlp': 8, 'channel_mlp': 32}

LENGTH = Length(100, 10.0)


def build(**changes):
  config = configs.load(['--config=configs/digits.py'])
  config['model'] |= MODEL | changes.pop('model', {})
  config |= {'batch_size': 16, 'augment': {}, 'ema': 0.0} | changes
  experiment = experiments.build(config)
  return experiment, experiment.optimizer(LENGTH)[0]


def batch(seed=0, size=16):
  random = np.random.default_rng(seed)
  image = random.integers(0, 256, (size, 8, 8, 1), np.uint8)
  return {'image': jnp.asarray(image), 'label': jnp.asarray(random.integers(0, 10, size), jnp.int32)}


def run(experiment, optimizer, steps=3):
  step = jax.jit(experiment.train_step(optimizer, LENGTH))
  state = experiment.init_state(optimizer)
  states = [state]
  for i in range(steps):
    states.append(step(states[-1], batch(i)))
  return states


def assert_close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_a_step_is_the_gradient_step_written_out():
  experiment, _ = build(optimizer={'name': 'sgd', 'momentum': 0.0, 'clip': 0.0}, model={'dropout': 0.3})
  optimizer, schedule = experiment.optimizer(LENGTH)
  before = experiment.init_state(optimizer)._replace(step=jnp.int32(7))
  before = before._replace(opt_state=jax.tree.map(lambda x: x + 7, before.opt_state))
  after = jax.jit(experiment.train_step(optimizer, LENGTH))(before, batch())
  _, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(experiment.settings.seed), 7))

  def loss(params):
    image = (batch()['image'] / 255.0 - experiment.data.mean[0]) / experiment.data.std[0]
    logits = nnx.merge(experiment.graphdef, params)(image, rngs=nnx.Rngs(dropout=dropout_key))
    target = optax.smooth_labels(jax.nn.one_hot(batch()['label'], 10), experiment.settings.task['label_smoothing'])
    return optax.softmax_cross_entropy(logits, target).mean()

  value, grads = jax.jit(jax.value_and_grad(loss))(before.params)
  assert_close(after.params, jax.tree.map(lambda p, g: p - schedule(7) * g, before.params, grads), rtol=1e-5, atol=1e-7)
  sums = after.sums
  assert float(sums['loss'] / sums['examples']) == pytest.approx(float(value), rel=1e-5)
  assert float(sums['grad_norm']) == pytest.approx(float(optax.tree.norm(grads)), rel=1e-4)
  assert (int(after.step), float(sums['steps']), float(sums['examples'])) == (8, 1, 16)


def test_accumulation_gives_the_update_of_the_large_batch():
  sgd = {'name': 'sgd', 'momentum': 0.9, 'clip': 0.1}  # Adam would turn the rounding of zero gradients into steps.
  augment = {'affine': {'degrees': 10.0}}
  whole, cut = (run(*build(optimizer=sgd, augment=augment, accumulate=k))[-1] for k in (1, 4))
  assert_close(cut.params, whole.params, rtol=1e-5, atol=1e-7)
  assert_close(cut.sums, whole.sums, rtol=1e-5)


@pytest.mark.parametrize(
  'augment', [{'affine': {'degrees': 90.0}}, pytest.param({'mixup': {'alpha': 1.0}}, marks=pytest.mark.nightly)]
)
def test_from_augment_until_on_nothing_is_augmented(augment):
  schedule = {'name': 'constant', 'peak': 0.1, 'warmup': '0'}
  sgd = {'name': 'sgd', 'momentum': 0.0, 'clip': 0.0}  # Adam would turn the rounding of zero gradients into steps.

  def after(*steps, **changes):
    experiment, optimizer = build(schedule=schedule, optimizer=sgd, **changes)
    # Away from the first parameters, where the head is zero and so is the gradient of all before it.
    state, random = experiment.init_state(optimizer), np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + (0.1 * random.normal(size=p.shape)).astype(np.float32), state.params)
    train_step = jax.jit(experiment.train_step(optimizer, LENGTH))
    return [train_step(state._replace(params=params, step=jnp.int32(step)), batch()).params for step in steps]

  def difference(a, b):
    return max(float(np.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, jax.device_get((a, b))), strict=True))

  until = after(4, 5, augment=augment, augment_until='5 steps')
  always, never = after(4, 5, augment=augment), after(4, 5, augment={})
  assert difference(until[0], always[0]) < 1e-5 and difference(until[0], never[0]) > 1e-4
  assert difference(until[1], never[1]) < 1e-5 and difference(until[1], always[1]) > 1e-4


def test_augmentation_that_lasts_longer_than_the_run_is_refused():
  experiment, optimizer = build(augment={'flip': {}}, augment_until='101 steps')
  with pytest.raises(MixerError, match="augment_until is '101 steps', but the run has 100 steps"):
    experiment.train_step(optimizer, LENGTH)


def test_the_average_follows_its_equation():
  states = run(*build(ema=0.5))
  for step in range(3):
    decay = min(0.5, (1 + step) / (10 + step))
    expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, states[step].ema, states[step + 1].params)
    assert_close(states[step + 1].ema, expected, rtol=1e-5, atol=1e-7)


def test_everything_random_depends_on_the_seed_and_the_step_alone():
  augment = {'affine': {'degrees': 10.0}}
  schedule = {'name': 'constant', 'peak': 0.01, 'warmup': '0'}
  experiment, optimizer = build(augment=augment, schedule=schedule, model={'dropout': 0.2, 'stochastic_depth': 0.2})
  step = jax.jit(experiment.train_step(optimizer, LENGTH))
  start = step(experiment.init_state(optimizer), batch())  # Before this step the head is zero, and all losses equal.
  first, again = step(start, batch(1)), step(start, batch(1))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  other = step(start._replace(step=jnp.int32(9)), batch(1))
  assert float(first.sums['loss']) != float(other.sums['loss'])


def loops(experiment, optimizer):
  shapes = experiment.init_state(optimizer, abstract=True)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
  return make_train_loop(experiment.train_step(optimizer, LENGTH), shardings, meshes.over_batch(experiment.mesh))


def feed(count):
  data = batch(3, size=64)
  rows = np.random.default_rng(1).integers(0, 64, (8, 16)).astype(np.int32)
  return {'data': data, 'rows': jnp.asarray(rows)}, np.int32(count)


def test_however_many_steps_a_call_runs_the_bits_are_the_same():
  experiment, optimizer = build(model={'dropout': 0.2})
  loop = loops(experiment, optimizer)
  whole = loop(experiment.init_state(optimizer), *feed(6))
  cut = experiment.init_state(optimizer)
  data, _ = feed(0)
  for start, count in ((0, 1), (1, 3), (4, 2)):
    cut = loop(cut, data | {'rows': jnp.roll(data['rows'], -start, axis=0)}, np.int32(count))
  jax.tree.map(np.testing.assert_array_equal, whole, cut)


def test_the_loop_stops_right_after_a_step_that_is_not_finite():
  experiment, optimizer = build()
  state = experiment.init_state(optimizer)
  broken = jax.tree.map(lambda p: p * np.nan, state.params)
  after = loops(experiment, optimizer)(state._replace(params=broken), *feed(6))
  assert int(after.step) == 1
  assert not np.isfinite(float(after.sums['loss']))


def test_evaluation_counts_what_the_mask_lets_count():
  experiment, optimizer = build()
  params = jax.tree.map(lambda p: p + 0.1, experiment.init_state(optimizer).params)
  eval_loop = experiment.eval_loop()
  data = batch(5, size=20)
  rows = np.arange(32).reshape(2, 16) % 20
  mask = (np.arange(32) < 20).reshape(2, 16).astype(np.float32)
  sums, _ = eval_loop(params, {'data': data, 'rows': jnp.asarray(rows, jnp.int32), 'mask': jnp.asarray(mask)}, 2)
  logits = nnx.merge(experiment.graphdef, params)(experiment.preprocess(data)['image'])
  expected = experiment.task.scores(logits, data)
  assert float(sums['examples']) == 20
  for name, value in expected.items():
    assert float(sums[name]) == pytest.approx(float(value.sum()), rel=1e-5)
