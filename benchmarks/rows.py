"""What each section of the results says: rows with an aim, and figures for orientation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from benchmarks import few_bits_rows
from benchmarks.measure import ratios, spread
from benchmarks.row import Row, Section, number
from benchmarks.run import Run


def _runs(section: Section, who: str) -> list[Run]:
    return [Run(**found[who]) for found in section["rounds"]]


def _rates(section: Section, who: str) -> list[float]:
    return [run.rate(section["warmup"]) for run in _runs(section, who)]


def _peaks(section: Section, who: str) -> list[float]:
    return [run.peak_gib for run in _runs(section, who)]


def _matrix_rates(section: Section, precision: str) -> list[float]:
    return [found["matrix_gflops"][precision] for found in section["rounds"]]


def flops_per_token(section: Section) -> float:
    return float(sum(section["flops"].values()) / section["work"]["tokens"])


def _limits(section: Section) -> list[float]:
    """Tokens per second, were every operation as fast as the large product of its round."""
    billions = flops_per_token(section) / 1e9
    return [rate / billions for rate in _matrix_rates(section, section["precision"])]


def _speed_rows(section: Section, title: str, aims: Mapping[str, float]) -> Iterator[Row]:
    mine = _rates(section, "ours")
    for who in "default", "fastest":
        theirs, name = _rates(section, who), f"TRL's {who}"
        yield Row(
            f"{title}: tokens per second, ours ÷ {name}",
            ratios(mine, theirs),
            at_least=aims.get(who),
        )
        yield Row(
            f"… the most that is possible here: the matrix rate's tokens per second ÷ {name}",
            ratios(_limits(section), theirs),
        )
    if "bf16_default" in section:
        small = section["bf16_default"]
        rates = [Run(**small[who]).rate(small["warmup"]) for who in ("ours", "default")]
        yield Row(
            f"{title}: tokens per second, ours ÷ TRL's default in emulated bf16 (flatters us)",
            ratios(rates[:1], rates[1:]),
            at_least=aims.get("default"),
        )
    for who in "default", "fastest":
        yield Row(
            f"{title}: peak memory, ours ÷ TRL's {who}",
            ratios(_peaks(section, "ours"), _peaks(section, who)),
            at_most=aims["memory"],
        )
    yield Row(
        f"{title}: model FLOPs per second ÷ the {section['precision']} matrix rate",
        ratios([100 * rate for rate in mine], _limits(section)),
        unit="%",
        at_least=40,
    )


def _lora_rows(section: Section) -> Iterator[Row]:
    return _speed_rows(section, "LoRA", {"default": 10, "fastest": 6, "memory": 0.5})


def _full_rows(section: Section) -> Iterator[Row]:
    return _speed_rows(section, "Full", {"fastest": 6, "memory": 0.7})


def _quality_rows(section: Section) -> Iterator[Row]:
    losses = section["losses"]
    yield Row(
        f"Evaluation loss after the same {section['documents']} documents, ours ÷ TRL's",
        ratios([losses["ours"]["loss"]], [losses["trl"]["loss"]]),
        at_least=0.99,
        at_most=1.01,
    )


def _start_rows(section: Section) -> Iterator[Row]:
    yield Row(
        "From the command to the first step, everything cached",
        spread(section["seconds"]),
        unit=" s",
        at_most=15,
    )


def _long_rows(section: Section) -> Iterator[Row]:
    title = "LoRA, a document of 4,096 tokens a step"
    yield Row(
        f"{title}: tokens per second, ours ÷ TRL's default",
        ratios(_rates(section, "ours"), _rates(section, "default")),
    )
    yield Row(
        f"{title}: peak memory, ours ÷ TRL's default",
        ratios(_peaks(section, "ours"), _peaks(section, "default")),
    )


def _context_rows(section: Section) -> Iterator[Row]:
    yield from _flat_rows(section, "1024", lambda key: f"Rows of {int(key):,} tokens")
    highest_to_lowest = [max(rates) / min(rates) for rates in zip(*_by_key(section), strict=True)]
    yield Row("… the fastest row length ÷ the slowest", spread(highest_to_lowest), at_most=1.15)


def _size_rows(section: Section) -> Iterator[Row]:
    base = min(section["rounds"][0], key=int)
    yield from _flat_rows(section, base, lambda key: f"{int(key):,} documents")


def _flat_rows(section: Section, base: str, title: Callable[[str], str]) -> Iterator[Row]:
    for key in section["rounds"][0]:
        if key != base:
            yield Row(
                f"{title(key)}: tokens per second ÷ those at {int(base):,}",
                ratios(_rates(section, key), _rates(section, base)),
                at_least=0.85,
                at_most=1.15,
            )


def _by_key(section: Section) -> list[list[float]]:
    return [_rates(section, key) for key in section["rounds"][0]]


def _preparation_rows(section: Section) -> Iterator[Row]:
    first, last = section["runs"][0], section["runs"][-1]
    yield Row(
        f"Preparing {last['documents']:,} documents: seconds for each"
        f" ÷ those when there are {first['documents']:,}",
        ratios([last["seconds"] / last["documents"]], [first["seconds"] / first["documents"]]),
        at_most=1.15,
    )
    yield Row(
        f"… peak memory ÷ that of {first['documents']:,}",
        ratios([last["peak_gib"]], [first["peak_gib"]]),
    )


def _speed_absolute(section: Section, title: str) -> Iterator[tuple[str, str]]:
    precisions = dict.fromkeys((section["precision"], "fp32"))
    for precision in precisions:
        rates = spread(_matrix_rates(section, precision))
        yield f"{title}: matrix rate in {precision}", f"{number(rates.median)} GFLOP/s"
    yield f"{title}: FLOPs a token", f"{number(flops_per_token(section) / 1e6)} million"
    for who in "ours", "default", "fastest":
        name = "ours" if who == "ours" else f"TRL's {who}"
        yield (
            f"{title}: {name}",
            f"{number(spread(_rates(section, who)).median)} tokens/s,"
            f" {number(spread(_peaks(section, who)).median)} GiB",
        )
    for name, found in section["search"].items():
        run = Run(**found)
        yield (
            f"{title}: search, TRL, {name}",
            f"{number(run.rate(section['warmup']))} tokens/s, {number(run.peak_gib)} GiB",
        )
    if "bf16_default" in section:
        small = section["bf16_default"]
        rate = Run(**small["default"]).rate(small["warmup"])
        yield f"{title}: TRL's default in emulated bf16", f"{number(rate)} tokens/s"


def _lora_absolute(section: Section) -> Iterator[tuple[str, str]]:
    return _speed_absolute(section, "LoRA")


def _full_absolute(section: Section) -> Iterator[tuple[str, str]]:
    return _speed_absolute(section, "Full")


def _quality_absolute(section: Section) -> Iterator[tuple[str, str]]:
    names = {"before": "before", "ours": "after ours", "trl": "after TRL's"}
    for key, name in names.items():
        yield f"Evaluation loss, {name}", f"{section['losses'][key]['loss']:.4f} nats"


def _context_absolute(section: Section) -> Iterator[tuple[str, str]]:
    for key, rates in zip(section["rounds"][0], _by_key(section), strict=True):
        rate = number(spread(rates).median)
        yield f"Rows of {int(key):,} tokens, packed", f"{rate} tokens/s"


def _size_absolute(section: Section) -> Iterator[tuple[str, str]]:
    for key, rates in zip(section["rounds"][0], _by_key(section), strict=True):
        starts = [run.first_step_seconds or 0.0 for run in _runs(section, key)]
        yield (
            f"{int(key):,} documents, never prepared before",
            f"{number(spread(rates).median)} tokens/s,"
            f" first step after {number(spread(starts).median)} s",
        )


def _preparation_absolute(section: Section) -> Iterator[tuple[str, str]]:
    for run in section["runs"]:
        each = run["seconds"] / run["documents"] * 100_000
        memory = run["peak_gib"] - run["baseline_gib"]
        yield (
            f"Preparing {run['documents']:,} documents of {run['tokens'] / run['documents']:.0f}"
            " tokens",
            f"{number(run['seconds'])} s ({number(each)} s for 100,000),"
            f" {number(memory)} GiB above {number(run['baseline_gib'])} GiB,"
            f" helpers of {number(run['worker_gib'])} GiB at most",
        )


ROWS: Mapping[str, Callable[[Section], Iterator[Row]]] = {
    "lora": _lora_rows,
    "full": _full_rows,
    "quality": _quality_rows,
    "few_bits": few_bits_rows.rows,
    "start": _start_rows,
    "long": _long_rows,
    "contexts": _context_rows,
    "sizes": _size_rows,
    "preparation": _preparation_rows,
}
ABSOLUTE: Mapping[str, Callable[[Section], Iterator[tuple[str, str]]]] = {
    "lora": _lora_absolute,
    "full": _full_absolute,
    "quality": _quality_absolute,
    "few_bits": few_bits_rows.absolute,
    "contexts": _context_absolute,
    "sizes": _size_absolute,
    "preparation": _preparation_absolute,
}
