"""Schedules against the closed forms, durations, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mixer_jax.errors import MixerError
from mixer_jax.optim import schedules
from mixer_jax.optim.schedules import Length


@pytest.mark.parametrize(
  ('duration', 'count'),
  [
    ('500 steps', 500),
    ('1 step', 1),
    ('10 epochs', 234),
    ('0.5 epochs', 12),
    ('5%', 50),
    ('0', 0),
    ('0.001 epochs', 1),
  ],
)
def test_durations(duration, count):
  assert schedules.steps(duration, 'total', epoch=23.4, total=1000) == count


@pytest.mark.parametrize('duration', ['', '5', 'ten epochs', '-5 steps', '5 minutes', '5 epochs or so'])
def test_durations_that_cannot_be_read(duration):
  with pytest.raises(MixerError, match="warmup is .* must be like '500 steps'"):
    schedules.steps(duration, 'warmup', epoch=23.4, total=1000)


def test_more_than_a_whole_run():
  assert schedules.steps('100%', 'total', epoch=23.4, total=1000) == 1000
  with pytest.raises(MixerError, match="warmup is '100.1%' of the run, but must be at most '100%'"):
    schedules.steps('100.1%', 'warmup', epoch=23.4, total=1000)


def test_a_part_of_a_run_needs_its_length():
  with pytest.raises(MixerError):
    schedules.steps('5%', 'total', epoch=23.4)


LENGTH = Length(total=110, epoch=5.0)


def test_warm_up_is_linear_from_zero():
  schedule = schedules.cosine(peak=0.3, warmup='2 epochs', floor=0.01, length=LENGTH)
  for step in range(11):
    assert float(schedule(step)) == pytest.approx(0.3 * step / 10, rel=1e-6)


def test_a_sine_ramp_meets_the_cosine():
  schedule = schedules.cosine(peak=0.3, warmup='20 steps', floor=0.0, ramp='sine', length=LENGTH)
  for step in range(110):
    wanted = math.sin(math.pi / 2 * step / 20) if step < 20 else (1 + math.cos(math.pi * (step - 20) / 90)) / 2
    assert float(schedule(step)) == pytest.approx(0.3 * wanted, abs=1e-6)
  with pytest.raises(MixerError, match="unknown schedule.ramp 'sin'; did you mean 'sine'"):
    schedules.cosine(peak=0.3, warmup='0', floor=0.0, ramp='sin', length=LENGTH)


@pytest.mark.parametrize(
  ('name', 'settings'),
  [('constant', {}), ('linear', {'floor': 0.1}), ('restarts', {'floor': 0.1, 'period': '30 steps', 'growth': 1.0})],
)
def test_every_warm_up_can_be_a_sine(name, settings):
  sine, straight = (
    schedules.SCHEDULES[name](peak=0.3, warmup='20 steps', ramp=ramp, length=LENGTH, **settings)
    for ramp in ('sine', 'linear')
  )
  for step in range(20):
    assert float(sine(step)) == pytest.approx(0.3 * math.sin(math.pi / 2 * step / 20), abs=1e-6)
    assert float(straight(step)) == pytest.approx(0.3 * step / 20, abs=1e-6)
  assert [float(sine(step)) for step in range(20, 110)] == [float(straight(step)) for step in range(20, 110)]


def test_cosine_reaches_the_floor_at_the_last_step():
  schedule = schedules.cosine(peak=0.3, warmup='10 steps', floor=0.01, length=LENGTH)
  for step in (10, 11, 35, 60, 109, 110):
    share = (step - 10) / 100
    assert float(schedule(step)) == pytest.approx(0.01 + 0.29 * (1 + math.cos(math.pi * share)) / 2, rel=1e-5)


def test_linear_reaches_the_floor_at_the_last_step():
  schedule = schedules.linear(peak=0.3, warmup='10 steps', floor=0.05, length=LENGTH)
  for step in (10, 47, 110):
    assert float(schedule(step)) == pytest.approx(0.3 - 0.25 * (step - 10) / 100, rel=1e-5)


def test_constant_stays_and_needs_no_warm_up():
  assert [float(schedules.constant(peak=0.3, warmup='0', length=LENGTH)(s)) for s in (0, 50, 110)] == [
    pytest.approx(0.3)
  ] * 3


def test_refusals():
  with pytest.raises(MixerError, match='peak is 0'):
    schedules.constant(peak=0, warmup='0', length=LENGTH)
  with pytest.raises(MixerError, match=r"warmup is '22 epochs', 110 steps, but the whole run has 110"):
    schedules.cosine(peak=1.0, warmup='22 epochs', floor=0.0, length=LENGTH)
  with pytest.raises(MixerError, match=r'floor is 2.* peak'):
    schedules.linear(peak=1.0, warmup='0', floor=2.0, length=LENGTH)


def the_loops_cosine(step, peak, floor, ramp, first, growth):
  """Cosine after cosine, each found by walking there."""
  if step < ramp:
    return peak * step / ramp
  start, length = 0.0, float(first)
  while round(start + length) <= step - ramp:
    start, length = start + length, length * growth
  share = (step - ramp - round(start)) / round(length)
  return floor + (peak - floor) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


@pytest.mark.parametrize(('growth', 'warmup'), [(1.0, '0'), (1.0, '7 steps'), (1.5, '0'), (2.0, '10 steps')])
def test_warm_restarts_are_cosine_after_cosine(growth, warmup):
  settings = {'peak': 0.3, 'floor': 0.01, 'growth': growth}
  schedule = schedules.restarts(**settings, warmup=warmup, period='3 epochs', length=LENGTH)
  ramp = schedules.steps(warmup, 'warmup', epoch=5.0)
  expected = [the_loops_cosine(step, **settings, ramp=ramp, first=15) for step in range(110)]
  np.testing.assert_allclose(jax.vmap(schedule)(jnp.arange(110)), expected, rtol=1e-5)


@pytest.mark.parametrize('growth', [1.0, 1.1])
def test_warm_restarts_of_a_long_run_are_no_list_of_cosines(growth):
  length = Length(10**9, 1.0)  # a list of its cosines would take minutes and gigabytes
  schedule = schedules.restarts(peak=0.3, floor=0.0, growth=growth, warmup='0', period='10 steps', length=length)
  assert [float(schedule(jnp.int32(step))) for step in (0, 10)] == [pytest.approx(0.3)] * 2


@pytest.mark.parametrize('wrong', [{'period': '0'}, {'growth': 0.9}, {'growth': math.nan}, {'floor': 0.4}])
def test_warm_restarts_refuse(wrong):
  settings = {'peak': 0.3, 'floor': 0.01, 'growth': 1.0, 'warmup': '0', 'period': '3 epochs'} | wrong
  with pytest.raises(MixerError, match=f'schedule.{next(iter(wrong))} is'):
    schedules.restarts(**settings, length=LENGTH)


def test_sharp_cosine_holds_falls_and_stays():
  schedule = schedules.sharp_cosine(peak=0.1, hold='2 epochs', decay='20%', floor=1e-3, length=LENGTH)
  for step in (0, 9, 10, 16, 32, 33, 109):
    share = min(max(step - 10, 0) / 22, 1)
    assert float(schedule(step)) == pytest.approx(1e-3 + 0.099 * (1 + math.cos(math.pi * share)) / 2, rel=1e-5)
  with pytest.raises(MixerError, match='shorten them'):
    schedules.sharp_cosine(peak=0.1, hold='90%', decay='20%', floor=1e-3, length=LENGTH)


def test_one_cycle_rises_and_falls_by_half_cosines():
  schedule = schedules.one_cycle(peak=0.4, start=0.1, rise='22 steps', floor=0.02, length=LENGTH)
  half = lambda a, b, part: b + (a - b) * (1 + math.cos(math.pi * part)) / 2
  for step in range(110):
    wanted = half(0.1, 0.4, step / 22) if step < 22 else half(0.4, 0.02, (step - 22) / 88)
    assert float(schedule(step)) == pytest.approx(wanted, rel=1e-5)


def test_one_cycle_is_that_of_optax():
  ours = schedules.one_cycle(peak=0.4, start=0.4 / 25, rise='30%', floor=0.4 / 25 / 1e4, length=Length(200, 5.0))
  theirs = optax.cosine_onecycle_schedule(200, 0.4, pct_start=0.3, div_factor=25, final_div_factor=1e4)
  np.testing.assert_allclose([ours(step) for step in range(200)], [theirs(step) for step in range(200)], rtol=1e-5)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'start': 0.0}, r'schedule.start is 0.0, but must be above 0'),
    ({'start': 0.5}, r'schedule.start is 0.5, .* peak 0.4'),
    ({'rise': '110 steps'}, r"schedule.rise is '110 steps', 110 steps, but the whole run has 110"),
    ({'floor': 0.5}, r'schedule.floor is 0.5'),
  ],
)
def test_one_cycle_that_does_not_fit_is_refused(changes, message):
  with pytest.raises(MixerError, match=message):
    schedules.one_cycle(**{'peak': 0.4, 'start': 0.1, 'rise': '22 steps', 'floor': 0.0, 'length': LENGTH} | changes)


def test_restarts_that_would_never_come_are_refused():
  with pytest.raises(MixerError, match=r"schedule.period is '30 epochs', 150 steps, but the whole run has 110"):
    schedules.restarts(peak=0.1, warmup='0', floor=0.0, period='30 epochs', growth=1.0, length=LENGTH)


def test_restarts_need_a_period_in_what_the_warm_up_leaves():
  settings = {'peak': 0.1, 'floor': 0.0, 'warmup': '20 steps', 'growth': 1.0, 'length': LENGTH}
  schedules.restarts(period='90 steps', **settings)
  with pytest.raises(MixerError, match=r"schedule.period is '91 steps', 91 steps, .* 110, of which 90 are after"):
    schedules.restarts(period='91 steps', **settings)


@pytest.mark.parametrize('peak', [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(
  ('name', 'settings'),
  [
    ('constant', {'warmup': '0'}),
    ('linear', {'warmup': '0', 'floor': 0.0}),
    ('cosine', {'warmup': '0', 'floor': 0.0}),
    ('restarts', {'warmup': '0', 'floor': 0.0, 'period': '3 epochs', 'growth': 1.0}),
    ('sharp_cosine', {'hold': '0', 'decay': '20%', 'floor': 0.0}),
    ('one_cycle', {'start': 0.1, 'rise': '20%', 'floor': 0.0}),
  ],
)
def test_a_peak_that_is_no_rate_is_refused(name, settings, peak):
  with pytest.raises(MixerError, match=f'schedule.peak is {peak}, but must be positive and finite'):
    schedules.SCHEDULES[name](peak=peak, length=LENGTH, **settings)


@pytest.mark.parametrize(
  ('name', 'settings', 'key'),
  [
    ('sharp_cosine', {'hold': '0', 'decay': '0'}, 'decay'),
    ('one_cycle', {'start': 0.1, 'rise': '0'}, 'rise'),
  ],
)
def test_what_takes_no_time_is_not_called_too_long(name, settings, key):
  with pytest.raises(MixerError, match=f"schedule.{key} is '0', but must be at least a step"):
    schedules.SCHEDULES[name](peak=0.3, floor=0.0, length=LENGTH, **settings)
