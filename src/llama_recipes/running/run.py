"""One fine-tuning run from settings to results, in a straight line: the only file that sees all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

import torch
from rich.console import Console

from llama_recipes.configs.needs import warnings
from llama_recipes.configs.run import RunConfig
from llama_recipes.data.places import places_of_documents
from llama_recipes.errors import FollowedError, Interrupted
from llama_recipes.model.llama import Llama
from llama_recipes.model.weights import check_weights
from llama_recipes.monitoring import announce
from llama_recipes.monitoring.run_log import RunLog
from llama_recipes.monitoring.screen import Screen
from llama_recipes.monitoring.trackers import Trackers
from llama_recipes.parallel.join import joined
from llama_recipes.running import ending, preflight, watching
from llama_recipes.running.best import keep_best
from llama_recipes.running.holding import Hold
from llama_recipes.running.loading import load
from llama_recipes.running.parts import (
    Course,
    make_loaders,
    make_optimizer,
    make_schedule,
    quantization,
    shape_model,
)
from llama_recipes.running.resolve import check_adapter_weights
from llama_recipes.running.saving import checkpointer, result_writer
from llama_recipes.running.start import Start, make_place, open_base, open_data, take_place
from llama_recipes.training.allocator import give_back
from llama_recipes.training.gpu_kernels import speed_up
from llama_recipes.training.interruption import Interruption, StopRequested
from llama_recipes.training.loop import Run
from llama_recipes.training.samples import ask_after, ask_before
from llama_recipes.training.selection import Selection
from llama_recipes.training.snapshot import restore, save_optimizer


def finetune(config: RunConfig, screen: Screen | None = None) -> dict[str, Any]:
    """Run `config` and return what results.json holds. Raises LlamaRecipesError.

    SIGINT, SIGTERM and SIGUSR1 end it with Interrupted, once it can go on from where it was.
    """
    interruption = Interruption()
    with interruption.listening():
        try:
            with joined(config) as world, closing(Hold()) as hold:
                interruption.world = world
                quiet = Screen(Console(quiet=True)) if world.rank else None
                return _finetune(config, quiet or screen or Screen(), interruption, hold)
        except StopRequested as stop:
            told = Interrupted(
                f"Stopped by {stop.name} before the first step: nothing is lost. Run the same"
                " command again."
            )
            if interruption.world.is_first_to_say(str(told)):
                raise told from stop
            raise FollowedError(told.exit_code) from stop


def _finetune(
    config: RunConfig, screen: Screen, interruption: Interruption, hold: Hold
) -> dict[str, Any]:
    for warning in warnings(config):
        screen.warn(warning)
    world = interruption.world
    place = take_place(config, hold, world, screen)
    base = open_base(config, screen)
    config, train = base.config, base.config.train_config
    preflight.say_what_offloading_does(config, world.device, screen)
    dtype = preflight.compute_dtype(world.device, train, screen)
    preflight.use_kernels(world, dtype, required=train.use_fast_kernels, screen=screen)
    model, adapter_names = shape_model(base.source.config, config, base.adapter, dtype)
    announce.base(model, quantization(config), screen)
    check_weights(model, base.source.tensors, skip=adapter_names)
    check_adapter_weights(config, model, base.adapter)

    make_place(place, config, hold, world, screen)
    start = open_data(place, base, world, screen)
    load(model, adapter_names, start, world, screen, dtype=dtype)
    loader, eval_loader = make_loaders(
        train, start.splits, base.tokenizer, base.source.config.vocab_size, screen, world
    )
    if not train.enable_fsdp:
        preflight.check_memory(model, loader, world.device)
    course = Course(loader, eval_loader, make_schedule(train, loader, screen))
    steps = course.schedule.total_steps
    loaders = [loader, *([eval_loader] if eval_loader else [])]
    preflight.keep_frozen_outputs(config, model, loaders, steps, screen)
    if train.use_fast_kernels and world.device.type != "cpu":
        screen.line(speed_up(model, steps=steps))
    give_back()
    torch.manual_seed(train.seed + world.rank)  # what dropout drops differs among processes
    return _train(model, start, course, screen, interruption)


def _train(
    model: Llama, start: Start, course: Course, screen: Screen, interruption: Interruption
) -> dict[str, Any]:
    """The answers before the first step, the steps, the answers after the last one, the results."""
    world, place, base = interruption.world, start.place, start.base
    config, train, steps = start.config, start.config.train_config, course.schedule.total_steps
    written_by_me = None if world.rank else place.folder
    facts = ending.facts_of(start, world)
    samples = watching.choose_samples(
        config, start.splits, base.tokenizer, course.loader, steps, world, screen
    )
    goes_on = place.checkpoint is not None
    ask_before(samples, model, base.tokenizer, written_by_me, goes_on=goes_on, screen=screen)
    trackers = Trackers(screen.warn)
    with (
        RunLog(written_by_me, keep=place.metrics_bytes) as log,
        ending.finishing(trackers),
        screen.training(steps, done=place.done),
    ):
        world.lead(
            lambda: trackers.add(
                watching.start_trackers(
                    start,
                    model,
                    screen,
                    world,
                    metrics_filename=facts["metrics_filename"],
                    steps=steps,
                )
            )
        )
        run = _run(model, start, course, screen, interruption, log, trackers)
        ending.train(run, written_by_me, screen, facts, partial(_places, start))
        if place.folder is not None and train.save_model and train.save_optimizer:
            save_optimizer(run, place.folder)
        ask_after(
            samples,
            model,
            base.tokenizer,
            written_by_me,
            step=run.progress.step,
            check=interruption.check,
            screen=screen,
        )

    results = ending.conclude(run, written_by_me, facts)
    announce.end(results, place.folder if train.save_model else None, screen)
    if place.folder is None and place.root is not None:
        announce.to_model(place.root, results["best_step"], screen)
    return results


def _run(
    model: Llama,
    start: Start,
    course: Course,
    screen: Screen,
    interruption: Interruption,
    log: RunLog,
    trackers: Trackers,
) -> Run:
    """Where it begins, or where its checkpoint was."""
    config, checkpoint = start.config, start.place.checkpoint
    writer = result_writer(model, start, interruption.world)
    run = Run(
        model,
        make_optimizer(model, config),
        course.schedule,
        course.loader,
        course.eval_loader,
        config=config.train_config,
        selection=Selection(writer, patience=config.train_config.early_stopping_patience),
        log=log,
        screen=screen,
        trackers=trackers,
        interruption=interruption,
    )
    if checkpoint is not None:
        restore(run, checkpoint)
        keep_best(run, start, screen)
        screen.line(f"Going on after step {run.progress.step}, from {checkpoint.path}")
    run.checkpoint = checkpointer(run, start)
    run.instrument = watching.make_instrument(run, screen)
    return run


def _places(start: Start, documents: Sequence[int]) -> list[str]:
    """Where documents stand in the data, by their numbers in the store."""
    return places_of_documents(
        documents,
        store=start.splits.train,
        section=start.config.dataset,
        name=start.config.train_config.dataset,
        tokenizer=start.base.tokenizer,
    )
