"""Holds ONNX Runtime to AVX2, for which it has no switch: a copy of it whose instructions `cpuid` are answered by held.c."""

import ctypes
import importlib.util
import pathlib
import subprocess
import sys
import tempfile

CPUID, INVALID = b"\x0f\xa2", b"\x06\xa2"


def hold():
    """To be called before anything imports onnxruntime. What it returns must live as long as that is used, and says with `answered()`
    how often it was asked what the machine has."""
    whole = pathlib.Path(importlib.util.find_spec("onnxruntime").origin).parent
    held = tempfile.TemporaryDirectory()
    there = pathlib.Path(held.name)
    answers = there / "held.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", answers, pathlib.Path(__file__).with_name("held.c")], check=True)
    library = ctypes.CDLL(str(answers))
    if library.begin() != 0:
        sys.exit("SIGILL cannot be handled")
    copy(whole, there / "onnxruntime")
    sys.path.insert(0, held.name)
    library.directory = held
    return library


def copy(whole, to):
    """Links to everything but the library in `capi`, which is changed."""
    to.mkdir()
    for path in whole.iterdir():
        if path.name != "capi":
            (to / path.name).symlink_to(path)
    (to / "capi").mkdir()
    for path in (whole / "capi").iterdir():
        if path.name.startswith("onnxruntime_pybind11_state") and path.suffix == ".so":
            (to / "capi" / path.name).write_bytes(changed(path))
        else:
            (to / "capi" / path.name).symlink_to(path)


def changed(library):
    """The library without its instructions `cpuid`. The two bytes occur within others, too, so all are disassembled."""
    code = bytearray(library.read_bytes())
    segments = subprocess.run(["readelf", "-lW", library], check=True, capture_output=True, text=True).stdout
    (segment,) = [line.split() for line in segments.splitlines() if "LOAD" in line and "R E" in line]
    shift = int(segment[1], 16) - int(segment[2], 16)
    disassembled = subprocess.Popen(["objdump", "-d", "--no-show-raw-insn", library], stdout=subprocess.PIPE)
    found = subprocess.run(["grep", "-w", "cpuid"], check=True, stdin=disassembled.stdout, capture_output=True, text=True)
    for line in found.stdout.splitlines():
        at = int(line.split(":")[0], 16) + shift
        if code[at:at + 2] != CPUID:
            sys.exit(f"there is no cpuid at {at:#x} of {library}")
        code[at:at + 2] = INVALID
    return code
