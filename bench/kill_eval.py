#!/usr/bin/env python3
"""Kills a long evaluation at random moments and shows that nothing is lost and nothing evaluated twice.

usage: kill_eval.py STEADY [--episodes 200] [--kills 10] [--seed 1] [--steps 16]

A dataset of many episodes is made from the demo's four, in a temporary folder. It is evaluated once without a
disturbance. Then it is evaluated again, killed (SIGKILL) at random moments and gone on with each time (--resume); the
two reports must be equal but for times. Then one episode's video is broken: all others must give what they gave, and
the report must list that one with its reason. Python's standard library alone. Exit code 0 where all of that holds.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMES = {"timings", "episode_load_seconds", "data_preparation_seconds", "inference_seconds"}
PARTIAL = 3


def many_episodes(folder, count):
    """The demo's dataset with its episodes repeated; videos and rows are links to the four."""
    shutil.copytree(ROOT / "demo/dataset", folder)
    meta = folder / "meta"
    four = [json.loads(line) for line in (meta / "episodes.jsonl").read_text().splitlines()]
    (meta / "episodes.jsonl").write_text(
        "".join(json.dumps({**four[index % 4], "episode_index": index}) + "\n" for index in range(count))
    )
    info = json.loads((meta / "info.json").read_text())
    (meta / "info.json").write_text(json.dumps({**info, "total_episodes": count}))
    for index in range(4, count):
        for path in [*folder.glob(f"data/*/episode_{index % 4:06}.parquet"), *folder.glob(f"videos/*/*/episode_{index % 4:06}.mp4")]:
            path.with_name(path.name.replace(f"{index % 4:06}", f"{index:06}")).symlink_to(path.resolve())


def timeless(value):
    if isinstance(value, dict):
        return {name: timeless(part) for name, part in value.items() if name not in TIMES}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("steady", type=Path)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=16)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many_episodes(folder / "dataset", args.episodes)
        command = [args.steady.resolve(), "eval", "--model-path", ROOT / "demo/checkpoint", "--dataset-path", "dataset"]
        command += ["--engine", "cpu", "--traj-ids", "all", "--steps", args.steps, "--html-episodes", 0, "--out", "out"]
        command = [str(word) for word in command]

        def run(*options):
            started = time.monotonic()
            result = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True)
            return result, json.loads((folder / "out/report.json").read_text()), time.monotonic() - started

        result, whole, seconds = run()
        assert result.returncode == 0, result.stderr
        print(f"undisturbed: {args.episodes} episodes, {seconds:.1f} s, MSE {whole['mse']:.6f}")

        shutil.rmtree(folder / "out")
        evaluated = 0
        for kill in range(args.kills):
            options = ["--resume"] if kill else []
            process = subprocess.Popen([*command, *options], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            # As much again as is left over all kills, on average.
            moment = draw.uniform(0, 2 * seconds / (args.kills + 1))
            time.sleep(moment)
            process.kill()
            printed = len(re.findall(rb"^episode \d+: MSE", process.communicate()[0], re.M))
            evaluated += printed
            done = len(list((folder / "out/episodes").glob("episode_*.json")))
            print(f"killed after {moment:5.1f} s: {printed:3} episodes more, {done:3} done")
            assert done >= evaluated, "an episode was printed and lost"
        result, resumed, _ = run("--resume")
        assert result.returncode == 0, result.stderr
        last = len(re.findall(r"^episode \d+: MSE", result.stdout, re.M))
        assert timeless(resumed) == timeless(whole), "the reports differ"
        print(f"gone on with: {last} episodes more; the report equals that of the undisturbed evaluation")

        broken = args.episodes * 3 // 4
        for video in folder.glob(f"dataset/videos/*/*/episode_{broken:06}.mp4"):
            video.unlink()
            video.write_bytes(b"no video")
        result, partial, _ = run()
        assert result.returncode == PARTIAL, result.stderr
        left = [episode for episode in timeless(whole)["episodes"] if episode["episode_index"] != broken]
        assert timeless(partial)["episodes"] == left and partial["status"] == "partial"
        [failure] = partial["failures"]
        assert failure["episode_index"] == broken
        print(f"episode {broken} broken: {len(left)} results, exit code {PARTIAL}, listed: {failure['reason']}")


if __name__ == "__main__":
    sys.exit(main())
