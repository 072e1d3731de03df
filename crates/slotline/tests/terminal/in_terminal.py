"""Runs a program in a terminal of so many columns: keys come by stdin, what is written goes to stdout."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios

columns, program = int(sys.argv[1]), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    # Whatever runs the tests may ignore it, and then the program would outlive its terminal.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.execv(program[0], program)
inputs = [terminal, 0]
while True:
    for ready in select.select(inputs, [], [])[0]:
        try:
            data = os.read(ready, 65536)
        except OSError:
            data = b""
        if ready == 0 and not data:
            inputs.remove(0)
        elif ready == 0:
            os.write(terminal, data)
        elif data:
            os.write(1, data)
        else:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
