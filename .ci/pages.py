#!/usr/bin/env python3
"""Opens the pages that `steady` writes in a headless Chromium and looks at what a reader would see.

usage: pages.py STEADY [--shots DIR]

Each page is opened at 1400 and at 390 pixels: plots are there and drawn, nothing is wider than the window, and the
console says nothing. In the page of an evaluation the cursor is moved and a joint group zoomed. --shots keeps pictures.
Without a chromium it says so and ends with 0. Python's standard library alone.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTHS = [1400, 390]
# Run in the page after it is loaded; what it finds is left in an attribute.
LOOK = """
const found = {
  plots: document.querySelectorAll("svg path, svg rect").length,
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
};
const svg = document.querySelector(".episode .plot svg");
if (svg) {
  const box = svg.getBoundingClientRect();
  const at = (kind, share) => svg.dispatchEvent(
    new PointerEvent(kind, { clientX: box.left + share * box.width, clientY: box.top + 5, bubbles: true }));
  at("pointermove", 0.5);
  const episode = svg.closest(".episode");
  found.time = episode.querySelector(".time").textContent;
  found.read = svg.closest(".joint").querySelector(".read").textContent;
  found.frame = episode.querySelector(".frame").style.backgroundPosition;
  at("pointerdown", 0.25); at("pointerup", 0.75);
  found.zoomed = svg.getAttribute("viewBox");
  svg.closest(".group").querySelector(".whole").click();
  found.whole = svg.getAttribute("viewBox");
}
document.documentElement.setAttribute("data-found", JSON.stringify(found));
"""


def look(chromium, page, width, shot):
    """What LOOK finds, and what the console says."""
    html = page.read_text()
    # The page's own rule forbids foreign scripts: the copy that is looked at allows this one.
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    copy = page.with_name(f"looked-{page.name}")
    copy.write_text(html.replace("</body>", f"<script>{LOOK}</script></body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    flags += [f"--window-size={width},1600"]
    dom = subprocess.run([chromium, *flags, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=300)
    # As it is, with its rule.
    flags.append(f"--screenshot={shot}")
    seen = subprocess.run([chromium, *flags, page.as_uri()], capture_output=True, text=True, timeout=300)
    said = [line for line in (dom.stderr + seen.stderr).splitlines() if "CONSOLE" in line]
    found = re.search(r'data-found="([^"]*)"', dom.stdout)
    return json.loads(found.group(1).replace("&quot;", '"')) if found else None, said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("steady", type=Path)
    parser.add_argument("--shots", type=Path)
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("skipped: no chromium")
        return 0
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steady = str(args.steady.resolve())
        subprocess.run([steady, "demo", "--out", "evaluation"], cwd=folder, check=True, capture_output=True)
        subprocess.run([steady, "diagnose", "--b", "fault:causal-mask-missing", "--out", "diagnosis"], cwd=folder, capture_output=True)
        for page in [folder / "evaluation/report.html", folder / "diagnosis/diagnosis.html"]:
            for width in WIDTHS:
                shot = (args.shots or folder).resolve() / f"{page.parent.name}-{width}.png"
                shot.parent.mkdir(parents=True, exist_ok=True)
                found, said = look(chromium, page, width, shot)
                print(f"{page.parent.name} at {width}: {found}")
                checks = {
                    "the page was looked at": found is not None,
                    "the console is silent": not said,
                    "plots are drawn": bool(found) and found["plots"] > 20,
                    "nothing is wider than the window": bool(found) and found["wide"] <= 0,
                }
                if page.parent.name == "evaluation" and found:
                    checks |= {
                        "the cursor has a time": found.get("time", "").startswith("step 1"),
                        "values are read": "predicted" in found.get("read", ""),
                        "the camera moves": found.get("frame", "").split("%")[0] not in ("", "0"),
                        "a group zooms": found.get("zoomed") not in (None, found.get("whole")),
                    }
                wrong += [f"{page.parent.name} at {width}: {what} fails {said[:2]}" for what, holds in checks.items() if not holds]
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
