"""The machine at hand: what a measurement must say of it, and its profile, "here"."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from devices.profile import Profile

HERE = "here"
# Linux on Arm names a core by these numbers alone ("CPU part" of /proc/cpuinfo, Arm Ltd. being implementer 0x41).
_ARM_PARTS = {
    0xB76: "ARM1176", 0xC07: "Cortex-A7", 0xC08: "Cortex-A8", 0xC09: "Cortex-A9", 0xC0F: "Cortex-A15",
    0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
    0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78", 0xD49: "Neoverse-N2", 0xD4F: "Neoverse-V2",
}  # fmt: skip
_RUNTIMES = {"tflite": "LiteRT + XNNPACK", "onnx": "onnxruntime"}


def facts() -> dict[str, Any]:
    """-> cpu, board ("" where it has no name), architecture, system: texts; cores that may be used; ram_kib in all."""
    cpuinfo, model = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")
    cpu = cpu_name(cpuinfo.read_text(encoding="utf-8", errors="replace")) if cpuinfo.is_file() else _sysctl()
    may_use = getattr(os, "sched_getaffinity", None)  # Linux; a container may be given fewer than there are
    return {
        "cpu": cpu or platform.processor() or platform.machine() or "unknown",
        "board": model.read_text(encoding="utf-8", errors="replace").strip("\0\n ") if model.is_file() else "",
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": len(may_use(0)) if may_use else os.cpu_count() or 1,
        "ram_kib": _ram_kib(),
    }


def cpu_name(cpuinfo: str) -> str:
    """Text of Linux's /proc/cpuinfo -> the cores' names, each once, or "" where it names none."""
    fields = [line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line]
    values = [(key.strip(), value.strip()) for key, value in fields]
    parts = [int(value, 16) for key, value in values if key == "CPU part" and re.fullmatch("0x[0-9a-fA-F]+", value)]
    arm = [_ARM_PARTS.get(part, f"Arm part {part:#x}") for part in parts]
    found = arm or [value for key, value in values if key == "model name"]
    return " + ".join(dict.fromkeys(found))


def _sysctl() -> str:
    """macOS keeps the name there."""
    if platform.system() != "Darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _ram_kib() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
    except (AttributeError, ValueError, OSError):  # Windows, or a system that does not say
        return None


def profile(fmt: str, path: Path, measured: Sequence[dict[str, Any]]) -> Profile:
    """This machine as a board without costs, whose times are measured. path: where the files lie; its disk is the flash.

    measured: what `latency.measure` said of the nets of format `fmt`; empty for none.
    """
    what = facts()
    ram_kib = what["ram_kib"] or 2**30  # unknown: let no verdict rest on it
    about = f"{what['board'] or what['cpu']}, {what['cores']} cores, {what['architecture']}, {what['system']}"
    about += f", {what['ram_kib'] / 2**20:.1f} GiB RAM" if what["ram_kib"] else ", RAM unknown"
    return Profile(
        name=HERE,
        board=about,
        core=what["cpu"],
        runtime=_RUNTIMES[fmt],
        version=measured[0]["engine"].split()[-1] if measured else "not run",
        clock_mhz=0.0,  # nothing is estimated from it
        flash_kib=shutil.disk_usage(path if path.is_dir() else path.parent).total // 1024,
        ram_kib=ram_kib,
        ram_total_kib=ram_kib,
        runtime_flash_kib=0,  # installed already
        runtime_ram_kib=53000,  # resident with three small nets loaded, x86-64, as in pi-*.toml
        ram_factor=(1.0, 2.0),  # XNNPACK packs weights and keeps buffers of its own: not measured
        measured=bool(measured),
        rows_board="",
        source=_source(measured),
        links=(),
        known_from="this machine" if measured else "nothing",
    )


def _source(measured: Sequence[dict[str, Any]]) -> str:
    if not measured:
        return "not measured"
    m = measured[0]
    threads = "one thread" if m["threads"] == 1 else f"{m['threads']} threads"
    return (
        f"measured here on {m['date']}: {m['engine']}, {threads}, {m['runs']} runs after {m['warm_up']} to warm up; "
        "median (10th to 90th percentile), sums over the nets"
    )
