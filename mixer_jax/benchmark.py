"""Times training steps of a config on random data of its shapes, and a matrix product for comparison.

python -m mixer_jax.benchmark --config=digits
python -m mixer_jax.benchmark --config=imagenet:S/16 --config.batch_size=32 --seconds=60 --json
"""

import json
import resource
import statistics
import sys
import time
from typing import Any

from mixer_jax import cli


def matmul_peak(dtype: str) -> float:
  """FLOP/s of a large square matrix product, best of several rounds."""
  import jax
  import jax.numpy as jnp

  side = 2048 if jax.default_backend() == 'cpu' else 8192
  a = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
  product = jax.jit(lambda a: a @ a)
  product(a).block_until_ready()
  times = []
  for _ in range(7):
    began = time.perf_counter()
    product(a).block_until_ready()
    times.append(time.perf_counter() - began)
  return 2 * side**3 / min(times)


def peak_memory() -> int:
  """Peak memory in bytes: the device's if it reports it, else the process's."""
  import jax

  stats = jax.local_devices()[0].memory_stats() or {}
  unit = 1 if sys.platform == 'darwin' else 1024
  return stats.get('peak_bytes_in_use') or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def benchmark(config: dict[str, Any], seconds: float, data_dir: str | None = None) -> dict[str, Any]:
  """Compiles and times the train loop of a config.

  Returns:
    compile_seconds (tracing included; uncached unless JAX_COMPILATION_CACHE_DIR is set), step_seconds (median over
    rounds), examples_per_second, step_flops (matrix products), flops_per_second, peak_flops_per_second (a matrix
    product measured before and after), utilisation, peak_memory_bytes, device.
  """
  import jax
  import numpy as np

  from mixer_jax.analysis import cost
  from mixer_jax.data import examples as data_examples
  from mixer_jax.data import loader
  from mixer_jax.optim.schedules import Length
  from mixer_jax.training import experiment as experiments
  from mixer_jax.training import mesh as meshes
  from mixer_jax.training.settings import resolve
  from mixer_jax.training.step import make_train_loop

  config = resolve(config)
  experiment = experiments.build(config, data_dir=data_dir)
  settings, mesh = experiment.settings, experiment.mesh
  length = Length(10**6, 1000.0)
  optimizer, _ = experiment.optimizer(length)
  train_step = experiment.train_step(optimizer, length)
  state = experiment.init_state(optimizer)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  random = np.random.default_rng(0)
  examples, classes = settings.batch_size, experiment.data.classes
  draw = {
    'label': lambda shape: random.integers(0, classes, shape), 'image': lambda shape: random.integers(0, 256, shape),
    'features': lambda shape: random.normal(size=shape), 'categories': lambda shape: np.zeros(shape),
    'size': lambda shape: np.full(shape, experiment.data.crop_from),
  }  # fmt: skip
  arrays = {k: draw[k](v.shape).astype(v.dtype) for k, v in experiment.data.batch(examples).items()}
  names = tuple(map(str, range(classes)))
  source = data_examples.Source(names, arrays, lambda i: {k: v[i] for k, v in arrays.items()}, examples)
  examples_of = loader.Loader(source, seed=0, batch_size=examples, mesh=mesh, resident_mib=float('inf'), workers=0)
  feed = examples_of.train(0, 1)
  flops = cost.matmul_flops(train_step, state, experiment.data.batch(examples))

  dtype = settings.model.get('dtype', 'float32')
  peak = matmul_peak(dtype)
  began = time.perf_counter()
  loop = make_train_loop(train_step, shardings, meshes.over_batch(mesh)).lower(state, feed, 1).compile()
  compiled = time.perf_counter() - began
  state = loop(state, feed, np.int32(1))
  jax.block_until_ready(state)
  began = time.perf_counter()
  state = loop(state, feed, np.int32(1))
  jax.block_until_ready(state)
  steps = max(1, min(loader.CHUNK, int(seconds / 10 / (time.perf_counter() - began))))
  times = []
  deadline = time.perf_counter() + seconds
  feed = examples_of.train(0, steps)
  while len(times) < 3 or time.perf_counter() < deadline:
    began = time.perf_counter()
    state = loop(state, feed, np.int32(steps))
    jax.block_until_ready(state)
    times.append((time.perf_counter() - began) / steps)
  peak = max(peak, matmul_peak(dtype))
  peak *= 1 if jax.default_backend() == 'cpu' else mesh.size  # CPU devices share the cores that the product used
  step = statistics.median(times)
  return {
    'config': config,
    'device': f'{mesh.size} x {mesh.devices.flat[0].device_kind}',
    'batch_size': examples,
    'compile_seconds': compiled,
    'step_seconds': step,
    'examples_per_second': examples / step,
    'step_flops': flops,
    'flops_per_second': flops / step,
    'peak_flops_per_second': peak,
    'utilisation': flops / step / peak,
    'peak_memory_bytes': peak_memory(),
  }


def main(arguments: list[str]) -> None:
  options = cli.parser('benchmark', __doc__, data=True, prints_result=True)
  cli.add_config(options)
  options.add_argument('--seconds', type=float, default=20.0, help='approximate timing duration')
  options.add_argument('--json', action='store_true', help='print JSON')
  known, rest = options.parse_known_args(arguments)
  from mixer_jax import config as configs

  result = benchmark(configs.load(cli.config_arguments(known, rest)), known.seconds, known.data_dir)
  if known.json:
    print(json.dumps(result, indent=2))
    return
  rows = {
    'device': result['device'],
    'batch': f'{result["batch_size"]}',
    'compile': f'{result["compile_seconds"]:.1f} s',
    'step': f'{1e3 * result["step_seconds"]:.2f} ms',
    'speed': f'{result["examples_per_second"]:.1f} examples/s',
    'arithmetic': f'{result["flops_per_second"] / 1e9:.1f} GFLOP/s',
    'peak': f'{result["peak_flops_per_second"] / 1e9:.1f} GFLOP/s (matrix product)',
    'utilisation': f'{100 * result["utilisation"]:.0f}%',
    'peak memory': f'{result["peak_memory_bytes"] / 2**20:.0f} MiB',
  }
  for name, value in rows.items():
    print(f'{name:12} {value}')


if __name__ == '__main__':
  cli.run(main, huge_pages=True)
