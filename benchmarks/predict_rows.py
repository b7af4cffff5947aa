"""Throughput and peak memory of `python -m mixer_jax.predict` on a CSV of random rows: a tenth of them, then all.

  python benchmarks/predict_rows.py --rows 1000000

Like UNSW-NB15, the rows have 42 columns: 39 numbers, many of them large or mostly 0, and 3 categories. The script
trains a small run on 2,000 rows (configs/csv.py for a few steps; accuracy does not matter), then predicts each file in
its own process, start-up and compilation included. Memory should not grow from the first file to the second, and time
at most tenfold. `rows/s between them` excludes start-up.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CATEGORIES = {'proto': 130, 'service': 13, 'state': 9}
NUMBERS = 39
# RUSAGE_CHILDREN reports the maximum over all children, so each command is measured by its own process.
MEASURE = (
  'import resource, subprocess, sys, time; began = time.monotonic()\n'
  'code = subprocess.run(sys.argv[1:], stdout=2).returncode\n'
  'used = resource.getrusage(resource.RUSAGE_CHILDREN)\n'
  'print(code, time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss)'
)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rows', type=int, default=1_000_000)
  parser.add_argument('--json', type=Path, help='output JSON')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    write_rows(folder / 'train.csv', 2000, seed=0, label=True)
    train = ['--config.total=20 steps', '--config.eval_every=0', '--config.checkpoint_every=0']
    run('train', f'--config={ROOT}/configs/csv.py:{folder}/train.csv', *train, f'--workdir={folder}/run')
    results = []
    for rows in (args.rows // 10, args.rows):
      source, output = folder / f'{rows}.csv', folder / f'{rows}_out.csv'
      write_rows(source, rows, seed=1)
      results.append({'rows': rows, 'mib': source.stat().st_size / 2**20})
      results[-1] |= run('predict', f'--workdir={folder}/run', '--input', source, f'--output={output}')
      check(output, rows)
      source.unlink()
  for result in results:
    print(
      f'{result["rows"]:>9,} rows, {result["mib"]:.0f} MiB: {result["seconds"]:.1f} s, {result["cpu_seconds"]:.1f} s of'
      f' CPU, {result["rows"] / result["seconds"]:,.0f} rows/s, peak {result["peak_mib"]:.0f} MiB'
    )
  small, large = results
  for what in ('seconds', 'cpu_seconds'):
    between = (large['rows'] - small['rows']) / max(large[what] - small[what], 1e-9)
    print(f'rows/s between them, by {what.replace("_", " ")}: {between:,.0f}')
  if args.json:
    args.json.write_text(json.dumps(results, indent=2) + '\n', encoding='utf-8')


def write_rows(path: Path, count: int, *, seed: int, label: bool = False) -> None:
  rng = np.random.default_rng(seed)
  scales = np.random.default_rng(9).uniform(-3, 18, NUMBERS)
  with path.open('w', encoding='utf-8', newline='') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow([*(f'n{i}' for i in range(NUMBERS)), *CATEGORIES, *(['label'] if label else [])])
    for start in range(0, count, 10_000):
      size = min(10_000, count - start)
      numbers = np.exp(scales + rng.normal(size=(size, NUMBERS))) * (rng.random((size, NUMBERS)) < 0.6)
      columns = [[f'{v:.6g}' for v in column] for column in numbers.T]
      columns += [[f'{name}{k}' for k in rng.integers(0, many, size)] for name, many in CATEGORIES.items()]
      columns += [rng.integers(0, 2, size).tolist()] if label else []
      writer.writerows(zip(*columns, strict=True))


def run(name: str, *arguments) -> dict[str, float]:
  """Runs a command; returns its wall time, CPU time and peak memory."""
  env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])}
  command = [sys.executable, '-c', MEASURE, sys.executable, '-m', f'mixer_jax.{name}', *map(str, arguments)]
  output = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
  code, seconds, cpu, peak = map(float, output.split())
  if code:
    sys.exit(f'mixer_jax.{name} ended with {code:.0f}')
  unit = 2**20 if sys.platform == 'darwin' else 2**10
  return {'seconds': seconds, 'cpu_seconds': cpu, 'peak_mib': peak / unit}


def check(output: Path, rows: int) -> None:
  with output.open(encoding='utf-8') as file:
    numbers = [int(line.partition(',')[0]) for line in file if not line.startswith('row')]
  if numbers != list(range(1, rows + 1)):
    sys.exit(f'{output} does not hold the rows 1 to {rows}')


if __name__ == '__main__':
  main()
