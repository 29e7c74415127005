"""What is collected only where torch is installed: the modules of the torch engine, which import it first of all."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["lora/training/*torch*.py", "tests/lora/torch_runs.py"]
