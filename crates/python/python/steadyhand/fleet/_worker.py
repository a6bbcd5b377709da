"""A worker process: reads a unit a line, answers a row a line, ends with its input."""

import json
import os
import sys

from ._work import Evaluator, Unit


def main() -> None:
    """Serves the process that started this one."""
    # The answers have the pipe to themselves, whatever else prints.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    device = int(sys.argv[1]) if len(sys.argv) > 1 else None
    evaluator = Evaluator(device)
    for line in sys.stdin:
        answers.write(json.dumps(evaluator.evaluate(Unit(**json.loads(line)))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
