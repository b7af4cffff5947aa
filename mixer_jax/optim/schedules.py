"""Learning-rate schedules by name, or your own as `module:function`; durations in steps, epochs or % of the run."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mixer_jax import parts
from mixer_jax.errors import MixerError, unknown


@dataclasses.dataclass(frozen=True)
class Length:
  """The length of a run and of an epoch in steps; `epoch` is fractional if the batch does not divide the data."""

  total: int
  epoch: float

  def steps(self, duration: str, what: str) -> int:
    return steps(duration, what, epoch=self.epoch, total=self.total)


def steps(duration: str, what: str, *, epoch: float, total: int | None = None) -> int:
  """Parses '500 steps', '10 epochs', '0.5 epochs' or '5%' (of the run) into steps, at least 1 unless '0'.

  Raises:
    MixerError: not a duration, over 100%, or a percentage where the run's length is unknown.
  """
  if duration.strip() == '0':
    return 0
  match = re.fullmatch(r'\s*(\d+(?:\.\d*)?)\s*(steps?|epochs?|%)\s*', duration)
  if not match or (match[2] == '%' and total is None):
    raise MixerError(f"{what} is {duration!r}, but must be like '500 steps', '10 epochs', '5%' of the run, or '0'")
  unit = {'s': 1.0, 'e': epoch, '%': (total or 0) / 100}[match[2][0]]
  if match[2] == '%' and float(match[1]) > 100:
    raise MixerError(f"{what} is {duration!r} of the run, but must be at most '100%'")
  count = round(float(match[1]) * unit)
  return max(count, 1) if float(match[1]) else 0


def sampled(schedule: optax.Schedule, total: int, most: int = 2000) -> tuple[np.ndarray, np.ndarray]:
  """Steps, evenly spaced from the first to the last of a run, and the learning rate at each."""
  steps = np.linspace(0, total - 1, min(total, most)).round().astype(np.int32)
  return steps, np.asarray(jax.jit(jax.vmap(schedule))(steps))


RAMPS = {
  'linear': lambda peak, steps: optax.linear_schedule(0.0, peak, steps),
  'sine': lambda peak, steps: lambda step: peak * jnp.sin(jnp.pi / 2 * jnp.minimum(step / steps, 1)),
}


def constant(*, peak: float, warmup: str = '0', ramp: str = 'linear', length: Length) -> optax.Schedule:
  """Warm-up from 0 to the peak, then constant.

  Args:
    ramp: the shape of the warm-up, here and below: `linear`, or `sine`: peak x sin(pi / 2 x step / warm-up).
  """
  return _after_warmup(lambda _: optax.constant_schedule(peak), peak, warmup, length, ramp)


def linear(
  *, peak: float, warmup: str = '0', floor: float = 0.0, ramp: str = 'linear', length: Length
) -> optax.Schedule:
  """Warm-up from 0 to the peak, then linear decay to the floor at the last step."""
  _check_rates(peak, floor)
  return _after_warmup(lambda rest: optax.linear_schedule(peak, floor, rest), peak, warmup, length, ramp)


def cosine(
  *, peak: float, warmup: str = '0', floor: float = 0.0, ramp: str = 'linear', length: Length
) -> optax.Schedule:
  """Warm-up from 0 to the peak, then cosine decay to the floor (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
  _check_rates(peak, floor)
  decay = lambda rest: optax.cosine_decay_schedule(peak, rest, alpha=floor / peak)
  return _after_warmup(decay, peak, warmup, length, ramp)


def restarts(
  *, peak: float, period: str, growth: float = 1.0, warmup: str = '0', floor: float = 0.0, ramp: str = 'linear',
  length: Length,
) -> optax.Schedule:  # fmt: skip
  """Warm-up from 0 to the peak, then cosine decay to the floor with warm restarts (SGDR, arXiv 1608.03983).

  Args:
    period: the length of the first cycle; each later one is `growth` times as long.
  """
  _check_rates(peak, floor)
  first = length.steps(period, 'schedule.period')
  if first < 1:
    raise MixerError(f'schedule.period is {period!r}, but must be at least a step')
  if not 1 <= growth < math.inf:
    raise MixerError(f'schedule.growth is {growth}, but must be at least 1 and finite')

  fall = optax.cosine_decay_schedule(peak, 1, alpha=floor / peak)  # takes the elapsed fraction of a cycle

  def cosines(rest: int) -> optax.Schedule:
    if first > rest:
      raise MixerError(
        f'schedule.period is {period!r}, {first} steps, but the whole run has {length.total}, of which {rest} are after'
        ' the warm-up, so nothing would restart; shorten it'
      )
    if growth == 1:
      return lambda step: fall(step % first / first)
    count = math.ceil(math.log1p(rest * (growth - 1) / first) / math.log(growth)) + 1
    edges = first * (growth ** np.arange(count + 1) - 1) / (growth - 1)
    starts = jnp.array(np.minimum(edges[:-1].round(), 2**31 - 1).astype(np.int32))
    lengths = jnp.array(np.diff(edges).round())

    def schedule(step):
      i = jnp.searchsorted(starts, step, side='right') - 1
      return fall((step - starts[i]) / lengths[i])

    return schedule

  return _after_warmup(cosines, peak, warmup, length, ramp)


def sharp_cosine(*, peak: float, hold: str, decay: str, floor: float = 0.0, length: Length) -> optax.Schedule:
  """The peak for `hold`, cosine decay to the floor over `decay`, then the floor."""
  _check_rates(peak, floor)
  kept, falling = (length.steps(value, f'schedule.{what}') for what, value in (('hold', hold), ('decay', decay)))
  if not falling:
    raise MixerError(f'schedule.decay is {decay!r}, but must be at least a step')
  if falling > length.total - kept:
    raise MixerError(
      f'schedule.hold is {hold!r} and schedule.decay {decay!r}, {kept} and {falling} steps, but the whole run has'
      f' {length.total}; shorten them'
    )
  return optax.join_schedules(
    [optax.constant_schedule(peak), optax.cosine_decay_schedule(peak, falling, alpha=floor / peak)], [kept]
  )


def one_cycle(*, peak: float, start: float, rise: str, floor: float = 0.0, length: Length) -> optax.Schedule:
  """`start` to peak over `rise`, then down to the floor, both along a cosine (Smith and Topin 2017, arXiv 1708.07120).

  Deviations: the paper rises and falls linearly, for equally long, with a short tail; this is fastai's shape, as in
  optax. The momentum stays constant.
  """
  _check_rates(peak, floor)
  if not 0 < start <= peak:
    raise MixerError(f'schedule.start is {start}, but must be above 0 and at most the peak {peak}')
  rising = length.steps(rise, 'schedule.rise')
  if not rising:
    raise MixerError(f'schedule.rise is {rise!r}, but must be at least a step')
  if rising >= length.total:
    raise MixerError(f'schedule.rise is {rise!r}, {rising} steps, but the whole run has {length.total}; shorten it')
  steps = {rising: peak / start, length.total: floor / peak}
  return optax.piecewise_interpolate_schedule('cosine', start, steps)


def outside(function: Callable, name: str, what: str) -> Callable:
  """Wraps a user's schedule, (settings, and `length` if it takes it) -> a function of the step, and traces it once."""

  @functools.wraps(function)
  def make(**settings):
    schedule = function(**settings)
    try:
      rate = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
    except Exception as error:  # User code may raise anything.
      reason = ' '.join(str(error).split())[:200]
      raise MixerError(f'{what} is {name!r}, but its rate fails: {type(error).__name__}: {reason}') from error
    if getattr(rate, 'shape', None) != ():
      raise MixerError(f'{what} is {name!r}, but it returns {rate} for a step, not one number')
    return schedule

  return make


SCHEDULES = parts.Table(
  {
    'constant': constant, 'linear': linear, 'cosine': cosine, 'restarts': restarts, 'sharp_cosine': sharp_cosine,
    'one_cycle': one_cycle,
  },
  context=('length',), adapt=outside,
)  # fmt: skip


def _check_rates(peak: float, floor: float = 0.0) -> None:
  if not 0 < peak < math.inf:
    raise MixerError(f'schedule.peak is {peak}, but must be positive and finite')
  if not 0 <= floor <= peak:
    raise MixerError(f'schedule.floor is {floor}, but must be between 0 and the peak {peak}')


def _after_warmup(
  rest: Callable[[int], optax.Schedule], peak: float, warmup: str, length: Length, ramp: str
) -> optax.Schedule:
  if ramp not in RAMPS:
    raise unknown('schedule.ramp', ramp, RAMPS)
  _check_rates(peak)
  steps = length.steps(warmup, 'schedule.warmup')
  if steps >= length.total:
    raise MixerError(f'schedule.warmup is {warmup!r}, {steps} steps, but the whole run has {length.total}; shorten it')
  after = rest(length.total - steps)
  return optax.join_schedules([RAMPS[ramp](peak, steps), after], [steps]) if steps else after
