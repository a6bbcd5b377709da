"""Writes summary.md and bench.json from what bench/gpu.sh left, policies.json included. Python's standard library alone.

usage: gpu_summary.py WORK_DIR OUT_DIR LABEL
"""

import json
import re
import sys
from pathlib import Path


def first(pattern, text, otherwise="-"):
    """The last match's first group: programs print their result at the end."""
    found = re.findall(pattern, text, re.MULTILINE)
    return found[-1] if found else otherwise


def numbers(name, text, work, out):
    """What a check found, in one line."""
    kind, _, rest = name.partition("-")
    if kind == "device":
        return text.strip()
    if kind == "doctor":
        return first(r"^  (--engine auto .*)$", text)
    if kind == "bench":
        report = json.loads((work / "bench" / f"{rest}.json").read_text())
        if rest.startswith("start-"):
            return f"first actions after {report['first_actions_ms']:.0f} ms"
        p50 = next(entry["p50"] for entry in report["latency_ms"] if entry["name"] == "inference")
        return f"inference p50 {p50:.3f} ms"
    if kind == "tests":
        failed = re.findall(r"^---- (.*) ----$", text, re.MULTILINE)
        ended = [len(re.findall(rf"^(?:test .*)?{word}$", text, re.MULTILINE)) for word in ("ok", "FAILED")]
        unfinished = "{} ok and {} failed before it was stopped".format(*ended)
        return "; ".join([first(r"^test result: \w+\. (.*)$", text, unfinished), *failed])
    if kind == "verify":
        held = [re.findall(r"\d+", line)[-2:] for line in re.findall(r"^.*comparisons hold$", text, re.MULTILINE)]
        counts = f"{sum(int(ok) for ok, _ in held)} of {sum(int(all) for _, all in held)} hold"
        return f"{counts}; worst {first(r'^worst relative L2 (.*)$', text)}"
    if kind == "eval":
        report = json.loads((work / name / "report.json").read_text())
        return f"MSE {first(r'Average MSE.*?([0-9.e-]+)$', text)}; {len(report.get('episodes', []))} episodes"
    if kind == "compare":
        actions = json.loads((work / name / "comparison.json").read_text())
        beyond = actions["first_above_rounding"] or "none"
        distance, expected = actions["actions"]["relative_l2"], actions["actions"]["expected"]
        memory = actions["peak_rss_bytes"] / 2**20
        return (
            f"actions {distance:.2e} apart, rounding {expected:.2e}; first tap beyond rounding: {beyond}; "
            f"{memory:.0f} MiB of host memory at most"
        )
    if kind == "diagnose":
        diagnosis = json.loads((work / name / "diagnosis.json").read_text())
        return f"{diagnosis['verdict']['status']}; {diagnosis['determinism']}"
    if kind == "policies":
        rows = json.loads((out / "policies.json").read_text())["policies"]
        held = [row for row in rows if row["predicted"]]
        judged = [row for row in rows if row["predicted"] is not None]
        others = len(rows) - len(judged)
        return f"emulation predicts CUDA for {len(held)} of {len(judged)} policies; {others} not run by both"
    if kind == "peers":
        workloads = json.loads((out / "peers.json").read_text())["workloads"]
        medians = {name: found["inference_ms"]["median"] for name, found in workloads.items()}
        return "PyTorch, inference median " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in medians.items())
    if kind == "calibrate":
        return first(r"^.*?: (\d+ sites, .*)$", text)
    if kind in ("memcheck", "racecheck"):
        return first(r"^=+ ((?:ERROR|RACECHECK) SUMMARY.*)$", text)
    return ""


def bench_row(name, report):
    """One row of the table of times."""
    latency = {entry["name"]: entry for entry in report["latency_ms"]}
    inference, whole = latency["inference"], latency["end to end"]
    shown = [inference["p50"], inference["p99"], whole["p50"], report["floor_ms"], report["ratio_to_floor"]]
    cells = [name, *(f"{value:.3f}" if value is not None else "-" for value in shown)]
    cells += [f"{report['load_ms']:.0f}", f"{report['first_actions_ms']:.0f}"]
    return "| " + " | ".join(cells) + " |"


def policy_rows(table):
    """What each policy costs: a row a policy."""
    def cell(tried, field, digits):
        value = tried.get(field) if tried else None
        if value is not None:
            return format(value, digits)
        return next((word for word in ("refused", "failed") if word in (tried or {})), "-")

    for row in table["policies"]:
        emulated, cuda = row["emulated"], row["cuda"]
        cells = [row["policy"], cell(emulated, "mse", ".6f"), cell(emulated, "relative_l2", ".2e")]
        cells += [cell(cuda, "mse", ".6f"), cell(cuda, "relative_l2", ".2e"), cell(row, "ratio", ".2f")]
        cells += [cell(latency, "p50", ".3f") for latency in row["latency"]]
        yield "| " + " | ".join(cells) + " |"


def stage_rows(reports):
    """Medians by stage: a row a stage, a column a run."""
    names = list(dict.fromkeys(stage["name"] for report in reports.values() for stage in report["stages_ms"]))
    for name in names:
        medians = []
        for report in reports.values():
            found = [stage["p50"] for stage in report["stages_ms"] if stage["name"] == name]
            medians.append(f"{found[0]:.3f}" if found else "-")
        yield "| " + " | ".join([name, *medians]) + " |"


def main():
    work, out, label = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    # Of a check that ran again the last result counts.
    lines = [line.split("\t") for line in (work / "checks.tsv").read_text().splitlines()]
    checks = list({line[0]: line for line in lines}.values())
    reports = {}
    for name in [name.removeprefix("bench-") for name, *_ in checks if name.startswith("bench-")]:
        path = work / "bench" / f"{name}.json"
        if path.exists():
            reports[name] = json.loads(path.read_text())
    (out / "bench.json").write_text(json.dumps(reports, indent=1) + "\n")

    failed = [name for name, code, *_ in checks if code != "0"]
    verdict = "all checks passed" if not failed else f"{len(failed)} of {len(checks)} failed: {', '.join(failed)}"
    lines = [f"# {label or 'GPU'}: {verdict}", "", "| check | result | seconds | found |", "|---|---|---|---|"]
    for name, code, seconds, output in checks:
        text = Path(output).read_text(errors="replace")
        try:
            found = numbers(name, text, work, out)
        except (OSError, ValueError, KeyError) as error:
            # A check that failed may have left nothing.
            found = f"no result: {error}"
        result = "pass" if code == "0" else f"FAIL ({code})"
        if code != "0" and text.strip():
            found += "; " + text.strip().splitlines()[-1]
        lines.append(f"| {name} | {result} | {seconds} | {found.replace('|', '/')} |")
    if reports:
        lines += ["", "| bench | inference p50 ms | p99 | end to end p50 | floor ms | ratio | load | first actions |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [bench_row(name, report) for name, report in reports.items()]
        timed = {name: report for name, report in reports.items() if not name.startswith("start-")}
        lines += ["", "| stage, p50 ms | " + " | ".join(timed) + " |", "|---" * (len(timed) + 1) + "|"]
        lines += stage_rows(timed)
    if (out / "policies.json").exists():
        table = json.loads((out / "policies.json").read_text())
        header = ["policy", "emulated MSE", "error", "cuda MSE", "cuda error", "emulated/cuda"]
        header += [f"{latency['workload']} p50 ms" for latency in table["policies"][0]["latency"]]
        lines += ["", "| " + " | ".join(header) + " |", "|---" * len(header) + "|", *policy_rows(table)]
    (out / "summary.md").write_text("\n".join(lines) + "\n")


main()
