"""Random mistakes: overrides, damaged run directories, weights, images, tables. None may end in a traceback.

  python -m pip install hypothesis
  python tests/fuzz.py --what=overrides,runs,weights,images,tables --count=500,300,150,150,200 --seed=0

Each case runs in a worker process, which may take 60 s and 4 GiB. It is good if the command ends well, or with one line
that begins with `error:`. Prints every other case and the totals; exit code 0 when there is none.
"""

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS, GIB = 60, 4
FRESH = 40  # cases after which a worker makes way for a new one: what jax compiled stays in memory
SMALL = (
  '--config.model.blocks=1', '--config.model.hidden=8', '--config.batch_size=16', '--config.total=4 steps',
  '--config.schedule.warmup=0', '--config.log_every=2 steps', '--config.eval_every=4 steps',
  '--config.checkpoint_every=2 steps',
)  # fmt: skip
NUMBERS = (b'0', b'-1', b'9' * 400, b'1e999', b'null')
CONFIGS = ('digits', 'breast_cancer', 'digits_autoencoder')
TRAIN = {name: (f'--config={name}', *SMALL) for name in CONFIGS}
TRAIN['digits'] += ('--config.model.token_mlp=8', '--config.model.channel_mlp=8', '--config.augment={}')
TRAIN['digits_autoencoder'] = (f'--config={CONFIGS[2]}', *SMALL[2:])


# ---- in the worker


def command(name: str, *arguments: str) -> str:
  """What is wrong with how a command ends; '' if nothing is."""
  from mixer_jax import cli

  out, err, sys.argv = io.StringIO(), io.StringIO(), [name, *arguments]
  message = 0
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      cli.run(importlib.import_module(f'mixer_jax.{name}').main)
    except SystemExit as stop:
      message = stop.code
    except BaseException:
      return traceback.format_exc()
  printed = err.getvalue()
  if 'Traceback' in printed or re.search(r'^\S*Warning:', printed, re.MULTILINE):
    return printed
  if message in (None, 0, 130, 141):
    return ''
  if message == 2 and 'usage:' in printed:  # argparse
    return ''
  is_line = isinstance(message, str) and message.startswith('error: ') and '\n' not in message
  return '' if is_line else f'ended with {message!r}'


def several(*calls: tuple[str, ...]) -> str:
  return next(filter(None, (command(*call) for call in calls)), '')


def read_weights(path: str) -> str:
  from mixer_jax.weights import reading

  return quietly(lambda: reading.read(path))


def read_image(path: str) -> str:
  from mixer_jax.data.images import decode

  return quietly(lambda: (decode.read_header(path), decode.read_image(path, (32, 32, 3))))


def quietly(function) -> str:
  from mixer_jax.errors import MixerError

  try:
    with warnings.catch_warnings(action='error'):
      function()
  except MixerError as error:
    return '' if '\n' not in str(error) else f'a message of several lines: {error}'
  except BaseException:
    return traceback.format_exc()
  return ''


def work(pipe) -> None:
  os.environ['JAX_PLATFORMS'] = 'cpu'
  while True:
    function, arguments = pipe.recv()
    pipe.send(globals()[function](*arguments))


# ---- cases: (what is shown, function of the worker, its arguments)


def overrides(_, count, rng):
  """Keys of whole configs with values of any kind; what `describe` takes is trained for two steps."""
  import hypothesis
  from hypothesis import strategies as st

  from mixer_jax import config as configs
  from mixer_jax.training import settings

  keys = {name: list(leaves(settings.resolve(configs.load([*TRAIN[name]])))) for name in CONFIGS}
  numbers = st.one_of(
    st.integers(-3, 70), st.sampled_from([2**31, 2**63, 10**30, -(10**30), 0]), st.floats(), st.floats(0, 1)
  )
  words = st.one_of(
    st.text(max_size=8), st.sampled_from(
      ['', 'None', 'True', '()', '[]', '{}', '[[[[', "{'name': 'sam'}", 'adam', 'sgd', 'optax.lion', 'optax.nothing',
       'os:system', 'mlp', 'cnn', '5%', '0', '-1 steps', '3 epochs', 'nan', 'all', 'train[5:1]', 'bfloat16']
    )
  )  # fmt: skip
  values = st.one_of(numbers.map(repr), words, st.lists(numbers, max_size=4).map(repr))
  cases = []

  @hypothesis.seed(rng.randrange(2**32))
  @hypothesis.settings(
    max_examples=count, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
  )
  @hypothesis.given(st.sampled_from(CONFIGS), st.data())
  def draw(name, data):
    chosen = data.draw(st.lists(st.sampled_from(keys[name]), min_size=1, max_size=2, unique=True))
    flags = [f'--config.{key}={data.draw(values)}' for key in chosen]
    cases.append((name, flags))

  draw()
  for i, (name, flags) in enumerate(cases[:count]):
    workdir = tempfile.mkdtemp()
    train = ('train', *TRAIN[name], '--config.total=2 steps', *flags, f'--workdir={workdir}/run')
    yield f'{name} {flags}', 'several', [('describe', *TRAIN[name], *flags), *([train] if i % 3 == 0 else [])]
    shutil.rmtree(workdir, ignore_errors=True)


def leaves(tree, prefix=''):
  for key, value in tree.items():
    yield prefix + key
    if isinstance(value, dict):
      yield from leaves(value, f'{prefix}{key}.')


def runs(made, count, rng):
  """Run directories with a damaged file, opened by a command that reads it."""
  image, rows = str(made / 'image.png'), str(made / 'rows.csv')
  for _ in range(count):
    name = rng.choice(['digits', 'rows'])
    folder = Path(tempfile.mkdtemp()) / 'run'
    shutil.copytree(made / name, folder)
    files = sorted(path for path in folder.rglob('*') if path.is_file() and path.name != '.lock')
    told = damage(rng.choice(files), rng)
    given, train = (image, TRAIN['digits']) if name == 'digits' else (rows, (f'--config=csv:{rows}', *SMALL))
    output = f'{folder.parent}/out'
    call = rng.choice([
      ('evaluate', f'--workdir={folder}'), ('train', *train, f'--workdir={folder}'),
      ('predict', f'--workdir={folder}', f'--input={given}', f'--output={output}.csv'),
      ('export', f'--workdir={folder}', f'--output={output}.stablehlo'),
      ('convert', f'--from={folder}', f'--to={output}'),
      ('train', *train, f'--workdir={output}', f'--config.init_from.weights={folder}'),
    ])  # fmt: skip
    yield f'{name}: {told}; {call[0]}', 'command', call
    shutil.rmtree(folder.parent)


def weights(made, count, rng):
  """Damaged weights of every kind that is written here."""
  kinds = [path for path in made.glob('weights*') if path.suffix != '.part']
  for _ in range(count):
    folder = Path(tempfile.mkdtemp())
    chosen = rng.choice(sorted(kinds))
    copy = folder / chosen.name
    (shutil.copytree if chosen.is_dir() else shutil.copy)(chosen, copy)
    told = damage(rng.choice(sorted(copy.iterdir())) if copy.is_dir() else copy, rng)
    yield f'{chosen.name}: {told}', 'read_weights', [str(copy)]
    shutil.rmtree(folder)


def images(made, count, rng):
  """Damaged image files of all formats that Pillow writes here."""
  for _ in range(count):
    folder = Path(tempfile.mkdtemp())
    chosen = rng.choice(sorted(made.glob('image.*')))
    copy = Path(shutil.copy(chosen, folder))
    told = damage(copy, rng)
    yield f'{chosen.name}: {told}', 'read_image', [str(copy)]
    shutil.rmtree(folder)


def tables(made, count, rng):
  """CSV files with odd cells, lines and bytes: described as training data, predicted as rows of a run."""
  odd = ['', 'NaN', '1e400', '1e308', '-0', '1_0', '1,5', '"', '"a', 'a"b', '\0', '\ufeff', '١', 'inf', ' ', '\r', '\n',
         '#', 'sep=,', ';', '\t', 'é', '0x10', '1' * 5000, 'None', 'label', ',']  # fmt: skip
  text = (made / 'rows.csv').read_text(encoding='utf-8')
  for _ in range(count):
    folder = Path(tempfile.mkdtemp())
    lines = [line.split(',') for line in text.splitlines()]
    told = []
    for _ in range(rng.randint(1, 3)):
      row, kind = rng.randrange(len(lines)), rng.choice(['cell', 'cell', 'header', 'line', 'column', 'short'])
      value = rng.choice(odd)
      told.append(f'{kind} {row} {value[:20]!r}')
      if kind == 'line':
        lines.insert(row, [value])
      elif kind == 'column':
        column = rng.randrange(len(lines[0]))
        lines = [[value if i == column and k else cell for i, cell in enumerate(line)] for k, line in enumerate(lines)]
      elif kind == 'short':
        lines[row] = lines[row][: rng.randrange(len(lines[row]) + 1)]
      else:
        row = 0 if kind == 'header' else row
        lines[row] = [*lines[row][:-1], value] if rng.random() < 0.3 else [value, *lines[row][1:]]
    path = folder / 'rows.csv'
    path.write_bytes('\n'.join(','.join(line) for line in lines).encode())
    if rng.random() < 0.3:
      told.append(damage(path, rng))
    predict = ('predict', f'--workdir={made}/rows', f'--input={path}', f'--output={folder}/out.csv')
    train = ('train', f'--config=csv:{path}', *SMALL, f'--workdir={folder}/run')
    calls = [('describe', f'--config=csv:{path}', *SMALL), predict]
    yield f'{told}', 'several', [*calls, *([train] if rng.random() < 0.2 else [])]
    shutil.rmtree(folder)


def damage(path: Path, rng: random.Random) -> str:
  """Damages a file in one of eight ways; says how."""
  data = bytearray(path.read_bytes())
  kind = rng.choice(['cut', 'cut', 'flip', 'flip', 'zeros', 'empty', 'noise', 'gone', 'more', 'swapped'])
  place = rng.randrange(len(data) + 1)
  if kind == 'gone':
    path.unlink()
  elif kind == 'cut':
    path.write_bytes(data[:place])
  elif kind == 'flip' and data:
    for _ in range(rng.choice([1, 1, 20])):
      data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
  elif kind == 'swapped':  # numbers of JSON and headers become others
    path.write_bytes(
      re.sub(rb'\d+', lambda _: rng.choice([b'0', b'-1', b'9' * 400, b'1e999', b'null']), bytes(data), count=1)
    )
  else:
    new = {'zeros': bytes(20), 'empty': b'', 'noise': rng.randbytes(50), 'more': rng.randbytes(9)}.get(kind, b'')
    path.write_bytes(
      b'' if kind == 'empty' else data[:place] + new + data[place + (0 if kind == 'more' else len(new)) :]
    )
  return f'{path.name} {kind} at {place}'


# ---- the files to damage, and the loop


def make(folder: Path) -> None:
  """Two runs, their weights, images and rows."""
  import numpy as np
  from PIL import Image
  from sklearn import datasets

  picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  for suffix in ('png', 'jpg', 'gif', 'bmp', 'webp', 'tif', 'ppm'):
    Image.fromarray(picture).save(folder / f'image.{suffix}')
  wine = datasets.load_wine()
  rows = [
    [*map(str, features[[0, 3, 5]]), ('red', 'white', 'rosé')[i % 3], str(label)]
    for i, (features, label) in enumerate(zip(wine.data, wine.target, strict=True))
  ]
  lines = [['alcohol', 'ash', 'phenols', 'colour', 'label'], *rows]
  (folder / 'rows.csv').write_text('\n'.join(map(','.join, lines)) + '\n', encoding='utf-8')
  digits = f'--workdir={folder}/digits'
  for call in (
    ('train', *TRAIN['digits'], digits),
    ('train', f'--config=csv:{folder}/rows.csv', *SMALL, f'--workdir={folder}/rows'),
    *(('convert', f'--from={folder}/digits', f'--to={folder}/weights{end}') for end in ('.npz', '.safetensors', '')),
  ):
    if wrong := command(*call):
      sys.exit(f'{call}: {wrong}')


def start():
  ours, theirs = multiprocessing.Pipe()
  worker = multiprocessing.get_context('spawn').Process(target=work, args=(theirs,), daemon=True)
  worker.start()
  return worker, ours


def peak(pid: int) -> float:
  """The largest memory of a process so far, in GiB."""
  found = re.search(r'VmHWM:\s+(\d+)', Path(f'/proc/{pid}/status').read_text())
  return int(found[1]) / 2**20


def main() -> None:
  options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  options.add_argument('--what', default='overrides,runs,weights,images,tables')
  options.add_argument('--count', default='500,300,150,150,200')
  options.add_argument('--seed', type=int, default=0)
  known = options.parse_args()
  bad, longest, largest = Counter(), 0.0, 0.0
  with tempfile.TemporaryDirectory() as folder:
    made, began = Path(folder), time.monotonic()
    os.environ['JAX_COMPILATION_CACHE_DIR'] = f'{folder}/xla'
    make(made)
    for what, count in zip(known.what.split(','), map(int, known.count.split(',')), strict=True):
      worker, pipe = start()
      done = 0
      for told, function, arguments in globals()[what](made, count, random.Random(f'{what} {known.seed}')):
        if done % FRESH == FRESH - 1:
          worker.kill()
          worker, pipe = start()
        done, since = done + 1, time.monotonic()
        pipe.send((function, arguments))
        wrong = 'no answer in 60 s' if not pipe.poll(SECONDS + 10) else ''
        with contextlib.suppress(EOFError):
          wrong = wrong or pipe.recv()
        seconds, memory = time.monotonic() - since, peak(worker.pid) if worker.is_alive() else 0.0
        wrong = wrong or ('the process died' if not memory else f'{memory:.1f} GiB' if memory > GIB else '')
        longest, largest = max(longest, seconds), max(largest, memory)
        if wrong:
          bad[what] += 1
          print(f'BAD {what} {done}: {told}\n{wrong[-3000:]}', flush=True)
          worker.kill()
          worker, pipe = start()
      worker.kill()
      print(f'{what}: {done} cases, {bad[what]} bad, {time.monotonic() - began:.0f} s so far', flush=True)
  print(json.dumps({'bad': sum(bad.values()), 'longest s': round(longest, 1), 'largest GiB': round(largest, 2)}))
  sys.exit(bool(bad))


if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))
  os.environ['PYTHONPATH'] = str(ROOT)
  main()
