"""Files of a run and JSON by anyone: limits, what stands in a file's place, outputs that cannot be."""

import json
import os

import pytest

from mixer_jax import files
from mixer_jax.errors import MixerError

POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 9\n'


def test_json_as_it_is():
  value = {'a': [1, -2.5, None, True, 'é'], 'b': {'c': {}}, 'large': 2**64 - 1, 'small': -(2**64) + 1}
  assert files.parse_json(json.dumps(value)) == value
  assert files.parse_json('[' * 64 + '1' + ']' * 64) and files.parse_json('7') == 7


@pytest.mark.parametrize(
  'text, part',
  [
    ('{"a": 1, "a": 1}', "'a' twice"),
    ('[{"b": {"c": 1, "d": 2, "c": 3}}]', "'c' twice"),
    ('[' * 65 + ']' * 65, 'nested more than 64 deep'),
    ('{"a":' * 65 + '1' + '}' * 65, 'nested more than 64 deep'),
    ('[' * 100_000, 'nested more than 64 deep'),
    (str(10**400), 'an integer of 401 digits, 10000000000000000000...'),
    (f'[1, {2**64}]', 'an integer of 20 digits'),
    ('9' * 10_000_000, 'an integer of 10,000,000 digits'),
    ('{', 'Expecting'),
  ],
)
def test_json_that_is_refused(text, part):
  with pytest.raises(ValueError, match=part) as caught:
    files.parse_json(text)
  assert len(str(caught.value)) < 300


def test_many_names_of_which_the_last_is_there_twice():
  text = '{' + ''.join(f'"{i}":0,' for i in range(300_000)) + '"299999":0}'
  with pytest.raises(ValueError, match="'299999' twice"):
    files.parse_json(text)


def test_a_file_of_a_run(tmp_path, monkeypatch):
  path = tmp_path / 'labels.json'
  files.write_json(path, ['a', 'é'])
  assert files.read_json(path) == ['a', 'é']
  for content, part in (
    (POINTER, 'Git LFS pointer'), (b'<!DOCTYPE html>', 'a web page'), (b'\xff', "can't decode"),
    (b'[1, 1', 'Expecting'), (b'{"a": 1, "a": 2}', 'twice'),
  ):  # fmt: skip
    path.write_bytes(content)
    with pytest.raises(MixerError, match=part) as caught:
      files.read_json(path)
    assert str(path) in str(caught.value) and 'restore it' in str(caught.value)
  monkeypatch.setattr(files, 'MOST_JSON', 20)
  path.write_text(json.dumps('a' * 20))
  with pytest.raises(MixerError, match='it has 22 bytes, above the limit of 20'):
    files.read_json(path)
  with pytest.raises(MixerError, match='would have 23 bytes, above the limit of 20'):
    files.write_json(tmp_path / 'schema.json', 'a' * 20)
  assert not (tmp_path / 'schema.json').exists()


@pytest.mark.parametrize(
  'start, part',
  [
    (POINTER, 'git lfs pull'),
    (b'<!DOCTYPE html><html>', 'web page'),
    (b'\xef\xbb\xbf\r\n <HTML lang=en>', 'web page'),
    (b'<?xml version="1.0"?><Error>', 'web page'),
    (b'<\0\0\0\0\0\0\0{"a":', ''),
    (b'version 2 of the labels', ''),
    (b'', ''),
  ],
)
def test_what_stands_in_the_place_of_a_file(tmp_path, start, part):
  assert part in files.stand_in(start) and bool(files.stand_in(start)) == bool(part)
  (tmp_path / 'x').write_bytes(start + b'more' * 1000)
  if not part:
    files.check_start(tmp_path / 'x')
  else:
    with pytest.raises(MixerError, match=part):
      files.check_start(str(tmp_path / 'x'))
  files.check_start(tmp_path / 'none')


def test_no_file_takes_the_place_of_a_device(tmp_path):
  pipe = tmp_path / 'pipe'
  os.mkfifo(pipe)
  (tmp_path / 'link').symlink_to(pipe)
  for path in (pipe, tmp_path / 'link'):
    for write in (files.write_text, lambda path, _: files.check_output(path)):
      with pytest.raises(MixerError, match='neither a file nor a folder'):
        write(path, 'x')
  assert sorted(os.listdir(tmp_path)) == ['link', 'pipe'] and pipe.is_fifo()


def test_an_output_and_a_folder_that_can_be_made(tmp_path):
  files.check_output(tmp_path / 'new')
  with pytest.raises(MixerError, match='none, which is no folder'):
    files.check_output(tmp_path / 'none' / 'new')
  files.check_writable(tmp_path / 'figures')
  assert os.listdir(tmp_path / 'figures') == []
  (tmp_path / 'file').write_text('mine')
  with pytest.raises(MixerError, match='cannot write .*file'):
    files.check_writable(tmp_path / 'file')


def test_a_folder_that_takes_nothing(tmp_path, monkeypatch):
  def full(*_, **__):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(files.tempfile, 'TemporaryFile', full)
  with pytest.raises(MixerError, match='cannot write .*No space left on device'):
    files.check_writable(tmp_path)


def test_an_error_without_a_number():
  assert 'x (encoder error -2)' in str(files.cannot_write('x', OSError('encoder error -2')))
