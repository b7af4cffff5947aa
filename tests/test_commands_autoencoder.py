"""Auto-encoders through the commands: pictures of a run, codes out and in again, what is refused."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import mixer_jax
from mixer_jax.data.images import sets
from mixer_jax.errors import MixerError
from mixer_jax.inference import artefact, encode
from mixer_jax.training import restore

CONFIGS = Path(mixer_jax.__file__).parents[1] / 'configs'
SMALL = (
  '--config.model.hidden=8', '--config.model.encoder_blocks=1', '--config.model.decoder_blocks=1',
  '--config.model.token_mlp=4', '--config.model.channel_mlp=6', '--config.model.bottleneck=3', '--config.model.code=5',
)  # fmt: skip
SHORT = (
  '--config.batch_size=32', '--config.total=4 steps', '--config.eval_every=2 steps', '--config.log_every=2 steps',
  '--config.schedule.warmup=0', '--config.checkpoint_every=0',
)  # fmt: skip


@pytest.fixture(scope='module')
def run(run_command, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'codes'
  config = f'--config={CONFIGS}/digits_autoencoder.py'
  assert run_command('train', config, *SMALL, *SHORT, f'--workdir={workdir}') == 0
  return workdir


@pytest.fixture(scope='module')
def restored(run):
  return restore.restore(run)


@pytest.fixture(scope='module')
def model(restored):
  model = restored.experiment.init_model()
  nnx.update(model, restored.params)
  return model


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
  """70 digits, more than a batch, as PNG files in folders."""
  folder = tmp_path_factory.mktemp('scans')
  source = sets.load('digits', 'train[80%:]', image=(8, 8, 1), classes=10)
  for i in range(70):
    (folder / f'{i // 40}').mkdir(exist_ok=True)
    Image.fromarray(source[i]['image'][..., 0]).save(folder / f'{i // 40}' / f'{i:03d}.png')
  return folder


def pixels(folder):
  return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob('*.png'))])[..., None]


def close(pictures, wanted):
  """Files of 8 bits against what the model gave."""
  wanted = 255 * np.clip(np.asarray(wanted, np.float64), 0, 1)
  assert pictures.shape == wanted.shape
  assert np.abs(pictures - wanted).max() < 0.51


def test_a_run_draws_every_evaluation_and_its_codes(run):
  drawn = sorted(str(path.relative_to(run / 'figures')) for path in (run / 'figures').rglob('*.png'))
  assert drawn == [
    'codes.png', 'curves.png', 'dimensions.png', 'interpolations.png', 'reconstructions/00000002.png',
    'reconstructions/00000004.png', 'schedule.png',
  ]  # fmt: skip
  for name in drawn:
    with Image.open(run / 'figures' / name) as picture:
      assert np.asarray(picture.convert('L')).std() > 5


def test_a_run_logs_errors_and_keeps_the_best(run):
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  tested = [line for line in lines if 'test/mse' in line]
  assert [line['step'] for line in tested] == [2, 4]
  assert all({'test/mse', 'test/l1', 'test/psnr', 'test/ssim', 'test/loss'} <= set(line) for line in tested)
  assert all({'train/mse', 'train/loss'} <= set(line) for line in lines if 'train/loss' in line)
  best = json.loads((run / 'summary.json').read_text())['best']
  assert best['chosen_by'] == 'test/mse' and best['test/mse'] == min(line['test/mse'] for line in tested)


def test_evaluate_gives_the_numbers_of_training(run_command, run, capsys):
  assert run_command('evaluate', f'--workdir={run}') == 0
  result = json.loads(capsys.readouterr().out)
  last = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines() if 'test/mse' in line][-1]
  assert result['mse'] == last['test/mse'] and result['ssim'] == last['test/ssim']


def test_no_labels_of_classes_in_what_is_made_of_it(run_command, run, restored, tmp_path):
  assert restored.classes == list('0123456789')  # of the digits that it learnt from
  assert artefact.export_run(restored, ('cpu',))[1]['labels'] is None
  assert run_command('convert', f'--from={run}', f'--to={tmp_path}/folder', '--check') == 0
  about = json.loads((tmp_path / 'folder' / 'config.json').read_text())
  assert about['labels'] is None and about['data'] == {'image': [8, 8, 1], 'mean': [0.0], 'std': [1.0]}


def test_encode_then_decode(run_command, run, model, scans, tmp_path, capsys):
  codes, pictures = tmp_path / 'codes.npy', tmp_path / 'pictures'
  assert run_command('predict', f'--workdir={run}', f'--input={scans}', f'--output={codes}', '--encode') == 0
  assert capsys.readouterr().out == f'70 codes of 5 numbers -> {codes}\n'
  code = np.load(codes, allow_pickle=False)
  image = pixels(scans) / np.float32(255)
  assert code.shape == (70, 5) and code.dtype == np.float32
  np.testing.assert_allclose(code, model.encode(image), rtol=1e-4, atol=1e-5)
  assert run_command('predict', f'--workdir={run}', f'--input={codes}', f'--output={pictures}', '--decode') == 0
  assert sorted(p.name for p in pictures.iterdir()) == [f'{i:06d}.png' for i in range(70)]
  close(pixels(pictures), model(image))


def test_neither_writes_reconstructions(run_command, run, model, scans, tmp_path, capsys):
  pictures = tmp_path / 'pictures'
  assert run_command('predict', f'--workdir={run}', f'--input={scans}', f'--output={pictures}') == 0
  assert capsys.readouterr().out == f'70 images -> {pictures}\n'
  assert sorted(p.name for p in pictures.iterdir()) == [f'{i:06d}_{i:03d}.png' for i in range(70)]
  close(pixels(pictures), model(pixels(scans) / np.float32(255)))


def test_codes_of_whole_numbers(run_command, run, model, tmp_path):
  code = np.arange(10).reshape(2, 5)
  np.save(tmp_path / 'codes.npy', code)
  output = tmp_path / 'pictures'
  assert (
    run_command('predict', f'--workdir={run}', f'--input={tmp_path}/codes.npy', f'--output={output}', '--decode') == 0
  )
  close(pixels(output), model.decode(code.astype(np.float32)))


@pytest.mark.parametrize(
  'codes, parts',
  [
    (np.zeros((3, 7)), ['float64 [3, 7]', '[images, 5]']),
    (np.zeros(5), ['float64 [5]', '[images, 5]']),
    (np.full((3, 5), np.nan), ['not finite']),
    (np.full((3, 5), 'a'), ['<U1 [3, 5]', 'numbers']),
    (np.zeros((3, 5), complex), ['complex128 [3, 5]']),
    (np.zeros((0, 5)), ['float64 [0, 5]']),
    (np.full((3, 5), 1e300), ['not finite in float32']),
    (np.array([[{}] * 5]), ['allow_pickle=False', '[images, 5]']),
  ],
)
def test_codes_that_are_none(codes, parts, run, tmp_path, refused):
  path = tmp_path / 'codes.npy'
  np.save(path, codes, allow_pickle=codes.dtype == object)
  output = tmp_path / 'out'
  refused('predict', f'--workdir={run}', f'--input={path}', f'--output={output}', '--decode', parts=[path, *parts])
  assert not output.exists()


def test_files_that_hold_no_codes(restored, run, scans, tmp_path, refused):
  output = tmp_path / 'out'
  arguments = ('predict', f'--workdir={run}', '--input', scans / '0' / '000.png', f'--output={output}', '--decode')
  refused(*arguments, parts=['000.png', '[images, 5]'])

  def refuses(*names, parts):
    with pytest.raises(MixerError) as error:
      encode.decode_codes(restored, [str(tmp_path / name) for name in names], output)
    assert all(part in str(error.value) for part in parts)

  np.savez(tmp_path / 'codes.npz', a=np.zeros((3, 5)))
  refuses('codes.npz', parts=['codes.npz', 'archive of arrays'])
  (tmp_path / 'pointer.npy').write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
  refuses('pointer.npy', parts=['pointer.npy', 'Git LFS pointer'])
  header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 5), }"
  for name, rows, data in (('lie', 2**50, bytes(40)), ('long', 1, bytes(40)), ('giant', 2**33, b'')):
    text = (header % rows).encode() + b'\n'
    (tmp_path / f'{name}.npy').write_bytes(b'\x93NUMPY\1\0' + struct.pack('<H', len(text)) + text + data)
    refuses(f'{name}.npy', parts=[f'{name}.npy has {len(data)} bytes for ({rows}, 5) float32'])
  (tmp_path / 'deep.npy').write_bytes(b'\x93NUMPY\1\0' + struct.pack('<H', 9000) + b'(' * 9000)
  refuses('deep.npy', parts=['cannot be read', '[images, 5]'])
  (tmp_path / 'damaged.npz').write_bytes((tmp_path / 'codes.npz').read_bytes()[:-30])
  refuses('damaged.npz', parts=['damaged.npz', '[images, 5]'])
  refuses('none.npy', parts=['none.npy', 'No such file'])
  np.save(tmp_path / 'a.npy', np.zeros((3, 5)))
  (tmp_path / 'cut.npy').write_bytes((tmp_path / 'a.npy').read_bytes()[:-8])
  refuses('cut.npy', parts=['cut.npy', '[images, 5]'])
  refuses('a.npy', 'a.npy', parts=['2 files', 'one .npy file'])
  assert not output.exists()


def test_pictures_are_not_mixed_with_other_files(run, scans, tmp_path, refused):
  np.save(tmp_path / 'codes.npy', np.zeros((3, 5)))
  for flags in (['--input', tmp_path / 'codes.npy', '--decode'], ['--input', scans]):
    arguments = ('predict', f'--workdir={run}', *flags, f'--output={tmp_path}')
    refused(*arguments, parts=[tmp_path, 'is not empty', 'new folder'])
  assert [p.name for p in tmp_path.iterdir()] == ['codes.npy']


def test_an_output_that_is_no_name(run, scans, refused):
  refused('predict', f'--workdir={run}', f'--input={scans}', '--output=.', '--encode', parts=['--output=.'])


def test_a_broken_image_leaves_no_codes(run, scans, tmp_path, refused):
  (tmp_path / 'broken.png').write_bytes(b'no image')
  output = tmp_path / 'codes.npy'
  arguments = ('--input', scans, tmp_path / 'broken.png', f'--output={output}', '--encode')
  refused('predict', f'--workdir={run}', *arguments, parts=['broken.png'])
  assert [p.name for p in tmp_path.iterdir()] == ['broken.png']


def test_an_image_cut_off_leaves_no_pictures(run, scans, tmp_path, refused):
  broken = tmp_path / 'broken.jpg'
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8)).save(broken)
  broken.write_bytes(broken.read_bytes()[:2000])  # the header is whole
  output = tmp_path / 'new' / 'pictures'
  arguments = ('--input', scans, scans, broken, f'--output={output}')  # in the last of three batches
  refused('predict', f'--workdir={run}', *arguments, parts=['broken.jpg', 'fix or remove it'])
  assert not output.exists() and not list(output.parent.iterdir())
  begun = tmp_path / 'new' / 'pictures.part' / 'mine.png'
  begun.parent.mkdir()
  begun.write_bytes(b'')
  refused('predict', f'--workdir={run}', f'--input={scans}', f'--output={output}', parts=[begun.parent, 'is not empty'])
  assert begun.exists()


@pytest.mark.nightly
def test_the_run_of_a_classifier_has_no_codes(run_command, scans, tmp_path, refused):
  workdir = tmp_path / 'digits'
  small = [
    f'--config.model.{key}' for key in ('blocks=1', 'hidden=8', 'token_mlp=4', 'channel_mlp=6', 'stochastic_depth=0.0')
  ]
  assert (
    run_command(
      'train', f'--config={CONFIGS}/digits.py', *small, *SHORT, '--config.eval_every=0', f'--workdir={workdir}'
    )
    == 0
  )
  for flag in ('--encode', '--decode'):
    arguments = (f'--input={scans}', f'--output={tmp_path}/out', flag)
    refused('predict', f'--workdir={workdir}', *arguments, parts=[flag, 'classification'])


@pytest.mark.parametrize(
  'overrides, parts',
  [
    (['--config.model.name=mixer'], ['lacks model.blocks']),
    (['--config.data.mean=(0.5,)'], ['data.mean', '0.5']),
    (['--config.task.loss=l2'], ['task.loss', 'l2', 'mse']),
    (['--config.model.patch=3'], ['3x3', '8x8']),
    (['--config.model.code=0'], ['model.code is 0']),
  ],
)
def test_a_mistake_in_the_config(overrides, parts, tmp_path, refused):
  config = f'--config={CONFIGS}/digits_autoencoder.py'
  refused('train', config, *overrides, f'--workdir={tmp_path}/run', parts=parts)


# ---- folders of photographs


def photographs(folder, count=8, side=(100, 130)):
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i in range(count):
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    coarse.resize(side).save(folder / f'{i}.jpg')
  return folder


def of_photographs(folder, workdir, setting='', *overrides):
  data = ('--config.data.train=all[3:]', '--config.data.val=all[:3]', '--config.eval_batch_size=3')
  narrow = () if setting else SMALL
  name = f'{folder},{setting}' if setting else folder
  rest = (*narrow, *SHORT, *overrides, f'--workdir={workdir}')
  return 'train', f'--config={CONFIGS}/image_autoencoder.py:{name}', *data, *rest


@pytest.mark.slow
def test_a_folder_of_photographs(run_command, tmp_path, capsys):
  folder = photographs(tmp_path / 'photographs')
  Image.fromarray(np.arange(13000, dtype=np.uint16).astype(np.uint8).reshape(130, 100)).save(folder / 'a_grey.png')
  Image.new('RGB', (50, 60)).save(folder / 'a_small.png')
  workdir = tmp_path / 'run'
  assert run_command(*of_photographs(folder, workdir, '', '--config.batch_size=4', '--config.eval_every=4 steps')) == 0
  shown = capsys.readouterr().out
  assert '1 turned from grey to colour' in shown and 'a_grey.png' in shown
  assert '1 smaller than 96x96 enlarged' in shown and 'a_small.png' in shown
  assert (workdir / 'figures' / 'reconstructions' / '00000004.png').is_file()
  assert (workdir / 'figures' / 'codes.png').is_file()
  output = tmp_path / 'out'
  assert run_command('predict', f'--workdir={workdir}', f'--input={folder}', f'--output={output}') == 0
  assert len(list(output.iterdir())) == 10
  assert '--input: 1 turned from grey to colour' in capsys.readouterr().err
  with Image.open(output / '000000_0.png') as picture:
    assert picture.size == (96, 96) and picture.mode == 'RGB'


@pytest.mark.nightly
def test_benchmark_needs_no_photographs(run_command, tmp_path, capsys):
  config = f'--config={CONFIGS}/image_autoencoder.py:{tmp_path}/nothing'
  assert run_command('benchmark', config, *SMALL, '--config.batch_size=4', '--seconds=1', '--json') == 0
  assert json.loads(capsys.readouterr().out)['examples_per_second'] > 0


@pytest.mark.parametrize('content', [b'no image', None], ids=['no image', 'cut off'])
def test_one_broken_photograph(content, tmp_path, refused):
  folder = photographs(tmp_path / 'photographs')
  broken = folder / '5.jpg'
  broken.write_bytes(broken.read_bytes()[:800] if content is None else content)
  refused(*of_photographs(folder, tmp_path / 'run'), parts=[broken, 'fix or remove it'])


def test_no_folder_of_photographs(tmp_path, refused):
  refused(*of_photographs(tmp_path / 'nothing', tmp_path / 'run'), parts=[tmp_path / 'nothing'])


@pytest.mark.parametrize('setting', ['p8-cnn', 'w33-cnnf-k3', 'p8-cnnf-k', 'scripts'])
def test_a_setting_that_is_none(setting, tmp_path, refused):
  refused(*of_photographs(tmp_path, tmp_path / 'run', setting), parts=[setting, 'w36-cnn2df-k7'])


def test_a_script_that_cannot_be_read(tmp_path, refused):
  script = '--config.model.script=ch=32|up4|ch=1'
  folder = photographs(tmp_path / 'photographs', 4)
  refused(*of_photographs(folder, tmp_path / 'run', 'script', script), parts=["word 2, 'up4'", 'downN'])
