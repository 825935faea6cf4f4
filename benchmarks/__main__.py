"""`python -m benchmarks`: measure, and write results.json and the tables of README.md from it."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import few_bits, flat, long, memory, preparation, quality, ranks, speed, start
from benchmarks.bench import Bench
from benchmarks.documents import GSM8K
from benchmarks.measure import BenchmarkError
from benchmarks.scale import FULL, QUICK
from benchmarks.table import README, RESULTS, put_into, render

SECTIONS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "lora": partial(speed.measure, adapter=True),
    "full": partial(speed.measure, adapter=False),
    "quality": quality.measure,
    "few_bits": few_bits.measure,
    "start": start.measure,
    "long": long.measure,
    "memory": memory.measure,
    "contexts": flat.contexts,
    "sizes": flat.sizes,
    "preparation": preparation.measure,
    "ranks": ranks.measure,
}
_NEEDED = {
    "trl": {"lora", "full", "quality", "few_bits", "long", "memory"},
    "bitsandbytes": {"few_bits", "memory"},
}
"""Packages of the extra `bench`, and the sections that measure them."""
_WITHOUT_GSM8K = {"preparation"}


def main(argv: Sequence[str]) -> int:
    """Measure what was asked for; 2 where something for it is missing."""
    asked = _arguments().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or what is measured would go on alone
    try:
        if asked.render:
            README.write_text(_readme(_read(RESULTS)), encoding="utf-8")
        else:
            _measure(asked)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a trial of a few minutes whose figures mean nothing; the README stays as it is",
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(SECTIONS),
        metavar="SECTION,…",
        help=f"some of {', '.join(SECTIONS)}; the others stay as they were measured before",
    )
    parser.add_argument("--rounds", type=int, help="times that each contender is measured")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run that count")
    parser.add_argument("--gsm8k", type=Path, default=GSM8K, help="folder of train.jsonl")
    parser.add_argument(
        "--output", type=Path, help="another file for the results; the README stays as it is"
    )
    parser.add_argument("--work", type=Path, help="folder for what is written meanwhile, kept")
    parser.add_argument(
        "--render", action="store_true", help="only write the README's tables from results.json"
    )
    return parser


def _measure(asked: argparse.Namespace) -> None:
    unknown = sorted(set(asked.only) - SECTIONS.keys())
    if unknown:
        raise BenchmarkError(
            f"--only names {', '.join(unknown)}; the sections are {', '.join(SECTIONS)}."
        )
    missing = [
        package
        for package, sections in _NEEDED.items()
        if sections & set(asked.only) and find_spec(package) is None
    ]
    if missing:
        raise BenchmarkError(
            f"Not installed: {', '.join(missing)}. pip install -c constraints.txt -e '.[bench]'"
        )
    changed = {name: getattr(asked, name) for name in ("rounds", "steps") if getattr(asked, name)}
    scale = replace(QUICK if asked.quick else FULL, **changed)
    output = asked.output or (None if asked.quick else RESULTS)
    with TemporaryDirectory(prefix="llama-recipes-bench-") as temporary:
        work = asked.work.absolute() if asked.work else Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()):
            raise BenchmarkError(f"{work} is not empty: name a new folder for --work.")
        bench = Bench(work, asked.gsm8k, scale)
        if set(asked.only) - _WITHOUT_GSM8K:
            bench.rows("train")
        bench.machine = bench.own("machine")
        results = _results(output, bench.machine)
        for name in asked.only:
            measured = {"date": f"{date.today()}", **SECTIONS[name](bench)}
            results["sections"][name] = _short(measured)
            if output:  # after each, so that an hour is not lost
                output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if output == RESULTS:
        README.write_text(_readme(results), encoding="utf-8")
    print(render(results))


def _results(output: Path | None, machine: dict[str, Any]) -> dict[str, Any]:
    """What there is already, to put more into. Raises BenchmarkError where it is from elsewhere."""
    if output is None or not output.exists():
        return {"machine": machine, "sections": {}}
    results = _read(output)
    if results["machine"] != machine:
        raise BenchmarkError(
            f"{output} was measured on another machine or with other versions, and one table is"
            " not made of two: remove it, or name another file with --output."
        )
    return results


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BenchmarkError(f"There is no {path}: measure first, with make bench.")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def _short(value: Any) -> Any:
    """Six digits are more than a clock is worth."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _short(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_short(entry) for entry in value]
    return value


def _readme(results: Mapping[str, Any]) -> str:
    return put_into(README.read_text(encoding="utf-8"), render(results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
