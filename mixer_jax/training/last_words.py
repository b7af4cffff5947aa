"""One line in place of the stack trace with which jax ends a process that has lost the coordinator."""

import os
import re
import signal

NO_COORDINATOR = (
  'process 0, which coordinates the others, has ended; see its own messages, then start all processes again'
)
NOT_JOINED = (
  'not all processes have joined the run in time; start as many as --processes says, all with the same --coordinator'
)
# What jax's C++ code writes to stderr before it aborts; a stack trace follows.
TRACE = re.compile(
  rb'[EF]\d{4} .*(coordination_service|preemption_sync_manager)|distributed service detected fatal errors'
)


def shorten() -> None:
  """Passes on what this process writes to stderr, less that trace; call it before jax is imported.

  The abort comes from C++, so a process that is forked here does it.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  read, write = os.pipe()
  if os.fork():
    os.dup2(write, 2)
    os.close(read)
    os.close(write)
    return
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  os.close(write)
  lost, told, cause = False, False, NO_COORDINATOR
  with open(read, 'rb') as lines, open(2, 'wb', buffering=0, closefd=False) as out:
    for line in lines:
      is_ours = line.startswith(b'error: ')
      told = told or is_ours
      lost = lost or bool(TRACE.search(line))
      cause = NOT_JOINED if lost and b'RegisterTask' in line else cause
      if is_ours or not lost:
        out.write(line)
    if lost and not told:
      out.write(f'error: {cause}\n'.encode())
  os._exit(0)
