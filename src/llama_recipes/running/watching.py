"""What watches a run without changing it: trackers, its report, instruments, answers to compare."""

from __future__ import annotations

from pathlib import Path

from llama_recipes.checkpoint.store import publish
from llama_recipes.configs.run import RunConfig
from llama_recipes.data.loader import Loader
from llama_recipes.data.splits import Splits
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import writing
from llama_recipes.model.llama import Llama
from llama_recipes.monitoring import announce
from llama_recipes.monitoring.flop_counter import FlopCounter
from llama_recipes.monitoring.instruments import Instrument, Nothing
from llama_recipes.monitoring.matrix_rate import matrix_rate
from llama_recipes.monitoring.profiler import Profiler
from llama_recipes.monitoring.report.tracker import RunReport
from llama_recipes.monitoring.run_facts import earlier_parts, run_facts, starts
from llama_recipes.monitoring.screen import Screen
from llama_recipes.monitoring.trackers import Tracker
from llama_recipes.monitoring.tracking import make_trackers
from llama_recipes.parallel.world import World
from llama_recipes.running.start import Start
from llama_recipes.training.loop import Run
from llama_recipes.training.samples import Samples, choose, trained_tokens

_SAMPLES = "train_config.report_samples"


def choose_samples(
    config: RunConfig,
    splits: Splits,
    tokenizer: Tokenizer,
    loader: Loader,
    steps: int,
    world: World,
    screen: Screen,
) -> Samples | None:
    """What is asked before and after; None where nothing shall be."""
    train = config.train_config
    if not train.report_samples:
        return None
    steps_an_epoch = len(loader.plan(0)) / train.gradient_accumulation_steps
    samples = choose(
        splits,
        tokenizer,
        count=train.report_samples,
        context_length=train.context_length,
        trained_tokens=trained_tokens(splits.train, steps=steps, steps_an_epoch=steps_an_epoch),
        processes=world.size,
    )
    if samples.left_out and train.report_samples != config.default(_SAMPLES):
        screen.warn(f"--report_samples has no effect in this run: {samples.left_out}")
    return samples


def start_trackers(
    start: Start,
    model: Llama,
    screen: Screen,
    world: World,
    *,
    metrics_filename: str | None,
    steps: int,
) -> list[Tracker]:
    """Those that the settings ask for, and the report of every run that has a folder.

    For the process that writes. steps: of the whole run. Raises ConfigError and CheckpointError.
    """
    place, folder = start.place, start.place.folder
    goes_on = place.checkpoint is not None
    before = earlier_parts(place.earlier)
    facts = run_facts(
        model,
        start.splits,
        device=world.device,
        processes=world.size,
        total_steps=steps,
        started=starts(before, after_step=place.done if goes_on else None),
    )
    with writing(folder or "What a tracker keeps", "Make room, or leave the tracker out."):
        trackers = make_trackers(
            start.config,
            folder,
            metrics_filename=metrics_filename,
            facts=facts,
            resumed=goes_on,
            publish=publish,
            screen=screen,
        )
    if folder is None:
        return trackers
    report = RunReport(
        folder, {"run_id": place.run_id, **facts}, screen, publish, warnings=before.warnings
    )
    report.update()
    return [*trackers, report]  # the last: it shows what the others left


def make_instrument(run: Run, screen: Screen) -> Instrument:
    """What the settings ask to look at the run's steps; a run that goes on is where it was."""
    train, world = run.config, run.world
    steps = run.schedule.total_steps - run.progress.step
    if train.flop_counter:
        announce.too_few_to_count(steps, train, screen)
        return FlopCounter(
            run.model,
            start=train.flop_counter_start,
            rate=None if world.rank else matrix_rate(run.device, run.model.dtype),
            world=world,
            screen=screen,
            scale=lambda: run.scale.scale,
        )
    if train.use_profiler:
        announce.too_few_to_profile(steps, screen)
        folder = Path(train.profiler_dir).expanduser()
        return Profiler(folder, rank=world.rank, device=run.device, screen=screen)
    return Nothing()
