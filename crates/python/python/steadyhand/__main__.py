"""The program `steady`: `python -m steadyhand eval --model-path …`."""

import sys

from steadyhand import _native


def main() -> None:
    """Runs the command line, and ends the process with its exit code."""
    sys.exit(_native.run(["steady", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
