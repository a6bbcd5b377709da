#!/usr/bin/env python3
"""Makes fuzz/corpus/TARGET from the repository's fixtures, and fuzz/json.dict from their keys. Nothing is downloaded.

Targets that read one of several files take its number as the first byte."""
import json, struct, sys
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
REPO = FUZZ.parent
DEMO = REPO / "demo"
CLIPS = REPO / "tests/fixtures/video_hashes/clips"


def put(target, name, contents, which=None):
    folder = FUZZ / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes((b"" if which is None else bytes([which])) + contents)


def safetensors(tensors):
    """`tensors`: (name, dtype, shape, bytes)."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, dtype, shape, values in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def pictures(clip):
    """What stands in an mp4 file's `mdat`."""
    data = clip.read_bytes()
    at = data.index(b"mdat")
    return data[at + 4 : at - 4 + struct.unpack(">I", data[at - 4 : at])[0]]


small = safetensors([("a", "F32", [1, 2], b"\0" * 8), ("b", "BF16", [3], b"\0" * 6), ("c", "F16", [], b"\0" * 2)])
put("checkpoint", "small", small, 0)
put("checkpoint", "index", json.dumps({"metadata": {}, "weight_map": {"a": "x.safetensors"}}).encode(), 1)
put("noise", "noise", safetensors([("noise", "F32", [1, 2, 3], b"\0" * 24), ("n", "I64", [1], b"\0" * 8)]))
put("trace", "part", small, 0)
listed = {"name": "a", "dtype": "F32", "shape": [1], "file": "x.safetensors"}
manifest = {"format": "steadyhand-trace", "version": 1, "complete": True, "metadata": {"a": "b"}, "tensors": [listed]}
put("trace", "manifest", json.dumps(manifest).encode(), 1)

for target, name in [("config", "config"), ("processor", "processor_config"), ("statistics", "statistics"),
                     ("tokenizer", "tokenizer")]:
    put(target, "demo", (DEMO / "checkpoint" / f"{name}.json").read_bytes())
for folder in sorted((REPO / "tests/fixtures/golden_processor").iterdir()):
    for target, name in [("processor", "processor_config"), ("statistics", "statistics")]:
        for file in folder.rglob(f"{name}.json"):
            put(target, folder.name, file.read_bytes())
put("config", "empty", b'{"model_type": "Gr00tN1d6"}')

# A tokenizer small enough that most changes hit its structure.
word = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [
    {"id": 3, "content": "<IMG_CONTEXT>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
     "special": True}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\s+|\\w"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"a": {"id": "a", "ids": [0], "tokens": ["a"]}}},
    "decoder": None,
    "model": {"type": "BPE", "dropout": None, "unk_token": "a", "continuing_subword_prefix": None,
              "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
              "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}
put("tokenizer", "small", json.dumps(word).encode())
put("tokenizer", "words", json.dumps(word | {"model": {"type": "WordLevel", "vocab": {"a": 0, "u": 1},
    "unk_token": "u"}, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None}).encode())

for file in sorted((DEMO / "dataset/data/chunk-000").glob("*.parquet")):
    put("parquet", file.stem, file.read_bytes())
    put("episodes", file.stem, file.read_bytes(), 0)
    put("episodes", f"tasks_{file.stem}", file.read_bytes(), 1)
meta = DEMO / "dataset/meta"
for which, name in enumerate(["info.json", "modality.json", "episodes.jsonl", "tasks.jsonl", "stats.json"]):
    put("metadata", name, (meta / name).read_bytes(), which)
put("metadata", "relative_stats.json", b'{"left_arm": {"mean": [[0, 1], [2, NaN]], "std": [1, 2.5]}}', 5)
part = b'{"episode_index": 0, "length": 96, "tasks": "x", "sub_tasks": [{"start": 0, "end": 9, "text": "y"}]}\n'
put("metadata", "sub_tasks", part, 2)

for clip in sorted(CLIPS.glob("*.mp4")):
    put("mp4", clip.stem, clip.read_bytes())
    if clip.stem.startswith(("h264", "av1")):
        put(clip.stem.split("_")[0], clip.stem, pictures(clip))
for image in sorted((REPO / "tests/fixtures/jpeg").glob("*.jpg")):
    put("image", image.name, image.read_bytes())
for image in sorted(REPO.rglob("docs/*.png"))[:3]:
    if image.stat().st_size < 1 << 16:
        put("image", image.name, image.read_bytes())

put("policy", "rules", b'base = "bf16"\n\n[[site]]\npattern = "dit.block.{0,2..3}.*"\nstorage = "f32"\ncompute = "f32"\n'
    b'accumulate = "f32"\n\n[[site]]\npattern = "language.**"\nscale = "tensor"\n')
calibration = {"checkpoint": "0123456789abcdef", "embodiment_tag": "a", "dataset": "0123456789abcdef", "frames": 2,
               "denoising_steps": 4, "percentile": 100.0, "amax": {"dit.output": 1.5}}
put("calibration", "small", json.dumps(calibration).encode())


def strings(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


words = {"NaN", "Infinity", "null", "1e999", "-1", "18446744073709551615", "1.0"}
for file in [*DEMO.rglob("*.json")]:
    if file.name != "statistics.json":
        found = [text for text in strings(json.loads(file.read_bytes())) if 1 < len(text) < 40 and text.isascii()]
        words.update(json.dumps(text) for text in found[:400])
words.update(json.dumps(text) for text in strings(word))
lines = ["\"" + text.replace("\\", "\\\\").replace("\"", "\\\"") + "\"" for text in sorted(words)]
(FUZZ / "json.dict").write_text("\n".join(lines) + "\n")
print(f"{sum(1 for _ in (FUZZ / 'corpus').rglob('*'))} files in {FUZZ / 'corpus'}", file=sys.stderr)
