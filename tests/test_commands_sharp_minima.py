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
    (sam(rho='-0.1'), ['sam.rho is -0.1', 'at least 0']),
    (sam(rho='1e999'), ['sam.rho is inf', 'finite']),
    (sam(rho="'much'"), ["sam.rho is 'much' (str)", 'float']),
    (sam(sync="'yes'"), ["sam.sync is 'yes' (str)", 'bool']),
    (sam(rho='0.0', sync='0'), ['sam.sync is 0 (int)', 'bool']),
    (sam('asam', eta='-1.0'), ['sam.eta is -1.0']),
    (sam('asam', eta='1e999'), ['sam.eta is inf']),
    (sam('gsam', rho_min='0.1', alpha='0.4'), ['sam.rho_min is 0.1', 'sam.rho, 0.05']),
    (sam('gsam', rho_min='0.0', alpha='1e999'), ['sam.alpha is inf']),
    (sam('fisher_sam', sparsity='1.0', refresh='5'), ['sam.sparsity is 1.0', '[0, 1)']),
    (sam('fisher_sam', sparsity='-0.5', refresh='5'), ['sam.sparsity is -0.5', '[0, 1)']),
    (sam('fisher_sam', sparsity='0.5', refresh='2.5'), ['sam.refresh is 2.5 (float)', 'int']),
    (sam('fisher_sam', sparsity='0.5', refresh='0'), ['sam.refresh is 0']),
    (sam('dynamic_sam', sparsity='0.5', refresh='5', drop='2.0'), ['sam.drop is 2.0', '[0, 1]']),
    (sam('look_sam', every='True', alpha='0.7'), ['sam.every is True (bool)', 'int']),
    (sam('look_sam', every='0', alpha='0.7'), ['sam.every is 0']),
    (sam('sham'), ['sam.name', "'sham'", 'look_sam']),
    ("--config.update_noise={'eta': -1.0, 'gamma': 0.55}", ['update_noise.eta is -1.0']),
    ("--config.update_noise={'eta': 1e999, 'gamma': 0.55}", ['update_noise.eta is inf']),
    ("--config.layers={'freeze': ('blocks.1', 'steam')}", ["layers.freeze has 'steam'", 'stem']),
    ("--config.layers={'freeze': 'stem'}", ["layers.freeze is 'stem' (str)", 'tuple']),
    ("--config.layers={'decay': 1.5}", ['layers.decay is 1.5', '(0, 1]']),
    ('--config.schedule.warmup=200%', ["schedule.warmup is '200%' of the run", "'100%'"]),
    ('--config.schedule.warmup=51 steps', ["schedule.warmup is '51 steps'", '51 steps', '50', 'shorten']),
    ('--config.schedule.peak=nan', ['schedule.peak is nan', 'finite']),
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
