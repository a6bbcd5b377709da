"""Runs commands of `steady` in a process of their own.

A command takes signals, keeps folders for temporary files and may hold a GPU until it ends; in a process of its own it
does so without disturbing the caller's, and a notebook can end it.
"""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import _native

Progress = bool | Callable[[str], None]
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    printed: str


def run(args: Sequence[str], progress: Progress, ends: Sequence[int] = (0,)) -> Ran:
    """Runs `steady` with these arguments.

    Args:
        progress: What it says meanwhile is given to this function, or written to `sys.stderr`, or else logged.
        ends: Exit codes that are no failure.

    Raises:
        Error: It ended in another way, with the text that it printed.
    """
    say = progress if callable(progress) else _to_stderr if progress else _to_log
    process = subprocess.Popen(
        [sys.executable, "-m", "steadyhand", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None and process.stderr is not None
    printed: list[str] = []
    reader = threading.Thread(target=lambda: printed.append(process.stdout.read() if process.stdout else ""))
    reader.start()
    said: list[str] = []
    try:
        for line in process.stderr:
            line = _COLOURS.sub("", line.rstrip("\n"))
            said.append(line)
            if not any(before.startswith("error: ") for before in said):
                say(line)
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        reader.join()
    if code in ends:
        return Ran(code, "".join(printed))
    raise _native.Error(_reason(said, code))


def _reason(said: list[str], code: int) -> str:
    for place, line in enumerate(said):
        if line.startswith("error: "):
            return "\n".join([line.removeprefix("error: "), *said[place + 1 :]]).strip()
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    return "\n".join([*said[-5:], f"steady ended with {ended}"])


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _to_log(line: str) -> None:
    logging.getLogger("steadyhand").info("%s", line)
