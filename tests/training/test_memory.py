"""A state that does not fit into memory is refused, by what the system says is free."""

import math

import kill
import pytest

from mixer_jax.errors import MixerError
from mixer_jax.training import experiment as experiments
from mixer_jax.training import loop, memory


def test_free_memory_is_the_least_that_the_system_says(tmp_path):
  meminfo, groups = tmp_path / 'meminfo', tmp_path / 'cgroup'
  assert memory.free(meminfo, groups) == math.inf
  meminfo.write_text('MemTotal:  900 kB\nMemAvailable:   100 kB\n')
  assert memory.free(meminfo, groups) == 100 * 1024
  groups.mkdir()
  (groups / 'memory.max').write_text('max\n')
  (groups / 'memory.current').write_text('5\n')
  assert memory.free(meminfo, groups) == 100 * 1024
  (groups / 'memory.max').write_text('2005\n')
  assert memory.free(meminfo, groups) == 2000
  assert 0 < memory.free() < math.inf


def test_a_run_that_does_not_fit_writes_nothing(monkeypatch, tmp_path):
  monkeypatch.setattr(memory, 'free', lambda: 1000.0)
  with pytest.raises(MixerError, match='parameters; with optimizer state'):
    loop.train_and_evaluate(kill.tiny(), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_the_state_and_one_gradient_must_fit(monkeypatch):
  built = experiments.build(kill.tiny(ema=0.9))
  shapes = built.init_state(built.optimizer()[0], abstract=True)
  parameters = built.parameters * 4
  needed = 5 * parameters  # with two moments of AdamW, an average and a gradient
  monkeypatch.setattr(memory, 'free', lambda: needed * 1.05)
  memory.check(shapes)
  monkeypatch.setattr(memory, 'free', lambda: needed * 0.95)
  with pytest.raises(MixerError, match=rf'{built.parameters:,} parameters.*GiB of memory, but 0\.0 GiB are free'):
    memory.check(shapes)
