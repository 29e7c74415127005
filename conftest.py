"""What is not collected: modules of the torch engine where there is no torch, and programs that an import would run."""

from importlib.util import find_spec

TORCH = [] if find_spec("torch") else ["lora/training/*torch*.py", "tests/lora/torch_runs.py"]
PROGRAMS = ["toolchain/course/start/*.py", "tests/course/solutions/*.py"]
collect_ignore_glob = [*TORCH, *PROGRAMS]
