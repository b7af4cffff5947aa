"""The vanishing-gradient watch: its numbers against NumPy, its alarm on logs made for it, and whole runs."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import kill
import numpy as np
import optax
import pytest
from flax import nnx

from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.optim.schedules import Length
from mixer_jax.training import experiment as experiments
from mixer_jax.training import loop, watch

LENGTH = Length(60, 22.5)
ON = {'change': 1e-8, 'loss': 1e-3, 'lines': 5}
KINDS = ('change', 'grad_norm', 'update_norm')


class Small(nnx.Module):
  """One of everything that groups are made of."""

  def __init__(self, rngs):
    self.stem = nnx.Linear(3, 5, rngs=rngs)
    self.blocks = nnx.List([nnx.Linear(5, 5, rngs=rngs) for _ in range(2)])
    self.norm = nnx.LayerNorm(5, rngs=rngs)
    self.head_hidden = nnx.List([nnx.Linear(5, 4, rngs=rngs)])
    self.decoder = nnx.Dict(blocks=nnx.List([nnx.Linear(5, 5, rngs=rngs)]), out=nnx.Linear(5, 3, rngs=rngs))
    # As the numbers of a table that has categories only.
    self.nothing = nnx.Linear(0, 2, kernel_init=nnx.initializers.zeros, rngs=rngs)


def draw(like, seed, scale=1.0):
  """Random numbers of the shapes of a state."""
  leaves, tree = jax.tree.flatten(like)
  random = np.random.default_rng(seed)
  return jax.tree.unflatten(tree, [jnp.asarray(scale * random.normal(size=x.shape), jnp.float32) for x in leaves])


def flat(state):
  """{'blocks.0.kernel': array}."""
  return {'.'.join(map(str, path)): np.asarray(leaf[...], np.float64) for path, leaf in nnx.to_flat_state(state)}


def four(params):
  """Parameters before and after a step, gradients, updates: random, and none the sum of others."""
  return params, draw(params, 1), draw(params, 2, 0.1), draw(params, 3, 0.01)


def test_numbers_are_those_of_numpy():
  before, after, grads, updates = states = four(nnx.state(Small(nnx.Rngs(0)), nnx.Param))
  result = jax.jit(watch.numbers)(*states)
  members = {
    'stem': ['stem.kernel', 'stem.bias'],
    'blocks.0': ['blocks.0.kernel', 'blocks.0.bias'],
    'blocks.1': ['blocks.1.kernel', 'blocks.1.bias'],
    'norm': ['norm.scale', 'norm.bias'],
    'head_hidden.0': ['head_hidden.0.kernel', 'head_hidden.0.bias'],
    'decoder.blocks.0': ['decoder.blocks.0.kernel', 'decoder.blocks.0.bias'],
    'decoder': ['decoder.out.kernel', 'decoder.out.bias'],
    'nothing': ['nothing.kernel', 'nothing.bias'],
  }
  assert sorted(sum(members.values(), [])) == sorted(flat(before))
  expected = {}
  for group, names in members.items():
    for what, state in (('grad_norm', grads), ('update_norm', updates)):
      expected[f'watch/{group}/{what}'] = np.sqrt(sum((flat(state)[name] ** 2).sum() for name in names))
    if group not in ('norm', 'nothing'):
      expected[f'watch/{group}/change'] = np.abs(flat(after)[names[0]] - flat(before)[names[0]]).max()
  assert set(result) == set(expected) == set(watch.names(before))
  for name, value in result.items():
    assert value.dtype == jnp.float32 and value.shape == ()
    assert float(value) == pytest.approx(expected[name], rel=1e-5), name


def test_the_largest_kernel_of_a_group_counts_and_nothing_else():
  model = MlpMixer(
    image=(4, 4, 1), classes=3, patch=2, hidden=6, blocks=2, token_mlp=5, channel_mlp=7, rngs=nnx.Rngs(0)
  )
  before = nnx.state(model, nnx.Param)
  after = jax.tree.map(lambda x: x + 0.25, before)
  after['blocks'][1]['channel_mixing']['fc1']['kernel'][...] -= 1.25  # so by -1
  after['blocks'][0]['token_mixing']['fc2']['bias'][...] += 9
  result = watch.numbers(before, after, before, before)
  changes = {name.split('/')[1]: float(value) for name, value in result.items() if name.endswith('change')}
  assert changes == pytest.approx({'stem': 0.25, 'blocks.0': 0.25, 'blocks.1': 1.0, 'head': 0.25}, rel=1e-5)


def test_what_rounding_loses_has_changed_nothing():
  params = nnx.State({'head': {'kernel': nnx.Param(jnp.array([[1.0, -2.0]])), 'bias': nnx.Param(jnp.zeros(2))}})
  tiny, seen = (jax.tree.map(lambda x, u=u: jnp.full_like(x, u), params) for u in (1e-9, 1e-6))

  @jax.jit
  def step(params, updates):
    after = optax.apply_updates(params, updates)
    return after, watch.numbers(params, after, updates, updates)

  for updates in (tiny, seen):
    after, result = step(params, updates)
    moved = np.abs(np.asarray(after['head']['kernel'][...]) - [[1.0, -2.0]]).max()
    assert float(result['watch/head/change']) == moved
    assert float(result['watch/head/update_norm']) == pytest.approx(2 * float(updates['head']['bias'][0]), rel=1e-5)
    assert (moved == 0) == (updates is tiny)


def test_groups_of_scanned_blocks_are_those_of_single_ones():
  sizes = {'image': (4, 4, 1), 'classes': 3, 'patch': 2, 'hidden': 6, 'blocks': 3, 'token_mlp': 5, 'channel_mlp': 7}
  single = four(nnx.state(MlpMixer(**sizes, rngs=nnx.Rngs(0)), nnx.Param))
  scanned = nnx.state(MlpMixer(**sizes, scan=True, rngs=nnx.Rngs(0)), nnx.Param)

  def stacked(state):
    leaves = dict(nnx.to_flat_state(state))
    blocks = lambda path: [leaves['blocks', i, *path[1:]][...] for i in range(3)]
    values = lambda path: jnp.stack(blocks(path)) if path[0] == 'blocks' else leaves[path][...]
    return nnx.map_state(lambda path, _: values(path), scanned)

  expected, result = watch.numbers(*single), watch.numbers(*map(stacked, single))
  groups = ('stem', 'blocks.0', 'blocks.1', 'blocks.2', 'pre_head_norm', 'head')
  assert set(result) == {f'watch/{g}/{w}' for g in groups for w in KINDS} - {'watch/pre_head_norm/change'}
  assert set(result) == set(expected)
  for name, value in expected.items():
    assert float(result[name]) == pytest.approx(float(value), rel=1e-6), name
  assert len({float(expected[f'watch/{g}/change']) for g in groups if g != 'pre_head_norm'}) == 5


def test_groups_of_a_model_for_tables():
  config = configs.load([f'--config={kill.ROOT / "configs" / "breast_cancer.py"}'])
  experiment = experiments.build(config)
  groups = {name.split('/')[1] for name in watch.names(nnx.state(experiment.model, nnx.Param))}
  assert groups == {'stem', 'blocks.0', 'blocks.1', 'norm', 'head'}


# In the step


def build(on, **changes):
  config = kill.tiny(augment={}, **changes) | {'watch': on, 'ema': 0.0}
  experiment = experiments.build(config)
  return experiment, experiment.optimizer(LENGTH)[0]


def batch(experiment, seed=0):
  random = np.random.default_rng(seed)
  image = random.integers(0, 256, (64, *experiment.data.image), np.uint8)
  return {'image': jnp.asarray(image), 'label': jnp.asarray(random.integers(0, 10, 64), jnp.int32)}


def test_a_step_sums_what_it_did():
  sgd = {'name': 'sgd', 'momentum': 0.0, 'clip': 0.0}
  experiment, optimizer = build(ON, optimizer=sgd, schedule={'name': 'constant', 'peak': 0.5, 'warmup': '0'})
  step = jax.jit(experiment.train_step(optimizer, LENGTH))
  states = [experiment.init_state(optimizer)]
  for i in range(2):
    states.append(step(states[-1], batch(experiment, i)))
  sums = jax.device_get(states[-1].sums)
  values = [flat(state.params) for state in states]
  moved = [{name: np.abs(b[name] - a[name]) for name in a} for a, b in zip(values, values[1:], strict=False)]
  for group, prefix in {'stem': 'stem', 'head': 'head', 'blocks.0': 'blocks.0', 'blocks.1': 'blocks.1'}.items():
    kernels = [name for name in values[0] if name.startswith(f'{prefix}.') and name.endswith('.kernel')]
    total = np.float32(0)
    for of_step in moved:
      total += np.float32(max(of_step[name].max() for name in kernels))
    # The very weights, so to the last bit.
    assert sums[f'watch/{group}/change'] == total and total > 0
    assert sums[f'watch/{group}/update_norm'] == pytest.approx(0.5 * sums[f'watch/{group}/grad_norm'], rel=1e-5)
  first = jax.device_get(states[1].sums)
  parts = [value for name, value in first.items() if name.startswith('watch/') and name.endswith('/grad_norm')]
  assert len(parts) == 5
  assert np.linalg.norm(parts) == pytest.approx(float(first['grad_norm']), rel=1e-5)


@pytest.mark.parametrize('scan', [False, True])
def test_off_is_the_same_program_as_without_a_watch(scan, monkeypatch):
  model = kill.tiny()['model'] | {'scan': scan}

  def program(on):
    experiment, optimizer = build(on, model=model)
    state = experiment.init_state(optimizer, abstract=True)
    return list(state.sums), str(jax.make_jaxpr(experiment.train_step(optimizer, LENGTH))(state, batch(experiment)))

  (names_on, on), (names, off) = program(ON), program({})
  assert not any('watch' in name for name in names)
  assert sum(name.startswith('watch/') for name in names_on) == len(names_on) - len(names) == 14
  monkeypatch.setattr(watch, 'numbers', None)
  assert program({}) == (names, off)
  assert on != off


# The alarm


def lines(losses, **changes):
  """Lines of training with the changes of groups, and one of evaluation after each."""
  result = []
  for i, loss in enumerate(losses):
    line = {'step': 10 * (i + 1), 'train/loss': loss, 'train/grad_norm': 1.0, 'watch/norm/grad_norm': 0.0}
    line |= {f'watch/{group.replace("_", ".")}/change': values[i] for group, values in changes.items()}
    result += [line, {'step': 10 * (i + 1), 'test/loss': 0.5}]
  return result


def report(log, **limits):
  """{step: groups} of the alarms of a log."""
  alarm = watch.Alarm(**(ON | {'lines': 3} | limits))
  return {line['step']: groups for line in log if (groups := alarm(line))}


RNG = np.random.default_rng(0)
MOVING, STILL = RNG.uniform(1e-4, 1e-2, 8), RNG.uniform(0, 0.9e-8, 8)
FLAT = 2.3 + RNG.uniform(0, 1e-3, 8)
FALLING = 2.3 * 0.99 ** np.arange(8)


@pytest.mark.parametrize(
  'losses, stem, blocks, expected',
  [
    (FLAT, MOVING, MOVING, {}),
    (FALLING, STILL, STILL, {}),
    (FLAT, STILL, MOVING, {30: ['stem']}),
    (FLAT, STILL, STILL, {30: ['stem', 'blocks.1']}),
    (FLAT, np.r_[MOVING[:3], STILL[3:]], STILL, {30: ['blocks.1'], 60: ['stem']}),
    (np.r_[FALLING[:4], FLAT[4:]], STILL, MOVING, {70: ['stem']}),
    # One line in three that moves.
    (FLAT, np.where(np.arange(8) % 3 == 2, MOVING, STILL), MOVING, {}),
    # Once, though it comes again.
    (FLAT, np.r_[STILL[:3], MOVING[3:4], STILL[4:]], MOVING, {30: ['stem']}),
    # The limit itself is not below it.
    (FLAT, np.full(8, 1e-8), np.full(8, 0.99e-8), {30: ['blocks.1']}),
    (FLAT, np.full(8, np.nan), MOVING, {}),
  ],
)
def test_when_it_is_reported(losses, stem, blocks, expected):
  log = lines(losses, stem=stem, blocks_1=blocks)
  assert report(log) == expected
  assert report([{k: v * 1e-3 if k == 'train/loss' else v for k, v in line.items()} for line in log]) == expected


def test_limits():
  log = lines(FALLING, stem=MOVING)
  assert report(log) == report(log, change=1.0) == report(log, loss=1.0) == {}
  assert report(log, change=1.0, loss=1.0) == {30: ['stem']}
  assert report(log, change=1.0, loss=1.0, lines=7) == {70: ['stem']}
  assert report(log, change=1.0, loss=1.0, lines=9) == {}
  # Of seven lines the loss falls by 1 - 0.99**6 = 5.85%.
  assert report(log, change=1.0, loss=0.058, lines=7) == {}
  assert report(log, change=1.0, loss=0.059, lines=7) == {70: ['stem']}


def test_given_what_was_written_so_far_a_new_alarm_goes_on_as_the_old_one():
  log = lines(FLAT, stem=np.r_[MOVING[:3], STILL[3:]], blocks_1=STILL)
  alarm, begun = watch.Alarm(**(ON | {'lines': 3})), []
  written = []
  for line in log:
    begun.append(alarm(line))
    written.append(json.dumps(line | {f'watch/{group}/alarm': 1 for group in begun[-1]}))
  assert sum(begun, []) == ['blocks.1', 'stem']
  for cut in range(len(log)):
    again = watch.Alarm(**(ON | {'lines': 3}))
    for text in written[:cut]:
      again(json.loads(text))
    assert [again(line) for line in log[cut:]] == begun[cut:]


def test_what_the_console_says():
  line = {'train/loss': 1.0, 'watch/stem/change': 0.5, 'watch/head/change': 0.0123, 'watch/norm/grad_norm': 1e-9}
  assert watch.smallest(line) == 'smallest change 0.012 in head'
  assert watch.smallest({'watch/norm/grad_norm': 1e-9}) == ''


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'change': 0.0}, r'watch.change is 0.0, but must be in \(0, inf\)'),
    ({'loss': -1.0}, 'watch.loss is -1.0, but must be in '),
    ({'lines': 1}, r'watch.lines is 1, but must be in \[2, '),
    ({'lines': 2.5}, 'watch.lines is 2.5'),
    ({'change': 'small'}, "watch.change is 'small'"),
    ({'colour': 3}, 'watch.colour'),
  ],
)
def test_refusals(settings, message):
  with pytest.raises(MixerError, match=message):
    experiments.build(kill.tiny(watch=ON | settings))


# Whole runs


def quick(peak, **changes):
  """A run of one block at a constant rate, without augmentation."""
  model = kill.tiny()['model'] | {'blocks': 1}
  schedule = {'name': 'constant', 'peak': peak, 'warmup': '0'}
  return kill.tiny(model=model, schedule=schedule, augment={}, **{'watch': ON} | changes)


def alarms(workdir):
  """{step: groups}."""
  read = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  found = {line['step']: sorted(name.split('/')[1] for name in line if name.endswith('/alarm')) for line in read}
  assert all(value == 1 for line in read for name, value in line.items() if name.endswith('/alarm'))
  return {step: groups for step, groups in found.items() if groups}


def test_a_run_that_cannot_learn_is_reported(tmp_path, capfd):
  config = quick(1e-30)
  assert loop.train_and_evaluate(config, tmp_path)
  assert alarms(tmp_path) == {35: ['blocks.0', 'head', 'stem']}
  out, err = capfd.readouterr()
  assert err.count('warning: at step 35 the weights of blocks.0, head, stem stand still') == 1
  assert err.count('stand still') == 1
  shown = [line for line in out.splitlines() if 'train/loss' in line]
  assert len(shown) == 8 and all('  smallest change ' in line and 'watch/' not in line for line in shown)
  assert (tmp_path / 'figures' / 'watch.png').stat().st_size > 1000
  assert 'figures/watch.png' in out.splitlines()[-1]


@pytest.mark.nightly
def test_a_run_that_learns_is_not_reported_and_the_rest_of_it_is_as_without_a_watch(tmp_path, capfd):
  """The numbers that the step gives are compared as text: on the CPU of the tests they are the same bits."""
  for name, on in (('on', ON), ('off', {})):
    loop.train_and_evaluate(quick(1e-2, watch=on), tmp_path / name)
  assert alarms(tmp_path / 'on') == {} and 'stand still' not in capfd.readouterr().err
  log = kill.log_lines(tmp_path / 'on')
  groups = ('blocks.0', 'head', 'stem')
  assert all(1e-4 < line[f'watch/{g}/change'] < 0.1 for line in log if 'train/loss' in line for g in groups)
  plain = [{k: v for k, v in line.items() if not k.startswith('watch/')} for line in log]
  for ours, theirs in zip(plain, kill.log_lines(tmp_path / 'off'), strict=True):
    assert ours == pytest.approx(theirs, rel=1e-4)
  assert not (tmp_path / 'off' / 'figures' / 'watch.png').exists()


def stop(monkeypatch, at):
  """Sends this process SIGTERM when the feed of step `at` is asked for; steps come one by one."""
  original = loop.loader.Loader.train

  def train(self, step, count):
    if step == at:
      os.kill(os.getpid(), signal.SIGTERM)
    return original(self, step, count)

  monkeypatch.setattr(loop, 'CALL_SECONDS', 0.0)
  monkeypatch.setattr(loop.loader.Loader, 'train', train)


@pytest.mark.nightly
def test_a_resumed_run_reports_the_same(tmp_path, monkeypatch, capfd):
  """A stop before the alarm, between its lines, and one after it."""
  config = quick(1e-6, watch=ON | {'change': 1e-4}, eval_every='60 steps', checkpoint_every='60 steps')
  loop.train_and_evaluate(config, tmp_path / 'whole')
  assert alarms(tmp_path / 'whole') == {35: ['blocks.0', 'head', 'stem']}
  capfd.readouterr()
  for at in (25, 45):
    with monkeypatch.context() as patch:
      stop(patch, at)
      assert loop.train_and_evaluate(config, tmp_path / 'run') is None
  assert loop.train_and_evaluate(config, tmp_path / 'run')
  assert capfd.readouterr().err.count('stand still') == 1
  assert kill.differences(tmp_path / 'whole', tmp_path / 'run') == []
  state = kill.last_state(tmp_path / 'run')
  assert sum("sums['watch/" in name for name in state) == 11  # three numbers of four groups, a norm has no change
