"""Two processes on this machine train as one, over loopback and gloo."""

import re
import signal
import time

import kill
import numpy as np
import pytest

from mixer_jax.training import loop

LIMIT = 150  # seconds that anything here may take
STEPS = 100
# Not Adam, which turns the rounding of a gradient near zero into a whole step.
SGD = {'name': 'sgd', 'momentum': 0.9, 'clip': 0.0}
FAST = {
  'total': f'{STEPS} steps', 'eval_batch_size': 64, 'optimizer': SGD, 'augment': {'mixup': {'alpha': 0.5}},
  'model': kill.tiny()['model'] | {'blocks': 1},
}  # fmt: skip


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
  """The config file, and the cache of compiled programs beside the runs."""
  folder = tmp_path_factory.mktemp('distributed')
  text = f'from ml_collections import ConfigDict\nget_config = lambda arg=None: ConfigDict({kill.tiny(**FAST)!r})\n'
  (folder / 'config.py').write_text(text)
  return folder


@pytest.fixture(scope='module')
def launch(shared):
  """launch(name, processes, devices of each, flags, flags of each) starts a run; what is left of it is killed."""
  started = []

  def launch(name, count, devices, *extra, of_each=((), ())):
    port, processes = kill.free_port(), []
    for i in range(count):
      joined = [f'--coordinator=127.0.0.1:{port}', f'--processes={count}', f'--process={i}'] if count > 1 else []
      processes.append(
        kill.start(
          str(shared / 'config.py'), shared / name, [*extra, *of_each[i], *joined], shared / f'{name}.{i}.txt',
          JAX_PLATFORMS='cpu', XLA_FLAGS=kill.devices(devices),
          JAX_CPU_COLLECTIVES_IMPLEMENTATION='gloo' if count > 1 else 'none',
        )
      )  # fmt: skip
    started.extend(processes)
    return processes

  yield launch
  for process in started:
    if process.poll() is None:
      kill.kill(process)


def finish(shared, name, processes):
  codes = [kill.wait(process, LIMIT) for process in processes]
  texts = [(shared / f'{name}.{i}.txt').read_text() for i in range(len(processes))]
  assert codes == [0] * len(processes), '\n'.join(text[-3000:] for text in texts)
  return texts


def assert_same_run(shared, a, b):
  """The same log to the rounding of sums over devices, and checkpoints that this one process opens."""
  a, b = (kill.log_lines(shared / name) for name in (a, b))
  assert [set(line) for line in a] == [set(line) for line in b] and len(a) == STEPS // 7 + STEPS // 25
  for x, y in zip(a, b, strict=True):
    assert x == pytest.approx(y, rel=1e-3, abs=2e-3)


@pytest.fixture(scope='module')
def alone(shared):
  """The run of one process, of one device."""
  config = kill.tiny(**FAST)
  loop.train_and_evaluate(config, shared / 'alone')
  return 'alone'


@pytest.fixture(scope='module')
def pair(shared, launch):
  """The run of two processes, of two devices each, and what they printed."""
  return finish(shared, 'pair', launch('pair', 2, 2, '--config.mesh.fsdp=2'))


@pytest.mark.slow
def test_two_processes_train_as_one(shared, alone, pair):
  assert 'on each of 4 devices' in pair[0] and '2 processes' in pair[0]
  assert '\nstep ' not in pair[1], 'only the first process writes the log'
  assert_same_run(shared, 'alone', 'pair')
  state, reference = kill.last_state(shared / 'pair'), kill.last_state(shared / 'alone')
  assert state['.step'] == STEPS
  assert set(state) == set(reference)
  for name in state:
    np.testing.assert_allclose(state[name], reference[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.nightly
def test_streamed_over_two_processes(shared, alone, launch):
  texts = finish(shared, 'streamed', launch('streamed', 2, 1, '--config.data.resident_mib=0.0'))
  assert 'streamed' in texts[0]
  assert_same_run(shared, 'alone', 'streamed')


@pytest.mark.slow
def test_a_signal_to_one_of_them_stops_both_and_they_resume_to_the_same_bits(shared, pair, launch):
  flags = '--config.mesh.fsdp=2'
  processes = launch('stopped', 2, 2, flags)
  wait_for_a_line(shared / 'stopped' / 'metrics.jsonl', processes)
  processes[1].send_signal(signal.SIGTERM)
  texts = finish(shared, 'stopped', processes)
  assert 'stopped by another process at step' in texts[0]
  assert 'SIGTERM: saving' in texts[1]
  assert not (shared / 'stopped' / 'summary.json').exists()
  step = int(kill.last_state(shared / 'stopped')['.step'])
  assert 7 <= step < STEPS
  texts = finish(shared, 'stopped', launch('stopped', 2, 2, flags))
  assert f'resumed at step {step}' in texts[0]
  assert kill.differences(shared / 'pair', shared / 'stopped') == []


@pytest.mark.slow
def test_processes_that_disagree_say_so_before_the_first_step(shared, launch):
  flags = ['--config.seed=7', '--config.schedule.peak=0.25']
  processes = launch('disagree', 2, 1, of_each=([], flags))
  for process, text in zip(processes, end(shared, 'disagree', processes), strict=True):
    assert process.returncode == 1
    assert text.splitlines()[-1].startswith(
      'error: the processes disagree: seed is 0 in process 0, but 7 in process 1; start all of them with the same'
    )
  assert not (shared / 'disagree').exists()


@pytest.mark.slow
def test_a_process_without_its_config_ends_the_others(shared, launch):
  processes = launch('gone', 2, 1, of_each=((), ['--config=nowhere/config.py']))
  texts = end(shared, 'gone', processes)
  assert [process.returncode for process in processes] == [1, 1]
  assert re.match(r"error: process 1 \(.*\) failed: no config file 'nowhere/config.py'", texts[0].splitlines()[-1])


@pytest.mark.nightly
def test_a_process_without_the_data_ends_the_others(shared, launch):
  mnist = ['--config.data={"name": "mnist", "image": (28, 28, 1)}']
  processes = launch('lost', 2, 1, of_each=(mnist, [*mnist, f'--data_dir={shared}/nowhere']))
  texts = end(shared, 'lost', processes)
  assert [process.returncode for process in processes] == [1, 1]
  assert all('mnist: no train-images' in text.splitlines()[-1] for text in texts)
  assert re.match(r'error: process 1 \(.*\) failed: mnist', texts[0].splitlines()[-1])


@pytest.mark.parametrize(
  'victim', [pytest.param(1, marks=pytest.mark.slow), pytest.param(0, marks=pytest.mark.nightly)]
)
def test_a_killed_process_ends_the_other_with_one_line(shared, launch, victim):
  name = f'killed_{victim}'
  processes = launch(name, 2, 1, '--config.total=100000 steps', '--config.eval_every=0', '--config.checkpoint_every=0')
  wait_for_a_line(shared / name / 'metrics.jsonl', processes)
  kill.kill(processes[victim])
  before = len((shared / f'{name}.{1 - victim}.txt').read_text().splitlines())
  assert kill.wait(processes[1 - victim], 60)
  lines = (shared / f'{name}.{1 - victim}.txt').read_text().splitlines()[before:]
  errors = [line for line in lines if not line.startswith('step ')]
  assert len(errors) == 1 and errors[0].startswith(f'error: process {victim}')
  assert ('has ended' if victim == 0 else 'has given no sign for') in errors[0]


def end(shared, name, processes):
  """What the processes printed until they ended."""
  assert None not in [kill.wait(process, LIMIT) for process in processes]
  return [(shared / f'{name}.{i}.txt').read_text() for i in range(len(processes))]


def wait_for_a_line(path, processes):
  deadline = time.monotonic() + LIMIT
  while not (path.exists() and path.read_text().count('\n')):
    assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
    time.sleep(0.02)
