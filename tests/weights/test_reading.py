"""Files and folders of weights -> a Mixer in our names, or one line that names all that is wrong."""

import json
import time

import files
import numpy as np
import pytest

from mixer_jax.errors import MixerError
from mixer_jax.weights import reading, writing

MODEL = {
  'name': 'mixer', 'patch': 2, **files.SIZES, 'norm_over': 'channels', 'first': 'tokens', 'pool': 'mean', 'head': [],
}  # fmt: skip


def refused(path, *parts):
  with pytest.raises(MixerError) as caught:
    reading.read(str(path))
  message = str(caught.value)
  assert '\n' not in message
  for part in (path.name, *parts):
    assert part in message, message


@pytest.mark.parametrize('end', files.WRITERS)
def test_what_a_file_says_of_its_network(end, tmp_path):
  layout, write = files.WRITERS[end]
  arrays = files.mixer_arrays()
  write(tmp_path / f'w{end}', files.theirs(layout, arrays))
  found = reading.read(str(tmp_path / f'w{end}'))
  assert found.arrays.keys() == arrays.keys()
  assert all(np.array_equal(found.arrays[name], arrays[name]) for name in arrays)
  gelu = {'original': 'tanh', 'timm': 'exact'}[layout]
  assert found.model == MODEL | {'gelu': gelu}
  assert found.data == {'image': [6, 6, 3], 'classes': 4, 'mean': [0.5] * 3, 'std': [0.5] * 3}
  assert found.notes == (f'gelu: {gelu}, as {layout} weights have it; the file does not say',)
  assert len(found.sha256) == 64


@pytest.mark.parametrize('layout, prefix, write, end', [
  ('original', 'params/', files.write_npz, '.npz'), ('original', 'opt/target/', files.write_npz, '.npz'),
  ('older original', '', files.write_npz, '.npz'), ('older original', 'target/', files.write_npz, '.npz'),
  ('timm', 'module.', files.write_pth, '.pth'), ('timm', 'model.', files.write_safetensors, '.safetensors'),
])  # fmt: skip
def test_prefixes(layout, prefix, write, end, tmp_path):
  arrays = files.mixer_arrays()
  given = {prefix + name: array for name, array in files.theirs(layout, arrays).items()}
  write(tmp_path / f'w{end}', given)
  found = reading.read(str(tmp_path / f'w{end}'))
  assert found.kind == layout and all(np.array_equal(found.arrays[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize('dtype', [np.float16, files.BFLOAT16, np.float64])
def test_other_floats_are_converted_and_told(dtype, tmp_path):
  arrays = files.mixer_arrays()
  layouts = (
    {'.npz': 'original'} if dtype == np.float64 else {'.npz': 'original', '.safetensors': 'timm', '.pth': 'timm'}
  )
  for end, layout in layouts.items():
    files.WRITERS[end][1](tmp_path / f'w{end}', files.theirs(layout, arrays, dtype))
    found = reading.read(str(tmp_path / f'w{end}'))
    assert found.notes[-1] == f'30 arrays: {np.dtype(dtype).name} -> float32'
    name = 'blocks.1.token_mixing.fc1.kernel'
    assert found.arrays[name].dtype == np.float32
    assert np.array_equal(found.arrays[name], arrays[name].astype(dtype).astype(np.float32))


def test_whole_numbers_are_no_weights(tmp_path):
  given = files.theirs('original', files.mixer_arrays())
  given['stem/bias'] = given['stem/bias'].astype(np.int64)
  files.write_npz(tmp_path / 'w.npz', given)
  refused(tmp_path / 'w.npz', 'stem/bias is of int64')


def test_numbers_that_are_none_are_named_and_counted(tmp_path):
  given = files.theirs('timm', files.mixer_arrays())
  given['blocks.1.norm2.weight'][[1, 3]] = np.nan, np.inf
  files.write_safetensors(tmp_path / 'w.safetensors', given)
  refused(tmp_path / 'w.safetensors', 'blocks.1.norm2.weight has 2 entries that are not finite')


def test_missing_and_extra_arrays_are_all_named(tmp_path):
  given = files.theirs('original', files.mixer_arrays())
  del given['stem/bias'], given['MixerBlock_1/LayerNorm_0/scale']
  given |= {'other/kernel': np.ones(2), 'MixerBlock_0/extra': np.ones(2)}
  files.write_npz(tmp_path / 'w.npz', given)
  refused(
    tmp_path / 'w.npz', 'missing MixerBlock_1/LayerNorm_0/scale, stem/bias', 'extra MixerBlock_0/extra, other/kernel'
  )


def test_a_block_that_is_missing_and_one_far_out(tmp_path):
  given = files.theirs('original', files.mixer_arrays())
  given = {name.replace('MixerBlock_1', 'MixerBlock_300000'): array for name, array in given.items()}
  files.write_npz(tmp_path / 'w.npz', given)
  began = time.monotonic()
  refused(tmp_path / 'w.npz', 'MixerBlock_1/LayerNorm_0/scale', 'extra MixerBlock_300000/')
  assert time.monotonic() - began < 5


def test_misshapen_arrays_are_all_named(tmp_path):
  given = files.theirs('timm', files.mixer_arrays())
  given['blocks.1.mlp_tokens.fc2.bias'] = np.ones(3, np.float32)
  given['norm.weight'] = np.ones(5, np.float32)
  files.write_safetensors(tmp_path / 'w.safetensors', given)
  refused(
    tmp_path / 'w.safetensors', 'blocks.1.token_mixing.fc2.bias (3,), but should be (9,)',
    'pre_head_norm.scale (5,), but should be (6,)',
  )  # fmt: skip


def test_shapes_are_checked_before_anything_is_read(tmp_path, monkeypatch):
  given = files.theirs('original', files.mixer_arrays())
  given['head/bias'] = np.ones(9, np.float32)
  files.write_npz(tmp_path / 'w.npz', given)
  monkeypatch.setattr(reading, '_to_float32', lambda *_: pytest.fail('an array was read'))
  refused(tmp_path / 'w.npz', 'head.bias (9,), but should be (4,)')


@pytest.mark.parametrize('shape', [(12, 6), (2, 2, 3, 6, 1), (6,), (0, 2, 3, 6)])
def test_a_stem_that_is_none(shape, tmp_path):
  given = files.theirs('original', files.mixer_arrays())
  given['stem/kernel'] = np.ones(shape, np.float32)
  files.write_npz(tmp_path / 'w.npz', given)
  refused(tmp_path / 'w.npz')


def test_weights_of_something_else(tmp_path):
  files.write_npz(tmp_path / 'w.npz', {'conv1/kernel': np.ones((3, 3, 3, 8)), 'fc/kernel': np.ones((8, 10))})
  refused(tmp_path / 'w.npz', 'no Mixer', '2 arrays: conv1/kernel, fc/kernel')
  blockless = {k: v for k, v in files.theirs('timm', files.mixer_arrays()).items() if not k.startswith('blocks')}
  files.write_safetensors(tmp_path / 'w.safetensors', blockless)
  refused(tmp_path / 'w.safetensors', 'no Mixer')


def test_a_file_without_a_head(tmp_path):
  given = {k: v for k, v in files.theirs('timm', files.mixer_arrays()).items() if not k.startswith('head')}
  files.write_safetensors(tmp_path / 'w.safetensors', given)
  found = reading.read(str(tmp_path / 'w.safetensors'))
  assert 'head.bias' not in found.arrays and found.data['classes'] is None
  files.write_safetensors(tmp_path / 'w.safetensors', given | {'head.bias': np.ones(4, np.float32)})
  refused(tmp_path / 'w.safetensors', 'missing head.weight')


def test_tokens_that_make_no_square(tmp_path, monkeypatch):
  monkeypatch.setattr(files, 'IMAGE', (4, 6, 3))
  files.write_npz(tmp_path / 'w.npz', files.theirs('original', files.mixer_arrays()))
  found = reading.read(str(tmp_path / 'w.npz'))
  assert 'image' not in found.data
  with pytest.raises(MixerError, match='6 tokens lie, and they make no square'):
    _ = found.image


# ---- model folders


@pytest.fixture
def folder(tmp_path):
  arrays = files.mixer_arrays()
  data = {'image': [6, 6, 3], 'classes': 4, 'mean': [0.1] * 3, 'std': [0.2] * 3}
  given = {'model': MODEL | {'gelu': 'exact'}, 'data': data, 'labels': list('abcd'), 'source': 's', 'kind': 'run'}
  writing.write(reading.Weights(arrays=arrays, **given), tmp_path / 'folder')
  return tmp_path / 'folder'


def test_a_folder_keeps_everything(folder):
  found = reading.read(str(folder))
  about = json.loads((folder / 'config.json').read_text())
  assert found.model == about['model'] and found.data == about['data'] and found.labels == list('abcd')
  assert found.kind == 'model folder' and found.notes == ()


@pytest.mark.parametrize('change, part', [
  ({'format': 'other'}, 'no format'), ({'format': 'mixer_jax model folder 9'}, 'this version reads'),
  ({'model': None}, 'model is None'), ({'model': {}}, 'model.name'), ({'data': []}, 'data is []'),
  ({'labels': 'abc'}, "labels is 'abc'"), ({'schema': 3}, 'schema is 3'),
])  # fmt: skip
def test_a_folder_whose_config_is_wrong(change, part, folder):
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  refused(folder, part)


def test_a_folder_that_is_damaged(folder):
  good = (folder / 'config.json').read_text()
  (folder / 'config.json').write_text(good[:-20])
  refused(folder, 'cannot be read')
  (folder / 'config.json').unlink()
  refused(folder, 'neither a model folder nor a run')
  (folder / 'config.json').write_text(good)
  (folder / 'model.safetensors').unlink()
  with pytest.raises(MixerError, match='there is no file .*model.safetensors'):
    reading.read(str(folder))
