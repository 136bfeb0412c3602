"""What `reslab predict` takes of memory, for one photograph, for 32 and for 300."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from engine.device import cpu_name

_COUNTS = (1, 32, 300)
_RESLAB = (sys.executable, "-m", "tui")


def memory(num_times: int = 3) -> None:
    """Peak memory of `reslab predict` with ResNet-18 at 224×224, on 1, 32 and 300 photographs of 12 megapixels."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = _photographs(root)
        home = {**os.environ, "RESLAB_HOME": str(root / "home"), "RESLAB_CACHE": str(root / "cache")}
        train = (*_RESLAB, "train", f"folder:{root / 'own'}", "resnet18", "--image-size", "224", "--epochs", "1")
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=home)
        peaks = {count: [_peak_mib(files[:count], home) for _ in range(num_times)] for count in _COUNTS}
    print(f"predict, peak memory in MiB  ({cpu_name()}, n = {num_times})")
    for count, found in peaks.items():
        print(f"  {count:>3} photographs: {', '.join(f'{peak:,.0f}' for peak in found)}")


def _photographs(root: Path) -> list[Path]:
    """300 names of files; as many different photographs as are needed to train on."""
    draws = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / "own" / name).mkdir(parents=True)
        for number in range(4):
            small = Image.fromarray(draws.integers(0, 256, (30, 40, 3), np.uint8))
            small.resize((4000, 3000)).save(root / "own" / name / f"{number}.jpg")
    made = sorted((root / "own").glob("*/*.jpg"))
    return [made[number % len(made)] for number in range(max(_COUNTS))]


def _peak_mib(files: list[Path], environment: dict[str, str]) -> float:
    process = subprocess.Popen((*_RESLAB, "predict", "1", *map(str, files)), stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"predict ended with exit status {process.returncode}")
    return usage.ru_maxrss / 1024
