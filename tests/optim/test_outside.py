"""Optimizers of optax and of a user, schedules and SAM methods of a user: by name, checked against their signature."""

import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mixer_jax import parts
from mixer_jax.errors import MixerError
from mixer_jax.optim.optimizers import OPTIMIZERS
from mixer_jax.optim.sam import SAMS, SamState
from mixer_jax.optim.schedules import SCHEDULES, Length

RATE = 0.01


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """Writes the module `mine` into the current folder."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)

  def write(text):
    sys.modules.pop('mine', None)
    (tmp_path / 'mine.py').write_text(textwrap.dedent(text))

  yield write
  sys.modules.pop('mine', None)


def make(name, schedule=lambda _: RATE, after=(), **settings):
  return parts.named(OPTIMIZERS, {'name': name, **settings}, 'optimizer', schedule=schedule, after=after)


def tree(seed):
  random = np.random.default_rng(seed)
  draw = lambda *shape: nnx.Param(jnp.asarray(random.normal(size=shape), jnp.float32))
  return nnx.State({'layer': {'kernel': draw(3, 4), 'bias': draw(4)}})


def run(optimizer):
  def steps(params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
      updates, state = optimizer.update(gradient, state, params)
      params = optax.apply_updates(params, updates)
    return params

  params = jax.jit(steps)(tree(0), [tree(1), tree(2), tree(3)])
  return {path[-1]: np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(params)}


def equal(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


@pytest.mark.parametrize(
  'name, theirs',
  [
    ('optax.lion', lambda: optax.lion(RATE, 0.8, weight_decay=0.0)),
    ('optax:lion', lambda: optax.lion(RATE, 0.8, weight_decay=0.0)),
    ('optax.nadamw', lambda: optax.nadamw(RATE, 0.8, weight_decay=0.0)),
    ('optax.contrib.prodigy', lambda: optax.contrib.prodigy(RATE, (0.8, 0.999))),
    ('optax.adafactor', lambda: optax.adafactor(RATE, min_dim_size_to_factor=2)),
    ('optax.rmsprop', lambda: optax.rmsprop(RATE, 0.8)),
  ],
)
def test_any_optimizer_of_optax(name, theirs):
  settings = {
    'optax.contrib.prodigy': {'betas': [0.8, 0.999]}, 'optax.adafactor': {'min_dim_size_to_factor': 2},
    'optax.rmsprop': {'decay': 0.8},
  }.get(name, {'b1': 0.8, 'weight_decay': 0.0})  # fmt: skip
  equal(run(make(name, **settings)), run(theirs()))


def test_its_settings_are_those_of_its_signature_and_ours():
  resolved = parts.resolve_named(OPTIMIZERS, 'optax.lion', 'optimizer')
  assert resolved == {
    'name': 'optax.lion', 'clip': 0.0, 'b1': 0.9, 'b2': 0.99, 'mu_dtype': None, 'weight_decay': 1e-3,
  }  # fmt: skip
  assert parts.resolve_named(OPTIMIZERS, resolved, 'optimizer') == resolved
  assert 'dtype_momentum' not in parts.resolve_named(OPTIMIZERS, 'optax.adafactor', 'optimizer')


def test_it_decays_kernels_only():
  none, some = (run(make('optax.lion', weight_decay=decay)) for decay in (0.0, 0.5))
  np.testing.assert_array_equal(none['bias'], some['bias'])
  assert not np.array_equal(none['kernel'], some['kernel'])


def test_clipping_comes_before_it_and_after_behind():
  doubled = optax.stateless(lambda updates, _: jax.tree.map(lambda u: 2 * u, updates))
  equal(run(make('optax.sgd', after=[doubled])), run(optax.sgd(2 * RATE)))
  clipped = run(optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(RATE)))
  equal(run(make('optax.sgd', clip=0.1)), clipped)


def test_the_rate_follows_the_schedule():
  schedule = lambda step: RATE * (step + 1)
  equal(run(make('optax.sgd', schedule)), run(optax.sgd(schedule)))


@pytest.mark.parametrize(
  'name, words',
  [
    ('optax.lino', ["'lino'", "did you mean 'lion'", 'optax has no']),
    ('optax.contrib.prodgy', ["'prodgy'", "did you mean 'prodigy'", 'optax.contrib has no']),
    ('optax.scale_by_adam', ["'optax.scale_by_adam'", 'takes no learning_rate']),
    ('optax.lbfgs', ["'optax.lbfgs'", 'fails on a gradient and parameters', 'value']),
    ('optax.sdg', ["'sdg'", "'sgd'"]),
    ('lion', ["'lion'", 'optax.NAME, or module:name']),
    ('os:system', ['takes no learning_rate']),
  ],
)
def test_what_is_no_optimizer(name, words):
  with pytest.raises(MixerError) as refusal:
    make(name)
  for word in ('optimizer', *words):
    assert word in str(refusal.value)


def test_unknown_settings_of_it():
  with pytest.raises(MixerError, match=r"decy: .*did you mean 'weight_decay'.*b1, b2, clip, mu_dtype, weight_decay"):
    make('optax.lion', weight_decy=0.1)


def test_an_optimizer_of_a_user(mine):
  mine("""
    import optax

    def plain(schedule, *, scale: float = 1.0):
      return optax.sgd(lambda step: scale * schedule(step))

    def whole(schedule, *, clip: float = 5.0, after=()):
      return optax.chain(optax.clip(clip), optax.sgd(schedule), *after, *after)
  """)
  doubled = optax.stateless(lambda updates, _: jax.tree.map(lambda u: 2 * u, updates))
  equal(run(make('mine:plain', scale=3.0, after=[doubled])), run(optax.sgd(6 * RATE)))
  equal(run(make('mine:whole', clip=9.0, after=[doubled])), run(optax.sgd(4 * RATE)))
  assert parts.resolve_named(OPTIMIZERS, 'mine:whole', 'optimizer') == {'name': 'mine:whole', 'clip': 5.0}


@pytest.mark.parametrize(
  'text, words',
  [
    ('def f(schedule):\n  return 3', ["'mine:f'", 'gives a int', 'optax.GradientTransformation']),
    ('def f(rate):\n  return 3', ["'mine:f'", 'no learning_rate']),
    (
      'import optax\ndef f(schedule):\n  return optax.stateless(lambda u, p: u[0])',
      ["'mine:f'", 'fails on a gradient and parameters'],
    ),
  ],
)
def test_a_user_s_mistakes(mine, text, words):
  mine(text)
  with pytest.raises(MixerError) as refusal:
    make('mine:f')
  for word in words:
    assert word in str(refusal.value)


def schedule(name, **settings):
  return parts.named(SCHEDULES, {'name': name, **settings}, 'schedule', length=Length(100, 10.0))


def test_a_schedule_of_a_user(mine):
  mine("""
    def falling(*, peak: float, power: float = 1.0, length):
      return lambda step: peak * (1 - step / length.total) ** power

    def still(*, peak: float):
      return lambda step: peak

    def odd():
      return 3

    def vector():
      return lambda step: step * [1.0, 2.0]
  """)
  assert schedule('mine:falling', peak=2.0)(50) == 1.0
  assert schedule('mine:still', peak=2.0)(50) == 2.0
  assert parts.resolve_named(SCHEDULES, {'name': 'mine:falling', 'peak': 1}, 'schedule') == {
    'name': 'mine:falling', 'peak': 1, 'power': 1.0,
  }  # fmt: skip
  for name, word in (('odd', 'its rate fails: TypeError'), ('vector', "'mine:vector'")):
    with pytest.raises(MixerError, match=word):
      schedule(f'mine:{name}')
  with pytest.raises(parts.Missing, match=r'schedule.peak \(float\)'):
    schedule('mine:falling')


def test_a_sam_method_of_a_user(mine):
  mine("""
    import optax
    from mixer_jax.optim.sam import sam

    def half(base, *, rho: float, has_loss):
      return sam(base, rho=rho / 2, has_loss=has_loss)

    def none(base, *, rho: float):
      return base
  """)
  make = lambda name: parts.named(SAMS, {'name': name, 'rho': 0.1}, 'sam', base=optax.sgd(RATE), has_loss=True, seed=1)
  assert isinstance(make('mine:half').init(tree(0)), SamState)
  with pytest.raises(MixerError, match=r"sam.name is 'mine:none'.*SamState"):
    make('mine:none')


@pytest.mark.parametrize('table, needed', [(OPTIMIZERS, {}), (SCHEDULES, {'peak': 1e-3}), (SAMS, {'rho': 0.05})])
def test_all_but_a_few_settings_have_defaults(table, needed):
  others = {'restarts': {'period': '1 epoch'}, 'sharp_cosine': {'hold': '1 epoch', 'decay': '10%'}}
  others['one_cycle'] = {'start': 1e-4, 'rise': '30%'}
  for name in table:
    given = {'name': name, **needed, **others.get(name, {})}
    assert parts.resolve_named(table, given, 'part') == {**parts.resolve_named(table, given, 'part'), **given}
