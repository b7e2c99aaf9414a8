"""``python -m benchmarks``: the names of the benchmarks; each is one command of its own."""

import pkgutil
from pathlib import Path

RUNNABLE = (
    "decide",
    "feedback_loop",
    "feedback_table",
    "gate",
    "intake",
    "night",
    "outcomes",
    "rollback",
    "splitter",
    "splitter_nights",
)


def main() -> None:
    """List the benchmarks."""
    here = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name in RUNNABLE]
    print("Each benchmark prints a table and writes JSON with --json FILE; --help lists its settings.")
    for name in here:
        print(f"  python -m benchmarks.{name} --help")


if __name__ == "__main__":
    main()
