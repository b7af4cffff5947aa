"""IDX and CIFAR files that unpack to far more than they are, and what stands in their place."""

import contextlib
import gzip
import io
import tarfile
import tracemalloc

import pytest
from refusals import refuses

from mixer_jax.data.images import archives


@pytest.mark.parametrize('name', ['a-ubyte', 'a-ubyte.gz'])
def test_what_stands_in_the_place_of_idx(tmp_path, name):
  (tmp_path / name).write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256:12\n')
  with refuses(tmp_path / name, 'Git LFS pointer', 'git lfs pull'):
    archives.read_idx(tmp_path / name, 3)
  (tmp_path / name).write_bytes(b'<html>not found</html>')
  with refuses(tmp_path / name, 'a web page', 'download'):
    archives.read_idx(tmp_path / name, 3)


@contextlib.contextmanager
def little_memory(most):
  tracemalloc.start()
  yield
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < most, peak


@pytest.mark.parametrize('claimed', [(5, 3, 2), (2**30, 1, 2)])
def test_idx_that_unpacks_to_far_more_than_it_is(tmp_path, claimed):
  path = tmp_path / 'a-ubyte.gz'
  with gzip.open(path, 'wb', compresslevel=1) as file:
    file.write(b''.join(n.to_bytes(4, 'big') for n in (0x803, *claimed)))
    for _ in range(64):
      file.write(bytes(2**20))
  with little_memory(2**22), refuses(path, 'bytes of data', str(claimed)):
    archives.read_idx(path, 3)


def add(tar, name, size, **about):
  member = tarfile.TarInfo(name)
  member.size = size
  for key, value in about.items():
    setattr(member, key, value)
  tar.addfile(member, _Zeros(size))


class _Zeros(io.RawIOBase):
  def __init__(self, left):
    self.left = left

  def read(self, size=-1):
    size = min(size, self.left)
    self.left -= size
    return bytes(size)


BINARY = 'cifar-10-batches-bin'


def member_larger_than_published(tar):
  add(tar, f'{BINARY}/test_batch.bin', 2**21)


def more_than_published_in_all(tar):
  for i in range(5):
    add(tar, f'{BINARY}/{i}', 2**20)


def more_files_than_published(tar):
  for i in range(101):
    add(tar, f'{BINARY}/{i}', 0)


def long_name(tar):
  tar.addfile(tarfile.TarInfo(f'{BINARY}/{"n" * 2**22}'))


def sparse_member(tar):
  """512 bytes of a header that stand for 2**33 bytes of nothing."""
  member = tarfile.TarInfo(f'{BINARY}/test_batch.bin')
  member.type = tarfile.GNUTYPE_SPARSE
  header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
  header[483:495] = b'%011o\0' % 2**32
  header[148:156] = b'%06o\0 ' % tarfile.calc_chksums(bytes(header))[0]
  tar.fileobj.write(header)
  tar.offset += 512


@pytest.mark.parametrize(
  'fill, part',
  [
    (member_larger_than_published, 'at most 1,048,576 bytes, found 2,097,152'),
    (more_than_published_in_all, 'more than 3,145,728 bytes when unpacked'),
    (more_files_than_published, 'more than 100 files'),
    (long_name, 'more than 3,145,728 bytes when unpacked'),
    (sparse_member, 'at most 1,048,576 bytes, found 4,294,967,296'),
    (lambda tar: tar.fileobj.write(bytes(2**22)), 'more than 3,145,728 bytes when unpacked'),
  ],
)
def test_archives_that_unpack_to_far_more_than_they_are(tmp_path, monkeypatch, fill, part):
  monkeypatch.setattr(archives, 'MOST_FILE', 2**20)
  monkeypatch.setattr(archives, 'MOST_ARCHIVE', 3 * 2**20)
  path = tmp_path / 'cifar-10-binary.tar.gz'
  with tarfile.open(path, 'w:gz', format=tarfile.GNU_FORMAT) as tar:
    fill(tar)
  with little_memory(2**23), refuses(path, part):
    archives.read_cifar('cifar10', 'test', tmp_path)


def test_a_file_larger_than_any_published_one_is_not_read(tmp_path):
  with (tmp_path / 'test_batch.bin').open('wb') as file:
    file.truncate(3073 * 10**6)
  with little_memory(2**20), refuses('test_batch.bin', 'at most 160,000,000 bytes, found 3,073,000,000'):
    archives.read_cifar('cifar10', 'test', tmp_path)
  (tmp_path / 'test_batch.bin').write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
  with refuses('test_batch.bin', 'Git LFS pointer'):
    archives.read_cifar('cifar10', 'test', tmp_path)
