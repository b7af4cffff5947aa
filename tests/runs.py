"""A small run of the digits, and a command in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import mixer_jax

ROOT = Path(mixer_jax.__file__).parents[1]
COMMANDS = ('train', 'evaluate', 'predict', 'convert', 'export', 'analyze', 'describe', 'benchmark')
DIGITS = f'--config={ROOT}/configs/digits.py'
# A small Mixer for 20 steps, quickly compiled: what these tests look at does not depend on its size.
SMALL = (
  '--config.augment={}', '--config.model.blocks=1', '--config.model.hidden=16', '--config.model.token_mlp=8',
  '--config.model.channel_mlp=24', '--config.batch_size=32', '--config.total=20 steps',
  '--config.schedule.warmup=2 steps', '--config.log_every=5 steps', '--config.eval_every=10 steps',
  '--config.checkpoint_every=10 steps',
)  # fmt: skip
EVALUATIONS, LOGGED = (10, 20), (5, 10, 15, 20)


def process(name, *arguments, devices=1):
  """`python -m mixer_jax.NAME ARGUMENTS` in a process of its own, with so many devices."""
  command = [sys.executable, '-m', f'mixer_jax.{name}', *map(str, arguments)]
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': flags}
  return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
