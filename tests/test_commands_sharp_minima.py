"""What the train command says to invalid settings of SAM, noise, schedules and layers: one line, and no run."""

from pathlib import Path

import pytest

import mixer_jax

CONFIG = f'--config={Path(mixer_jax.__file__).parents[1] / "configs" / "digits.py"}'


def sam(name='sam', rho='0.05', **settings):
  given = ', '.join(f"'{key}': {value}" for key, value in {'rho': rho, **settings}.items())
  return f"--config.sam={{'name': '{name}', {given}}}"


def schedule(name, **settings):
  given = ', '.join(f"'{key}': {value!r}" for key, value in {'peak': 0.1, **settings}.items())
  return f"--config.schedule={{'name': '{name}', {given}}}"


@pytest.mark.parametrize(
  'option, parts',
  [
    (sam(rho='-0.1'), ['sam.rho is -0.1', '[0, inf)']),
    (sam(rho="'much'"), ["sam.rho is 'much' (str)", 'float']),
    (sam(sync="'yes'"), ["sam.sync is 'yes' (str)", 'bool']),
    (sam(rho='0.0', sync='0'), ['sam.sync is 0 (int)', 'bool']),
    (sam('gsam', rho_min='0.1', alpha='0.4'), ['sam.rho_min is 0.1', 'sam.rho, 0.05']),
    (sam('fisher_sam', sparsity='0.5', refresh='2.5'), ['sam.refresh is 2.5 (float)', 'int']),
    (sam('look_sam', every='True', alpha='0.7'), ['sam.every is True (bool)', 'int']),
    (sam('sham'), ['sam.name', "'sham'", 'look_sam']),
    ("--config.layers={'freeze': ('blocks.1', 'steam')}", ["layers.freeze has 'steam'", 'stem']),
    ("--config.layers={'freeze': 'stem'}", ["layers.freeze is 'stem' (str)", 'tuple']),
    ('--config.schedule.warmup=200%', ["schedule.warmup is '200%' of the run", "'100%'"]),
    ('--config.schedule.warmup=51 steps', ["schedule.warmup is '51 steps'", '51 steps', '50', 'shorten']),
    (
      schedule('restarts', warmup='10 steps', floor=0.0, period='41 steps', growth=1.0),
      ["schedule.period is '41 steps'", '50', '40', 'shorten'],
    ),
    (schedule('one_cycle', start=0.01, rise='50 steps', floor=0.0), ["schedule.rise is '50 steps'", '50', 'shorten']),
    (
      schedule('sharp_cosine', hold='20 steps', decay='31 steps', floor=0.0),
      ["schedule.hold is '20 steps'", "schedule.decay '31 steps'", '20 and 31 steps', '50', 'shorten'],
    ),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(option, parts, refused, tmp_path):
  refused('train', CONFIG, '--config.total=50 steps', option, f'--workdir={tmp_path / "run"}', parts=parts)
  assert not (tmp_path / 'run').exists()
