"""The ranges that settings declare: every key out of its range is refused by name, from Python and the command line."""

import math

import pytest

from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.ranges import Within
from mixer_jax.training import settings

INF, NAN, HUGE = math.inf, math.nan, 10**30
AMOUNTS = (-0.1, NAN, INF)
SAMS = ('sam', 'asam', 'gsam', 'fisher_sam', 'dynamic_sam', 'look_sam')
OPTIMIZERS = ('adam', 'adamw', 'muon', 'schedule_free')


def base(**changes):
  config = {
    'total': '3 epochs', 'batch_size': 16, 'schedule': {'name': 'cosine', 'peak': 1e-3}, 'data': {'name': 'digits'},
    'model': {'name': 'mixer', 'patch': 2, 'hidden': 4, 'blocks': 1, 'token_mlp': 3, 'channel_mlp': 5},
  }  # fmt: skip
  return config | changes


OUTSIDE = [
  *((base(), 'config', key, value) for key in ('batch_size', 'accumulate') for value in (0, -1, HUGE)),
  *((base(), 'config', 'eval_batch_size', value) for value in (0, 2**63)),
  *((base(), 'config', 'seed', value) for value in (-1, 2**32)),
  *((base(), 'config', 'ema', value) for value in (-0.1, 1.0, NAN)),
  *((base(), 'data', 'workers', value) for value in (-1, 1025, HUGE)),
  *((base(), 'data', 'resident_mib', value) for value in AMOUNTS),
  *((base(), 'data', 'crop_from', value) for value in (-1, HUGE)),
  *((base(), 'data', 'bits', value) for value in (0, 17)),
  (
    base(data={'name': 'breast_cancer'}, model={'name': 'tabular', 'hidden': 4, 'blocks': 1}),
    'data',
    'column_order',
    -1,
  ),
  *((base(), 'mesh', key, value) for key in ('data', 'fsdp') for value in (-2, HUGE)),
  *((base(), 'task', 'label_smoothing', value) for value in (-0.1, 1.0, NAN)),
  (base(task={'name': 'binary'}), 'task', 'positive_weight', 0.0),
  *((base(task={'name': 'reconstruction'}), 'task', 'noise', value) for value in AMOUNTS),
  *((base(optimizer={'name': name}), 'optimizer', 'eps', value) for name in OPTIMIZERS for value in AMOUNTS),
  *((base(optimizer={'name': name}), 'optimizer', 'clip', value) for name in (*OPTIMIZERS, 'sgd') for value in AMOUNTS),
  *(
    (base(optimizer={'name': name}), 'optimizer', 'weight_decay', value) for name in OPTIMIZERS[1:] for value in AMOUNTS
  ),
  *((base(optimizer={'name': name}), 'optimizer', 'b2', value) for name in OPTIMIZERS for value in (-0.1, 1.0, 2**31)),
  (base(optimizer={'name': 'schedule_free'}), 'optimizer', 'b1', 0.0),
  (base(optimizer={'name': 'sgd'}), 'optimizer', 'momentum', 1.0),
  (base(optimizer={'name': 'muon'}), 'optimizer', 'beta', 1.5),
  (base(optimizer={'name': 'optax.lion'}), 'optimizer', 'clip', -1.0),
  *((base(sam={'name': name}), 'sam', 'rho', value) for name in SAMS for value in AMOUNTS),
  *((base(sam={'name': 'asam', 'rho': 0.1}), 'sam', 'eta', value) for value in AMOUNTS),
  *(
    (base(sam={'name': name, 'rho': 0.1}), 'sam', 'alpha', value) for name in ('gsam', 'look_sam') for value in AMOUNTS
  ),
  *(
    (base(sam={'name': n, 'rho': 0.1}), 'sam', 'sparsity', v) for n in ('fisher_sam', 'dynamic_sam') for v in (1.0, NAN)
  ),
  (base(sam={'name': 'dynamic_sam', 'rho': 0.1}), 'sam', 'drop', 1.5),
  (base(sam={'name': 'fisher_sam', 'rho': 0.1}), 'sam', 'refresh', 0),
  (base(sam={'name': 'look_sam', 'rho': 0.1}), 'sam', 'every', 0),
  *((base(update_noise={'eta': 0.1}), 'update_noise', key, value) for key in ('eta', 'gamma') for value in AMOUNTS),
  *((base(), 'layers', 'decay', value) for value in (0.0, 1.1, NAN)),
  *((base(), 'watch', key, value) for key, value in (('change', 0.0), ('loss', -1.0), ('lines', 1))),
]


@pytest.mark.parametrize('config, section, key, value', OUTSIDE)
def test_a_number_outside_its_range_is_refused_by_name(config, section, key, value):
  part = {key: value} if section == 'config' else {section: config.get(section, {}) | {key: value}}
  with pytest.raises(MixerError, match=rf'{section}\.{key} is .* must be in [\[(][-\d]') as error:
    settings.resolve(config | part)
  shown = value if isinstance(value, float) else int(value)
  assert repr(shown) in str(error.value) or repr(float(shown)) in str(error.value)


@pytest.mark.parametrize('key, value', [('model.hidden', HUGE), ('model.dropout', NAN)])
def test_what_no_computation_can_use_is_refused_without_a_range(key, value):
  section, name = key.split('.')
  with pytest.raises(MixerError, match=rf'{key} is .* must (be a number|fit into 64 bits)'):
    settings.resolve(base(**{section: base()[section] | {name: value}}))


def test_whole_numbers_become_floats_where_a_setting_is_one():
  whole = settings.resolve(configs.load(['--config=digits', '--config.optimizer.clip=2', '--config.schedule.peak=1']))
  assert type(whole['optimizer']['clip']) is float and type(whole['schedule']['peak']) is float
  assert type(whole['batch_size']) is int


def test_an_interval():
  inside = {'[0, 1)': (0, 0.5), '(0, inf)': (1e-300, 1e300), '[-1, 2]': (-1, 2, (0, 1), None)}
  outside = {'[0, 1)': (1, -1e-9, NAN), '(0, inf)': (0, INF), '[-1, 2]': (2.1, (0, 3))}
  assert all(value in Within(text) for text, values in inside.items() for value in values)
  assert not any(value in Within(text) for text, values in outside.items() for value in values)
