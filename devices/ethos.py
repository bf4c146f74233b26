"""Cycles, SRAM and flash on an Arm Ethos-U, as Arm's own compiler estimates them: ethos-u-vela, where it is installed.

Vela compiles an int8 .tflite for the accelerator and predicts its run; the figures are its, for the system it assumes.
"""

import csv
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CONFIGURATIONS = (
    *(f"ethos-u55-{n}" for n in (32, 64, 128, 256)),
    *(f"ethos-u65-{n}" for n in (256, 512)),
    *(f"ethos-u85-{n}" for n in (128, 256, 512, 1024, 2048)),
)  # MACs per cycle
_TIMEOUT_S = 300
_MISSING = "not estimated: ethos-u-vela is not installed (pip install ethos-u-vela puts the command vela on the PATH)"


def estimate(path: Path, configuration: str) -> dict[str, Any]:
    """A .tflite file -> ms, cycles, sram_kib, flash_kib, dram_kib, clock_mhz, operators, on_npu (of these), system.

    {"error": one line} instead where Vela is missing, refuses the file, or takes longer than 300 s.
    """
    vela = shutil.which("vela")
    if vela is None:
        return {"error": _MISSING}
    if path.suffix != ".tflite":
        return {"error": "not estimated: ethos-u-vela reads .tflite files"}
    with tempfile.TemporaryDirectory() as folder:
        command = [vela, str(path), "--accelerator-config", configuration, "--output-dir", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return {"error": f"not estimated: ethos-u-vela took more than {_TIMEOUT_S} s"}
        tables = list(Path(folder).glob("*_summary_*.csv"))
        if done.returncode or not tables:
            said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            return {"error": f"not estimated: ethos-u-vela refuses it: {said[:300]}"}
        with tables[0].open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
    n_cpu, n_npu = (int(found[1]) if (found := re.search(rf"{unit} operators = (\d+)", done.stdout)) else 0
                    for unit in ("CPU", "NPU"))  # fmt: skip
    flash = ("on_chip_flash_memory_used", "off_chip_flash_memory_used")
    return {
        "ms": float(row["inference_time"]) * 1e3,
        "cycles": int(float(row["cycles_total"])),
        "sram_kib": float(row["sram_memory_used"]),
        "flash_kib": sum(float(row[key]) for key in flash),
        "dram_kib": float(row["dram_memory_used"]),
        "clock_mhz": float(row["core_clock"]) / 1e6,
        "operators": n_cpu + n_npu,
        "on_npu": n_npu,
        "system": row["system_config"],
    }
