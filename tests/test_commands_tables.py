"""Tables through the commands: training, and predictions that are those of the model."""

import csv
import gzip
import json
import tracemalloc

import numpy as np
import pytest
from flax import nnx
from table_runs import COLOURS, CONFIG, HEADER, rows, train, write

from mixer_jax import config as configs
from mixer_jax import messages, predict
from mixer_jax.data.tables import Table
from mixer_jax.data.tables import csv as csv_files
from mixer_jax.data.tables import schema as schemas
from mixer_jax.data.tables import table as table_module
from mixer_jax.training import experiment as experiments
from mixer_jax.training import restore

# ---- the config


def loaded(path, *overrides):
  return configs.load([f'--config={CONFIG}:{path}', *overrides])


def test_the_splits_that_are_there(tmp_path):
  splits = lambda path: [loaded(path)['data'].get(k, '') for k in ('train', 'val', 'test')]
  parts = ['train[:70%]', 'train[70%:80%]', 'train[80%:]']
  path = write(tmp_path / 'train.csv', rows())
  assert splits(path) == splits(tmp_path) == parts
  write(tmp_path / 'test.csv', rows())
  assert splits(tmp_path) == ['train[:90%]', 'train[90%:]', 'test']
  write(tmp_path / 'val.csv', rows())
  assert splits(tmp_path) == ['train', 'val', 'test']
  (tmp_path / 'test.csv').unlink()
  assert splits(tmp_path) == ['train', 'val', '']
  assert splits(path) == parts
  assert loaded(path)['data']['stratified'] is True


@pytest.mark.parametrize('label', ['label', 'kind'])
@pytest.mark.parametrize(
  'classes, task', [(('0', '1'), 'binary'), (('no', 'yes'), 'binary'), (('a', 'b', 'c'), 'classification')]
)
def test_the_task_is_that_of_the_labels(classes, task, label, tmp_path):
  path = write(tmp_path / 'mine.csv', rows(classes=classes), (*HEADER[:-1], label))
  config = loaded(path if label == 'label' else f'{path}:{label}')
  assert (config['task']['name'], config['data']['label']) == (task, label)
  assert experiments.build(config).data.classes == len(classes)


def test_a_wide_table_makes_neither_wide_mlps_nor_large_batches(tmp_path):
  narrow = loaded(write(tmp_path / 'narrow.csv', rows()))
  wide = loaded(write(tmp_path / 'wide.csv', [['1'] * 1024, ['0'] * 1024], [f'c{i}' for i in range(1023)] + ['label']))
  assert (narrow['model']['token_expansion'], wide['model']['token_expansion']) == (1, 0.25)
  assert (narrow['batch_size'], wide['batch_size']) == (64, 16)


# ---- runs


@pytest.fixture(scope='module')
def run(run_command, tmp_path_factory):
  """A run on a table whose labels are words, with its id dropped."""
  folder = tmp_path_factory.mktemp('table')
  write(folder / 'mine.csv', rows(400, classes=('normal', 'attack')))
  assert run_command('train', *train(folder / 'mine.csv', folder / 'run', '--config.data.drop=id')) == 0
  return folder / 'run'


@pytest.fixture(scope='module')
def restored(run):
  return restore.restore(run)


def test_the_last_class_in_order_is_the_positive_one(run, run_command, capsys):
  assert json.loads((run / 'labels.json').read_text()) == ['attack', 'normal']
  schema = json.loads((run / 'schema.json').read_text())
  assert schema['columns'] == ['size', 'weight', 'colour'] and schema['dropped'] == ['id']
  assert schema['categories'] == {'colour': sorted(COLOURS)}
  summary = json.loads((run / 'summary.json').read_text())['metrics']
  capsys.readouterr()
  assert run_command('evaluate', f'--workdir={run}') == 0
  shown = capsys.readouterr()
  evaluated = json.loads(shown.out)  # and no other line: what was missing is reported on stderr
  assert 'cells of weight: missing' in shown.err
  assert evaluated['examples'] == 80 and evaluated['split'] == 'train[80%:]'
  assert evaluated['roc_auc'] == summary['test/roc_auc']


def test_three_classes_by_another_column_from_categories_alone(tmp_path, run_command, capsys):
  classes = ('cat', 'dog', 'owl')
  for split, seed in (('train', 0), ('val', 1), ('test', 2)):
    write(tmp_path / f'{split}.csv', rows(60, seed, classes), (*HEADER[:-1], 'kind'))
  drop = '--config.data.drop=("id", "size", "weight")'
  assert run_command('train', *train(f'{tmp_path}:kind', tmp_path / 'run', drop)) == 0
  shown = capsys.readouterr().out
  assert "label 'kind': 'cat' 20 rows, 'dog' 20 rows, 'owl' 20 rows\n" in shown
  assert '1 columns of categories: colour (3 values)\n' in shown and 'dropped columns: id, size, weight\n' in shown
  assert 'rows (100.0%) of val stand in train too' in shown
  metrics = json.loads((tmp_path / 'run/summary.json').read_text())['metrics']
  assert {'val/accuracy', 'test/loss', 'val/macro_f1', 'test/macro_roc_auc'} <= set(metrics)
  drawn = {path.name for path in (tmp_path / 'run/figures').iterdir()}
  assert drawn == {'curves.png', 'schedule.png', 'confusion_val.png', 'confusion_test.png'}
  capsys.readouterr()
  assert run_command('evaluate', f'--workdir={tmp_path}/run', f'--data_dir={tmp_path}') == 0
  evaluated = json.loads(capsys.readouterr().out)
  assert evaluated['macro_f1'] == metrics['test/macro_f1']
  assert np.sum(evaluated['confusion']) == 60 and np.trace(evaluated['confusion']) == round(60 * evaluated['accuracy'])
  output = tmp_path / 'classes.csv'
  assert (
    run_command('predict', f'--workdir={tmp_path}/run', '--input', tmp_path / 'test.csv', f'--output={output}') == 0
  )
  predicted = read(output)
  assert len(predicted) == 60 and {row['prediction'] for row in predicted} <= set(classes)
  assert all(1 / 3 <= float(row['probability']) <= 1 for row in predicted)


@pytest.mark.nightly
def test_ten_rows_and_a_label_of_two_classes_by_an_override(tmp_path, run_command):
  path = write(tmp_path / 'mine.csv', rows(10), (*HEADER[:-1], 'kind'))
  assert run_command('train', *train(path, tmp_path / 'run', '--config.data.label=kind')) == 0
  assert json.loads((tmp_path / 'run/schema.json').read_text())['label'] == 'kind'


def test_ten_thousand_columns(tmp_path):
  values = np.random.default_rng(0).normal(size=(20, 10_000))
  body = [[*(f'{value:.6f}' for value in row), '01'[i % 2]] for i, row in enumerate(values)]
  config = loaded(write(tmp_path / 'wide.csv', body, [*(f'c{i}' for i in range(10_000)), 'label']))
  experiment = experiments.build(config)
  schema = experiment.data.schema
  assert len(schema.columns) == 10_000 and schema.classes == ('0', '1')
  train = experiment.data.table('train[:70%]', None)
  np.testing.assert_allclose(list(schema.fill.values()), np.median(values[train.numbers - 1], axis=0), atol=1e-6)
  assert experiment.data.batch(16)['features'].shape == (16, 10_000)
  # Token MLPs as wide as the columns are many would have 400 million parameters.
  assert experiment.parameters < 20e6


@pytest.mark.slow
def test_a_rare_class_of_a_packed_file(tmp_path, run_command, capsys):
  """Two rows of a class: one is learnt from, and what the part without the other cannot show is said."""
  body = rows(60, classes=('a', 'b'))
  body[7], body[8] = (*body[7][:-1], 'rare'), (*body[8][:-1], 'rare')
  path = write(tmp_path / 'mine.csv', body)
  (tmp_path / 'mine.csv.gz').write_bytes(gzip.compress(path.read_bytes()))
  path.unlink()
  assert run_command('train', *train(tmp_path / 'mine.csv.gz', tmp_path / 'run')) == 0
  shown = capsys.readouterr().out
  assert "'rare' 1 rows" in shown
  summary = json.loads((tmp_path / 'run/summary.json').read_text())
  assert summary['best']['chosen_by'] == 'val/accuracy'
  assert all(np.isfinite(value) for value in summary['metrics'].values())
  lacking = [split for split in ('train[70%:80%]', 'train[80%:]') if f"{split}: no row has 'rare'" in shown]
  assert len(lacking) == 1
  output = f'--output={tmp_path}/out.csv'
  assert run_command('predict', f'--workdir={tmp_path}/run', '--input', tmp_path / 'mine.csv.gz', output) == 0
  assert len(read(tmp_path / 'out.csv')) == 60


# ---- predictions


def read(path):
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
  """So that there are several batches, the last of them padded."""
  monkeypatch.setattr(table_module, 'ROWS', 16)


@pytest.fixture
def predicted(restored, tmp_path):
  """(prediction, probability) of the rows of a table."""

  messages.show(aside=True)

  def predicted(body, header=HEADER):
    predict.write_rows(restored, [str(write(tmp_path / 'new.csv', body, header))], tmp_path / 'predicted.csv')
    with (tmp_path / 'predicted.csv').open(newline='') as file:
      lines = list(csv.reader(file))
    assert [line[0] for line in lines] == ['row', *map(str, range(1, len(body) + 1))]
    return [line[1:] for line in lines[1:]]

  return predicted


def test_predictions_are_those_of_the_model(run, restored, run_command, tmp_path, capsys):
  path = write(tmp_path / 'new.csv', rows(100, seed=5, classes=('normal', 'attack')))
  capsys.readouterr()
  assert run_command('predict', f'--workdir={run}', '--input', path, f'--output={tmp_path}/out.csv') == 0
  assert '100 rows -> ' in capsys.readouterr().out
  assert sorted(p.name for p in tmp_path.iterdir()) == ['new.csv', 'out.csv']
  found = read(tmp_path / 'out.csv')
  assert [row['row'] for row in found] == [str(i) for i in range(1, 101)]
  schema = restored.experiment.data.schema
  arrays, _ = schema.arrays(csv_files.read_csv(path, columns=schema.columns, categorical=['colour']))
  model = nnx.merge(restored.experiment.graphdef, restored.params)
  normal = 1 / (1 + np.exp(-np.asarray(model(arrays['features'], arrays['categories']), np.float64)[:, 0]))
  assert [row['prediction'] for row in found] == ['normal' if p > 0.5 else 'attack' for p in normal]
  probability = [float(row['probability']) for row in found]
  np.testing.assert_allclose(probability, np.maximum(normal, 1 - normal), atol=2e-6)
  assert len(set(probability)) > 50  # rows differ, so their order is seen


def test_the_scaling_is_that_of_the_run(predicted):
  body = rows(20, seed=6)
  assert predicted(body[7:8]) == predicted(body)[7:8]


def test_numbers_near_the_end_of_float64(predicted):
  """They are beyond all training rows, so they are as the largest of these."""
  (small, large, larger) = predicted([('0', number, '1', 'red', '?') for number in ('-1e308', '1e308', '1.7e308')])
  assert large == larger != small


def test_columns_in_any_order_with_and_without_those_not_used(predicted):
  body = rows(30, seed=7)
  expected = predicted(body)
  pick = lambda *names: ([tuple(row[HEADER.index(name)] for name in names) for row in body], names)
  assert predicted(*pick('size', 'weight', 'colour')) == expected
  assert predicted(*pick('colour', 'label', 'size', 'id', 'weight')) == expected
  assert predicted(*pick('weight', 'size', 'colour', 'id')) == expected
  exchanged, _ = pick('weight', 'size', 'colour')
  assert predicted(exchanged, ('size', 'weight', 'colour')) != expected


def test_what_had_no_value_is_counted(predicted, restored, capsys):
  body = [(*row[:2], '1', 'pink' if i < 3 else 'red', '?') for i, row in enumerate(rows(20, seed=8))]
  body[4] = (*body[4][:2], '', *body[4][3:])
  capsys.readouterr()
  pink = predicted(body)
  shown = capsys.readouterr()
  assert 'new.csv: 3 cells of colour: unknown' in shown.err and 'new.csv: 1 cells of weight: missing' in shown.err
  assert shown.out == ''
  assert 'in most of' not in shown.err
  predicted([(*row[:3], 'pink' if i < 11 else 'red', row[4]) for i, row in enumerate(body)])
  shown = capsys.readouterr().err
  assert 'warning: ' in shown and 'in most of the 20 rows the column colour: unknown; see whether' in shown
  # Any unknown colour is number 0, whose row of the colours' table stayed zero.
  violet = predicted([(*row[:3], 'violet' if row[3] == 'pink' else row[3], row[4]) for row in body])
  assert violet == pink
  red = predicted([(*row[:3], 'red', row[4]) for row in body])
  assert red[3:] == pink[3:] and all(a != b for a, b in zip(red[:3], pink[:3], strict=True))
  table = Table('t', {'size': np.ones(1), 'weight': np.ones(1), 'colour': np.array(['pink'], object)})
  assert restored.experiment.data.schema.arrays(table)[0]['categories'].tolist() == [[schemas.UNKNOWN]]


@pytest.mark.parametrize(
  'header, body, parts',
  [
    (('size', 'weight'), [('1', '2')], ["lacks 'colour' and has nothing besides", 'size, weight, colour']),
    ((*HEADER, 'note'), [(*row, 'x') for row in rows()], ["lacks nothing and has 'note' besides"]),
    (('Size', 'weight', 'colour'), [('1', '2', 'red')], ["lacks 'size' and has 'Size' besides"]),
    (HEADER, [], ['has a header, but no rows']),
    (HEADER, [('1', '2', '3', 'red', 'normal'), ('1', '2')], ['row 2: 2 cells, but the header has 5']),
    (HEADER, [('1', '2', 'light', 'red', '?')], ["row 1, column 'weight': 'light' is not a number"]),
    (HEADER, [*rows(60), (), *rows(2)], ['line 62: the line is blank, but rows follow']),
  ],
)
def test_predict_refuses_a_table(header, body, parts, run, tmp_path, refused):
  path = write(tmp_path / 'new.csv', body, header)
  arguments = (f'--workdir={run}', '--input', path, f'--output={tmp_path}/out.csv')
  refused('predict', *arguments, parts=[path, *parts])
  assert [p.name for p in tmp_path.iterdir()] == ['new.csv']


@pytest.mark.parametrize(
  'content, part',
  [
    (b'', 'is empty'),
    (b'size,weight,colour\n1,2,\xff\n', 'UTF-8'),
    (b'a;b\n1;2\n', 'commas'),
    (b'size weight colour\n1 2 red\n', 'commas'),
  ],
)
def test_predict_refuses_what_is_no_table(content, part, run, tmp_path, refused):
  path = tmp_path / 'new.csv'
  path.write_bytes(content)
  refused('predict', f'--workdir={run}', '--input', path, f'--output={tmp_path}/out.csv', parts=[path, part])
  assert [p.name for p in tmp_path.iterdir()] == ['new.csv']


@pytest.mark.parametrize('cell, part', [('1e400', "'1e400' is infinite"), ('heavy', "'heavy' is not a number")])
def test_a_bad_cell_far_down_leaves_nothing_half_written(cell, part, run, tmp_path, refused, monkeypatch):
  monkeypatch.setattr(table_module, 'ROWS', 1024)
  header = ('weight', 'size', 'colour')
  path = write(tmp_path / 'new.csv', [('1', '2', 'red')] * 19_999 + [(cell, '2', 'red')], header)
  (tmp_path / 'out.csv').write_text('of before\n')
  arguments = (f'--workdir={run}', '--input', path, f'--output={tmp_path}/out.csv')
  refused('predict', *arguments, parts=[f"{path}, row 20000, column 'weight': {part}"])
  assert sorted(p.name for p in tmp_path.iterdir()) == ['new.csv', 'out.csv']
  assert (tmp_path / 'out.csv').read_text() == 'of before\n'


def test_predict_takes_one_file_and_does_not_write_over_it(run, tmp_path, refused):
  path, other = (write(tmp_path / name, rows()) for name in ('new.csv', 'other.csv'))
  before = path.read_bytes()
  refused('predict', f'--workdir={run}', '--input', path, f'--output={path}', parts=[path, 'equals --input'])
  output = f'--output={tmp_path}/out.csv'
  refused('predict', f'--workdir={run}', '--input', path, other, output, parts=['2 files', 'one CSV file'])
  refused('predict', f'--workdir={run}', '--input', tmp_path, output, parts=[tmp_path, 'Is a directory'])
  refused('predict', f'--workdir={run}', '--input', tmp_path / 'none.csv', output, parts=['none.csv', 'No such file'])
  assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ['new.csv', 'other.csv']


def test_memory_does_not_grow_with_the_file(restored, tmp_path, monkeypatch):
  monkeypatch.setattr(table_module, 'ROWS', 256)
  peaks, body = [], rows(256)
  for times in (2, 12):
    path = write(tmp_path / f'{times}.csv', body * times)
    tracemalloc.start()
    shown = predict.write_rows(restored, [str(path)], tmp_path / 'predicted.csv')
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert shown == f'{256 * times:,} rows'
  assert peaks[1] < 1.2 * peaks[0]
