"""The examples of the pages run: README.md, docs/PYTHON.md and the page of the package.

CHECKPOINT and DATASET stand for the demo's. A block may be marked, in the line that opens it: `needs=MODULE` is skipped
where that is missing, and named; `needs=never` stands for what no machine has. Blocks of a page go on from each other.
"""

import importlib.util
import re
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = ["README.md", "docs/PYTHON.md", "crates/python/python/README.md"]
BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```$", re.M | re.S)


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(demo, page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CHECKPOINT").symlink_to(demo.checkpoint)
    (tmp_path / "DATASET").symlink_to(demo.dataset)
    names, blocks = {}, BLOCK.findall((ROOT / page).read_text())
    assert blocks, f"{page}: no example"
    for marks, text in blocks:
        needs = [mark.removeprefix("needs=") for mark in marks.split()]
        missing = [name for name in needs if name == "never" or importlib.util.find_spec(name) is None]
        if missing:
            with capsys.disabled():
                print(f"\n{page}: not run for want of {', '.join(missing)}: {text.splitlines()[0]}")
            continue
        exec(compile(text, str(Path(page)), "exec"), names)
