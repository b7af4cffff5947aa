"""When the training log writes, and of which steps its means are."""

import types

import numpy as np
import pytest

from mixer_jax.training import hooks
from mixer_jax.training.state import TrainState


@pytest.mark.parametrize(
  'total, every, expected',
  [
    (20, 5, [5, 10, 15, 20]),
    (60, 7, [*range(7, 50, 7), 60]),
    (11, 5, [5, 11]),
    (9, 5, [9]),
    (3, 4, [3]),
    (6, 1, [1, 2, 3, 4, 5, 6]),
    (10, 0, [10]),
  ],
)
def test_every_line_is_a_mean_of_at_least_the_interval(total, every, expected):
  losses = np.random.default_rng(0).uniform(size=total)
  written = {}
  log = types.SimpleNamespace(total=total, write=lambda step, scalars, note: written.update({step: scalars}))
  experiment = types.SimpleNamespace(metrics=lambda training: ('loss',))
  act = hooks.TrainingLog(experiment, log, schedule=lambda step: 0.1, alarm=None, every=every)
  sums = {name: np.zeros(()) for name in ('loss', 'examples', 'grad_norm', 'steps')}
  for step, loss in enumerate(losses, start=1):
    sums = {'loss': sums['loss'] + 4 * loss, 'examples': sums['examples'] + 4, 'grad_norm': sums['grad_norm'] + 1}
    sums['steps'] = sums['examples'] / 4
    moment = hooks.Moment(step, TrainState(step, {}, (), None, sums), sums, last=step == total)
    act(moment)
    sums = moment.state.sums
  assert list(written) == expected
  starts = [0, *expected[:-1]]
  for start, end in zip(starts, expected, strict=True):
    assert end - start >= min(every, total)
    assert written[end]['train/loss'] == pytest.approx(losses[start:end].mean())
