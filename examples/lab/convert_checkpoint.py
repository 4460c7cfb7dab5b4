"""Convert a bfloat16 Llama checkpoint folder to the float16 one that ships in `dynscale_dspy/lab/checkpoint`.

NumPy has no bfloat16. Its numbers are the upper halves of float32 numbers, so they are read by shifting sixteen zero
bits below them. float16 has three more bits of mantissa, so the conversion is exact save for values below float16's
normal range (2**-14); the largest error is printed.

    python examples/lab/convert_checkpoint.py SOURCE_FOLDER dynscale_dspy/lab/checkpoint
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def read_bfloat16(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file of bfloat16 tensors as float32 arrays: an eight-byte length, a JSON header, the bytes."""
    raw = path.read_bytes()
    header_size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + header_size])
    body = raw[8 + header_size :]
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise ValueError(f"{name} is {entry['dtype']}, not BF16")
        start, end = entry["data_offsets"]
        halves = np.frombuffer(body[start:end], dtype="<u2").astype(np.uint32)
        tensors[name] = (halves << 16).view(np.float32).reshape(entry["shape"])
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with model.safetensors, config.json and tokenizer.json")
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()

    arguments.target.mkdir(parents=True, exist_ok=True)
    exact = read_bfloat16(arguments.source / "model.safetensors")
    halved = {name: np.ascontiguousarray(tensor.astype(np.float16)) for name, tensor in exact.items()}
    save_file(halved, arguments.target / "model.safetensors")

    config = json.loads((arguments.source / "config.json").read_text())
    config["dtype"] = "float16"
    (arguments.target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copyfile(arguments.source / "tokenizer.json", arguments.target / "tokenizer.json")

    errors = {name: np.abs(tensor - halved[name].astype(np.float32)) for name, tensor in exact.items()}
    changed = sum(int((error > 0).sum()) for error in errors.values())
    count = sum(tensor.size for tensor in exact.values())
    largest = max(float(error.max()) for error in errors.values())
    print(f"{count} parameters, {changed} changed by the conversion, largest absolute error {largest:.2e}")


if __name__ == "__main__":
    main()
