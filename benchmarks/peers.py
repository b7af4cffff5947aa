"""Train steps of mixer_jax against the same networks in other frameworks, interleaved on this machine.

  python benchmarks/peers.py --what all --rounds 7 --torch-python PATH --json speed.json

mnist: the network of configs/mnist.py, batch 64, Adam, no augmentation, data in memory; against PyTorch.
s16: Mixer-S/16 at 224 pixels, batch 32, Adam; against the original's code in plain Flax (below), the same with a
  linear stem on patches, and timm's in PyTorch.
rows: the network of configs/unsw_nb15.py:3 (420,697 parameters, dropout and stochastic depth 0.1), batch 32, Adam,
  clipping, 20,000 random rows in memory, one epoch per jitted call; against PyTorch.
autoencoder_none, autoencoder_mlp-1234, autoencoder_cnn2df-234-k7: networks of configs/mnist_autoencoder.py, batch 64,
  AdamW, data in memory; against PyTorch.

Rounds are interleaved: each side runs while the others wait, so that other load on the machine affects all alike.
Ratios are medians over the rounds. Page faults matter on a CPU, so there are three malloc settings: as users start the
programs (huge pages for JAX, whose commands ask for them, the default for PyTorch), huge pages for both, and the
default for both.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from mixer_jax.cli import HUGE_PAGES

ROOT = Path(__file__).resolve().parents[1]
AUTOENCODERS = ('autoencoder_none', 'autoencoder_mlp-1234', 'autoencoder_cnn2df-234-k7')
BATCH = {'mnist': 64, 's16': 32, 'rows': 32, **dict.fromkeys(AUTOENCODERS, 64)}
STEPS = {'mnist': 100, 's16': 1, 'rows': 625, **dict(zip(AUTOENCODERS, (500, 100, 50), strict=True))}  # per round
WARM_UP = 100  # untimed steps before each turn, at most
SIDES_WITH_HUGE_PAGES = {'started': ('jax',), 'huge': ('jax', 'torch'), 'default': ()}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--what', choices=(*BATCH, 'all'), default='all')
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--malloc', choices=(*SIDES_WITH_HUGE_PAGES, 'all'), default='all')
  parser.add_argument('--torch-python', default=sys.executable, help='a Python that has torch and timm')
  parser.add_argument('--json', type=Path, help='output JSON, raw numbers included')
  parser.add_argument('--worker', choices=BATCH, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.worker:
    return work(args.worker)
  results = {}
  for what in BATCH if args.what == 'all' else (args.what,):
    for malloc in SIDES_WITH_HUGE_PAGES if args.malloc == 'all' else (args.malloc,):
      results[f'{what}/{malloc}'] = measure(what, malloc, args.rounds, args.torch_python)
      show(f'{what}, malloc {malloc}', results[f'{what}/{malloc}'])
  if args.json:
    args.json.write_text(json.dumps(results, indent=2) + '\n', encoding='utf-8')


def measure(what: str, malloc: str, rounds: int, torch_python: str) -> dict:
  """Seconds per step by side and round, and each side's own report."""
  env = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  env['PYTHONPATH'] = os.pathsep.join([str(ROOT), *filter(None, [env.get('PYTHONPATH')])])
  huge = {**env, 'GLIBC_TUNABLES': HUGE_PAGES}
  jax_env, torch_env = (huge if side in SIDES_WITH_HUGE_PAGES[malloc] else env for side in ('jax', 'torch'))
  threads = len(os.sched_getaffinity(0))
  torch_side = Path(__file__).with_name('peers_torch.py')
  jax_command = [sys.executable, __file__, '--worker', what]
  torch_command = [torch_python, torch_side, what, '--batch', BATCH[what], '--threads', threads]
  # The second side starts after the first has compiled.
  with Side(jax_command, jax_env) as ours, Side(torch_command, torch_env) as torch:
    report = {**ours.report, **torch.report}
    for key in ('versions', 'parameters'):
      report[key] = {**ours.report[key], **torch.report[key]}
    sides = [(name, side) for side in (ours, torch) for name in side.report['sides']]
    seconds = {name: [] for name, _ in sides}
    print(f'{what}, malloc {malloc}: measuring', file=sys.stderr, flush=True)
    for _ in range(rounds):
      for name, side in sides:
        # Refills the caches and pages that the others evicted.
        side.ask(side=name, steps=min(WARM_UP, STEPS[what]))
        seconds[name].append(side.ask(side=name, steps=STEPS[what])['seconds'] / STEPS[what])
  medians = {name: statistics.median(values) for name, values in seconds.items()}
  ratios = {
    name: statistics.median(other / own for other, own in zip(values, seconds['ours'], strict=True))
    for name, values in seconds.items()
  }
  examples = {name: BATCH[what] / value for name, value in medians.items()}
  return {**report, 'examples_per_second': examples, 'ours_is_faster_by': ratios, 'seconds_per_step': seconds}


def show(title: str, result: dict) -> None:
  print(title, result['versions'])
  for name, rate in result['examples_per_second'].items():
    ms = [1e3 * value for value in result['seconds_per_step'][name]]
    print(
      f'  {name:12} {rate:8.1f} examples/s  {statistics.median(ms):8.2f} ms a step'
      f' ({min(ms):.2f} to {max(ms):.2f})  ours is {result["ours_is_faster_by"][name]:.2f} times as fast'
      f'  {result["parameters"][name]:,} parameters'
    )
  for name, cost in result['compiled'].items():
    print(f'  {name:12} ' + ', '.join(f'{key} {value:.4g}' for key, value in cost.items()))
  sys.stdout.flush()


class Side:
  """A process that answers each line of JSON with one and idles in between."""

  def __init__(self, command: list, env: dict):
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    self.process = subprocess.Popen([str(part) for part in command], env=env, text=True, **pipes)
    self.report = self._read()

  def ask(self, **question) -> dict:
    self.process.stdin.write(json.dumps(question) + '\n')
    self.process.stdin.flush()
    return self._read()

  def _read(self) -> dict:
    line = self.process.stdout.readline()
    if not line:
      sys.exit(f'error: {" ".join(self.process.args[:3])} ended with {self.process.wait()}')
    return json.loads(line)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.process.stdin.close()
    self.process.wait()


def work(what: str) -> None:
  import flax
  import jax
  import jaxlib

  from mixer_jax.models import MODELS

  answers, sys.stdout = sys.stdout, sys.stderr  # keeps the output of libraries out of the answers
  MODELS |= {'plain': make_plain_mixer('conv'), 'plain_linear': make_plain_mixer('linear')}
  sides = ('ours', 'plain', 'plain_linear') if what == 's16' else ('ours',)
  made = {side: make_side(what, side) for side in sides}
  report = {
    'sides': sides,
    'versions': {'jax': jax.__version__, 'jaxlib': jaxlib.__version__, 'flax': flax.__version__},
    'parameters': {side: parameters for side, (_, parameters, _) in made.items()},
    'compiled': {side: cost for side, (_, _, cost) in made.items()},
  }
  print(json.dumps(report), file=answers, flush=True)
  for line in sys.stdin:
    question = json.loads(line)
    run = made[question['side']][0]
    began = time.perf_counter()
    run(question['steps'])
    print(json.dumps({'seconds': time.perf_counter() - began}), file=answers, flush=True)


def make_side(what: str, side: str):
  """(run(count), number of parameters, cost of the compiled step) of a network."""
  config = make_config(what, side)
  examples = BATCH[what] if what == 's16' else 64 * 64
  return make_run(config, *(make_rows() if what == 'rows' else make_images(config['data'], examples)))


def make_run(config: dict, arrays: dict, schema=None):
  """The same for a config and arrays of data, with the loop of mixer_jax.train."""
  import jax

  from mixer_jax.data import loader
  from mixer_jax.data.examples import Source
  from mixer_jax.optim.schedules import Length
  from mixer_jax.training import experiment as experiments
  from mixer_jax.training import mesh as meshes
  from mixer_jax.training.step import make_train_loop

  experiment = experiments.build(config, schema=schema)
  source = Source((), arrays, lambda i: {name: a[i] for name, a in arrays.items()}, len(arrays['label']))
  size = experiment.settings.batch_size
  batches = loader.Loader(source, seed=0, batch_size=size, mesh=experiment.mesh, resident_mib=2048, workers=0)
  length = Length(10**6, 1.0)
  optimizer, _ = experiment.optimizer(length)
  shapes = experiment.init_state(optimizer, abstract=True)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
  step = experiment.train_step(optimizer, length)
  loop = make_train_loop(step, shardings, meshes.over_batch(experiment.mesh))

  began = time.perf_counter()
  lowered = jax.jit(step, donate_argnums=0).lower(shapes, experiment.data.batch(size))
  traced = time.perf_counter()
  compiled = lowered.compile()
  analysis = compiled.cost_analysis()
  cost = {
    'trace_seconds': traced - began,
    'compile_seconds': time.perf_counter() - traced,
    'flops': analysis['flops'],
    'bytes_accessed': analysis['bytes accessed'],
    'temporary_bytes': compiled.memory_analysis().temp_size_in_bytes,
  }
  state, done = experiment.init_state(optimizer), 0

  def run(count):
    nonlocal state, done
    state = loop(state, batches.train(done, count), count)
    done += count
    jax.block_until_ready(state)

  run(1)
  return run, experiment.parameters, cost


def make_images(data: dict, examples: int):
  import numpy as np

  rng = np.random.default_rng(0)
  image = rng.integers(256, size=(examples, *data['image']), dtype=np.uint8)
  return {'image': image, 'label': rng.integers(data['classes'], size=examples).astype(np.int32)}, None


def make_rows():
  import numpy as np

  from mixer_jax.data.tables import Table
  from mixer_jax.data.tables import schema as schemas

  rng = np.random.default_rng(0)
  columns = {f'n{i}': rng.normal(size=20_000) for i in range(42)}
  table = Table('random', columns | {'label': rng.integers(2, size=20_000).astype(str).astype(object)})
  schema = schemas.fit(table, label='label', dropped=(), categorical=(), scaling='global', column_order=0)
  return schema.arrays(table)[0] | {'label': schema.labels(table)}, schema


def make_config(what: str, side: str) -> dict:
  import runpy

  from mixer_jax.config import plain
  from mixer_jax.models.mixer import SIZES
  from mixer_jax.training.settings import resolve

  kind, _, arg = what.partition('_')
  name, arg = {'rows': ('unsw_nb15', '3'), 'autoencoder': ('mnist_autoencoder', arg)}.get(kind, ('mnist', None))
  config = plain(runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))['get_config'](arg))
  config |= {'augment': {}, 'total': '1000000', 'batch_size': BATCH[what], 'watch': {}}
  if what == 's16':
    config['data'] |= {'image': [224, 224, 3], 'classes': 1000, 'mean': [0.5] * 3, 'std': [0.5] * 3}
    config['model'] = {'name': 'mixer' if side == 'ours' else side, **SIZES['S/16']}
  return resolve(config)


def make_plain_mixer(stem: str):
  """The original's code in Flax NNX, line by line: two swapaxes, stock LayerNorm, GELU and, if `conv`, convolution."""
  import einops
  import jax.numpy as jnp
  from flax import nnx

  class MlpBlock(nnx.Module):
    def __init__(self, features, hidden, rngs):
      self.fc1 = nnx.Linear(features, hidden, rngs=rngs)
      self.fc2 = nnx.Linear(hidden, features, rngs=rngs)

    def __call__(self, x):
      return self.fc2(nnx.gelu(self.fc1(x)))

  class MixerBlock(nnx.Module):
    def __init__(self, tokens, hidden, token_mlp, channel_mlp, rngs):
      self.norm1 = nnx.LayerNorm(hidden, rngs=rngs)
      self.token_mixing = MlpBlock(tokens, token_mlp, rngs)
      self.norm2 = nnx.LayerNorm(hidden, rngs=rngs)
      self.channel_mixing = MlpBlock(hidden, channel_mlp, rngs)

    def __call__(self, x):
      y = jnp.swapaxes(self.norm1(x), 1, 2)
      y = jnp.swapaxes(self.token_mixing(y), 1, 2)
      x = x + y
      return x + self.channel_mixing(self.norm2(x))

  class PlainMixer(nnx.Module):
    def __init__(
      self, *, image: tuple[int, int, int], classes: int, patch: int, hidden: int, blocks: int,
      token_mlp: int, channel_mlp: int, rngs,
    ):  # fmt: skip
      tokens = (image[0] // patch) * (image[1] // patch)
      sizes = (patch, patch)
      if stem == 'conv':
        self.stem = nnx.Conv(image[2], hidden, sizes, strides=sizes, padding='VALID', rngs=rngs)
      else:
        self.stem = nnx.Linear(image[2] * patch * patch, hidden, rngs=rngs)
      self.patch = patch
      self.blocks = nnx.List([MixerBlock(tokens, hidden, token_mlp, channel_mlp, rngs) for _ in range(blocks)])
      self.norm = nnx.LayerNorm(hidden, rngs=rngs)
      self.head = nnx.Linear(hidden, classes, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, image, *, rngs=None):
      if stem == 'linear':
        image = einops.rearrange(image, 'b (h p) (w q) c -> b h w (p q c)', p=self.patch, q=self.patch)
      x = self.stem(image)
      x = x.reshape(x.shape[0], -1, x.shape[-1])
      for block in self.blocks:
        x = block(x)
      return self.head(jnp.mean(self.norm(x), axis=1))

  return PlainMixer


if __name__ == '__main__':
  main()
