"""`describe` and `benchmark`: what a config costs, by its shapes and by the clock."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import DIGITS, ROOT, SMALL


def test_describe(run_command, capsys):
  assert run_command('describe', DIGITS, *SMALL, '--json') == 0
  result = json.loads(capsys.readouterr().out)
  tokens, hidden, blocks, token_mlp, channel_mlp = 16, 16, 1, 8, 24
  assert result['tokens'] == tokens
  stem, head = 2 * tokens * 4 * hidden, 2 * hidden * 10
  assert result['forward_flops'] == stem + blocks * 4 * tokens * hidden * (token_mlp + channel_mlp) + head
  assert result['parameter_bytes'] == result['ema_bytes'] == 4 * result['parameters']
  moments = 2 * 4 * result['parameters']
  assert moments <= result['optimizer_bytes'] <= moments + 16
  assert result['batch'] == {'image': 'uint8[32, 8, 8, 1]', 'label': 'int32[32]'}
  assert result['eval_batch'] == {'image': 'uint8[128, 8, 8, 1]', 'label': 'int32[128]'}
  assert result['batch_per_device'] * result['devices'] == 32
  assert run_command('describe', DIGITS, *SMALL, '--config.ema=0') == 0
  text = capsys.readouterr().out
  assert re.search(rf'^parameters +{result["parameters"]:,}$', text, re.M) and re.search(r'^ema bytes +0$', text, re.M)


@pytest.mark.parametrize(
  'config, tokens', [('breast_cancer', 30), ('digits_autoencoder', 16), ('mnist_cnn_autoencoder:k5', None)]
)
def test_describe_prints_what_there_is(run_command, config, tokens, capsys):
  assert run_command('describe', f'--config={config}', '--json') == 0
  result = json.loads(capsys.readouterr().out)
  assert result.get('tokens') == tokens and None not in result.values()
  assert run_command('describe', f'--config={config}') == 0
  costs = capsys.readouterr().out.partition('\n\n')[2]
  assert ('tokens' in costs) == (tokens is not None) and 'None' not in costs and 'null' not in costs


@pytest.mark.skipif(not Path('/proc/self/status').is_file(), reason='reads the peak memory that Linux tells')
def test_describe_a_large_model_from_shapes_alone():
  # Not getrusage: its peak is inherited from the process that starts this one.
  code = (
    'import re, sys, time; began = time.process_time()\n'
    'from mixer_jax import describe\n'
    'describe.main(sys.argv[1:])\n'
    'peak = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())\n'
    'print(int(peak[1]) * 1024, time.process_time() - began, file=sys.stderr)'
  )
  result = subprocess.run(
    [sys.executable, '-c', code, f'--config={ROOT}/configs/imagenet.py:H/14', '--json'],
    cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}, capture_output=True, text=True, check=True,
  )  # fmt: skip
  described = json.loads(result.stdout)
  memory, seconds = map(float, result.stderr.split())
  tokens, hidden = 256, 1280
  stem, head = 2 * tokens * 3 * 14 * 14 * hidden, 2 * hidden * 1000
  assert described['forward_flops'] == stem + 32 * 4 * tokens * hidden * (640 + 5120) + head
  # Its parameters and Adam's moments alone would be 5 GB.
  assert described['parameters'] > 430e6 and memory < 1.5 * 2**30 and seconds < 20


def test_benchmark(run_command, capsys):
  assert run_command('benchmark', DIGITS, *SMALL, '--seconds=0.2', '--json') == 0
  result = json.loads(capsys.readouterr().out)
  numbers = {k: v for k, v in result.items() if k not in ('config', 'device')}
  assert set(numbers) == {
    'batch_size', 'compile_seconds', 'step_seconds', 'examples_per_second', 'step_flops', 'flops_per_second',
    'peak_flops_per_second', 'utilisation', 'peak_memory_bytes',
  }  # fmt: skip
  assert all(math.isfinite(v) and v > 0 for v in numbers.values())
  assert numbers['examples_per_second'] == pytest.approx(32 / numbers['step_seconds'])
  assert numbers['flops_per_second'] == pytest.approx(numbers['step_flops'] / numbers['step_seconds'])
  assert numbers['utilisation'] < 1
  # Backward passes cost twice the forward one, but for the stem, whose input needs no gradient.
  stem, forward = 2 * 16 * 4 * 16, 2 * 16 * 4 * 16 + 4 * 16 * 16 * (8 + 24) + 2 * 16 * 10
  assert numbers['step_flops'] == pytest.approx(32 * (3 * forward - stem), rel=0.1)
