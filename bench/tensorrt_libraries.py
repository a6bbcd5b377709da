#!/usr/bin/env python3
"""TensorRT's libraries in pieces, for a GPU machine that takes files of a limited size only.

    xz -k -6 libnvinfer.so.8 libnvinfer_builder_resource.so.8.5.3
    bench/tensorrt_libraries.py split OUT [--mebibytes 55] libnvinfer.so.8.xz libnvinfer_builder_resource.so.8.5.3.xz
    bench/tensorrt_libraries.py join PIECES STORE FOLDER
    bench/tensorrt_libraries.py stand-in FOLDER [--cuda 11]

`split` cuts the files into OUT/NN.piece and writes OUT/pieces.json: which pieces make a file, the hash of each, and of
what it holds. `join` keeps what PIECES has of them in STORE, which stays between calls, and says what is missing (exit
code 3); once all are there it unpacks them into FOLDER and compares the hashes. Needs the standard library alone.

TensorRT 8.5 asks cuBLASLt for its version before it compiles a network, also where the tactics of cuBLAS are off, and
without an answer finds no implementation. Python's nvidia-cublas-cu11 has that library, in half a gigabyte. `stand-in`
makes small ones in FOLDER, with the C compiler: they say that they are 11.11.3, make handles, and refuse every product,
so that an engine that did multiply by them would fail. Python's tensorrt 8.6.0 is made for CUDA 12: `--cuda 12` makes
libraries of that name, which say 12.0.1.

The builder's kernels go whole, those of other GPUs too: by its messages 8.6 checks their digest.
"""

import argparse
import hashlib
import json
import lzma
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

BLOCK = 1 << 22


def hash_of(stream) -> str:
    """SHA-256 of a stream's bytes."""
    found = hashlib.sha256()
    while block := stream.read(BLOCK):
        found.update(block)
    return found.hexdigest()


def split(out: Path, mebibytes: int, packed: list[Path]) -> None:
    """Cuts packed files into pieces; the last piece of one is followed by the first of the next."""
    out.mkdir(parents=True)
    size, pieces, files = mebibytes << 20, 0, []
    for path in packed:
        if path.suffix != ".xz":
            raise SystemExit(f"{path}: expected a file packed by xz")
        with lzma.open(path) as stream:
            own = {"name": path.stem, "sha256": hash_of(stream), "pieces": []}
        with path.open("rb") as stream:
            while block := stream.read(size):
                name = f"{pieces:02}.piece"
                (out / name).write_bytes(block)
                own["pieces"].append({"name": name, "sha256": hashlib.sha256(block).hexdigest()})
                pieces += 1
        files.append(own)
        print(f"{path.stem}: {len(own['pieces'])} pieces")
    (out / "pieces.json").write_text(json.dumps(files, indent=1) + "\n")


def unpack(store: Path, folder: Path, own: dict) -> str:
    """Puts a file's pieces together and unpacks them; what is wrong with it, or nothing."""
    found = hashlib.sha256()
    reader = lzma.LZMADecompressor()
    with (folder / own["name"]).open("wb") as stream:
        for piece in own["pieces"]:
            block = reader.decompress((store / piece["name"]).read_bytes())
            found.update(block)
            stream.write(block)
    return "" if found.hexdigest() == own["sha256"] else f"{own['name']}: other bytes than were packed"


def join(pieces: Path, store: Path, folder: Path) -> int:
    """Keeps new pieces, and unpacks once all are there."""
    store.mkdir(parents=True, exist_ok=True)
    files = json.loads((pieces / "pieces.json").read_text())
    missing = []
    for piece in (piece for own in files for piece in own["pieces"]):
        new, kept = pieces / piece["name"], store / piece["name"]
        if new.is_file():
            with new.open("rb") as stream:
                if hash_of(stream) != piece["sha256"]:
                    raise SystemExit(f"{new}: other bytes than were cut")
            shutil.copyfile(new, kept)
        if not kept.is_file():
            missing.append(piece["name"])
    if missing:
        print(f"missing: {' '.join(missing)}")
        return 3
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        wrong = [what for what in pool.map(unpack, *zip(*[(store, folder, own) for own in files])) if what]
    for what in wrong:
        print(what, file=sys.stderr)
    print("\n".join(f"{own['name']}: whole" for own in files if not wrong))
    return 1 if wrong else 0


def stand_in(folder: Path, cuda: int) -> None:
    """Makes libcublas.so and libcublasLt.so of this CUDA that answer and multiply nothing."""
    major, minor, patch = {11: (11, 11, 3), 12: (12, 0, 1)}[cuda]
    runtime = {11: 11080, 12: 12000}[cuda]
    found = set(re.findall(rb"\bcublas(?:Lt)?[A-Z][A-Za-z0-9_]+\b", (folder / "libnvinfer.so.8").read_bytes()))
    names = sorted(name.decode() for name in found if not name.endswith(b"_t"))
    for library, own in (("cublasLt", True), ("cublas", False)):
        lines = ["#include <stdlib.h>"]
        answered = {
            f"{library}GetProperty": "int {}(int part, int *value) "
            f"{{{{ *value = part == 0 ? {major} : part == 1 ? {minor} : {patch}; return 0; }}}}",
            f"{library}GetVersion": "size_t {}(void) "
            f"{{{{ return {major * 10000 + minor * 100 + patch}; }}}}",
            f"{library}GetCudartVersion": f"size_t {{}}(void) {{{{ return {runtime}; }}}}",
            f"{library}Create": "int {}(void **handle) {{ *handle = calloc(1, 4096); return 0; }}",
            f"{library}Create_v2": "int {}(void **handle) {{ *handle = calloc(1, 4096); return 0; }}",
        }
        lines += [form.format(name) for name, form in answered.items()]
        for name in names:
            if name.startswith("cublasLt") != own or name in answered:
                continue
            # CUBLAS_STATUS_NOT_SUPPORTED for what multiplies or says how it would; the rest is bookkeeping.
            multiplies = re.search(r"Matmul(Algo|$|_)|Matmul$|[Gg]em[mv]|Heuristic|Transform$|trsm|axpy|dot", name)
            lines.append(f"int {name}(void) {{ return {15 if multiplies else 0}; }}")
        source = folder / f"{library}.c"
        source.write_text("\n".join(lines) + "\n")
        target = folder / f"lib{library}.so.{cuda}"
        subprocess.run(["cc", "-w", "-shared", "-fPIC", str(source), "-o", str(target)], check=True)
        source.unlink()
        print(f"{target.name}: stands in for {library}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cut = commands.add_parser("split")
    cut.add_argument("out", type=Path)
    cut.add_argument("--mebibytes", type=int, default=55)
    cut.add_argument("packed", type=Path, nargs="+")
    whole = commands.add_parser("join")
    for name in ("pieces", "store", "folder"):
        whole.add_argument(name, type=Path)
    made = commands.add_parser("stand-in")
    made.add_argument("folder", type=Path)
    made.add_argument("--cuda", type=int, choices=(11, 12), default=11)
    args = parser.parse_args()
    if args.command == "stand-in":
        stand_in(args.folder, args.cuda)
        return 0
    if args.command == "split":
        split(args.out, args.mebibytes, args.packed)
        return 0
    return join(args.pieces, args.store, args.folder)


if __name__ == "__main__":
    sys.exit(main())
