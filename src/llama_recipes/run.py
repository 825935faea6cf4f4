"""One fine-tuning run from settings to results, in a straight line: the only file that sees all."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from rich.console import Console

from llama_recipes import ending, folders, preflight, watching
from llama_recipes.adapters.select import start_adapter
from llama_recipes.checkpoint.folder import Checkpoint
from llama_recipes.checkpoint.store import publish
from llama_recipes.configs.document import to_yaml
from llama_recipes.configs.needs import warnings
from llama_recipes.configs.run import RunConfig
from llama_recipes.data.places import places_of_documents
from llama_recipes.data.tokenizer import NAME_ANOTHER, load_tokenizer
from llama_recipes.errors import Interrupted, writing
from llama_recipes.holding import Hold
from llama_recipes.model.fingerprint import weights_fingerprint
from llama_recipes.model.source import open_model
from llama_recipes.model.weights import check_weights, load_weights
from llama_recipes.monitoring import announce
from llama_recipes.monitoring.report.files import CONFIG_FILE
from llama_recipes.monitoring.results import counted_before
from llama_recipes.monitoring.run_log import RunLog
from llama_recipes.monitoring.screen import Screen
from llama_recipes.monitoring.trackers import Trackers
from llama_recipes.monitoring.tracking import check_trackers, metrics_file
from llama_recipes.parallel.join import joined
from llama_recipes.parallel.shards import own_rows
from llama_recipes.parts import (
    made_of,
    make_loaders,
    make_schedule,
    make_up_for_quantization,
    open_documents,
    quantization,
    result_writer,
    shape_model,
    tokenizer_path,
)
from llama_recipes.resolve import (
    check_adapter_base,
    check_adapter_weights,
    resolve,
    with_bits_of_adapter,
    with_tokens_of,
)
from llama_recipes.training.allocator import give_back
from llama_recipes.training.checkpointer import Checkpointer
from llama_recipes.training.gpu_kernels import speed_up
from llama_recipes.training.interruption import Interruption, StopRequested
from llama_recipes.training.loop import Run
from llama_recipes.training.optimizers import make_optimizer
from llama_recipes.training.resuming import checkpoint_to_resume, identity, refuse_drift
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
            raise Interrupted(
                f"Stopped by {stop.name} before the first step: nothing is lost. Run the same"
                " command again."
            ) from stop


def _finetune(
    config: RunConfig, screen: Screen, interruption: Interruption, hold: Hold
) -> dict[str, Any]:
    for warning in warnings(config):
        screen.warn(warning)
    world, root = interruption.world, folders.checkpoints_path(config)
    # Before what is there is looked at: another run might still change it.
    world.lead(lambda: hold.take(folders.written_to(config), screen.warn))
    checkpoint = checkpoint_to_resume(config, root, screen.warn, world)
    world.lead(lambda: folders.refuse_results(config, checkpoint))
    world.lead(lambda: folders.refuse_lost_metrics(folders.output_path(config), checkpoint))
    world.lead(lambda: check_trackers(config))
    world.lead(lambda: folders.make_profiler_folder(config.train_config))
    source = open_model(config.train_config.model_name)
    base = weights_fingerprint(source.tensors)
    check_adapter_base(config, source.tensors)
    config = with_bits_of_adapter(config, screen)
    tokenizer_folder = tokenizer_path(config.train_config, source)
    tokenizer = load_tokenizer(tokenizer_folder, or_else=NAME_ANOTHER)
    known_tokens = source.config.vocab_size
    source = with_tokens_of(tokenizer, source, config.train_config, screen)
    extended = source.config.vocab_size > known_tokens
    config, adapter = resolve(config, source.config, screen, extended=extended)
    train = config.train_config
    device = world.device
    if train.enable_fsdp:
        preflight.say_what_offloading_does(config, device, screen)
    dtype = preflight.compute_dtype(device, train, screen)
    preflight.use_kernels(world, dtype, required=train.use_fast_kernels, screen=screen)
    how = quantization(config)
    model, adapter_names = shape_model(source.config, config, adapter, dtype)
    announce.base(model, how, screen)
    check_weights(model, source.tensors, skip=adapter_names)
    check_adapter_weights(config, model, adapter)

    folder = folders.output_path(config)
    earlier = folders.earlier_folder(checkpoint, folder)
    run_id = checkpoint.state["run_id"] if checkpoint else uuid4().hex
    world.lead(lambda: folders.make_folders(config))
    world.lead(lambda: hold.take(folders.written_to(config), screen.warn))  # those that are new
    if folder is None and root is not None:
        announce.only_checkpoints(root, screen)
    splits = open_documents(config, tokenizer, screen, world)
    preflight.check_vocabulary(splits, tokenizer, source.config)
    itself = identity(
        config,
        model=base,
        tokenizer=tokenizer,
        tokenizer_path=tokenizer_folder,
        data=splits.train,
        processes=world.size,
    )
    if checkpoint is not None:
        for change in refuse_drift(checkpoint, itself, allowed=train.resume_with_changes):
            screen.warn(change)
    world.lead(lambda: _begin(folder, config, checkpoint))

    preflight.recompute(config, model, device, screen)
    world.shard(model, gathered_in=preflight.gathered_in(config, dtype))
    load_weights(
        model,
        world.read_by_one(source.tensors) if train.low_cpu_fsdp else source.tensors,
        device=preflight.kept_on(config, device),
        skip=adapter_names,
        own=own_rows,
        every_row=train.low_cpu_fsdp,
    )
    if adapter is not None:
        start_adapter(
            model,
            adapter,
            checkpoint=train.from_peft_checkpoint,
            seed=train.seed,
            device=preflight.kept_on(config, device),
            own=own_rows,
        )
        make_up_for_quantization(
            config,
            adapter,
            model,
            source.tensors,
            splits.train,
            screen,
            started=checkpoint is not None,
        )
    announce.model(model, train.model_name, screen)
    loader, eval_loader = make_loaders(
        train, splits, tokenizer, source.config.vocab_size, screen, world
    )
    if not train.enable_fsdp:
        preflight.check_memory(model, loader, device)

    selection = Selection(
        result_writer(train, folder, model, tokenizer, source, adapter, base, how, world),
        patience=train.early_stopping_patience,
    )
    schedule = make_schedule(train, loader, screen)
    loaders = [loader, *([eval_loader] if eval_loader else [])]
    preflight.keep_frozen_outputs(config, model, loaders, schedule.total_steps, screen)
    if train.use_fast_kernels and device.type != "cpu":
        screen.line(speed_up(model, steps=schedule.total_steps))
    facts: dict[str, Any] = {
        "prompt_format": splits.format,
        "quantization": how and asdict(how),
        "metrics_filename": None if world.rank else metrics_file(config, folder),
        **counted_before(earlier),
    }
    give_back()
    torch.manual_seed(train.seed + world.rank)  # what dropout drops differs among processes
    metrics_bytes = checkpoint.state["metrics_bytes"] if checkpoint else None
    written_by_me = None if world.rank else folder
    steps = schedule.total_steps
    samples = watching.choose_samples(config, splits, tokenizer, loader, steps, world, screen)
    ask_before(
        samples, model, tokenizer, written_by_me, goes_on=checkpoint is not None, screen=screen
    )
    trackers = Trackers(screen.warn)
    with (
        RunLog(written_by_me, keep=metrics_bytes) as log,
        ending.finishing(trackers),
        screen.training(steps, done=checkpoint.step if checkpoint else 0),
    ):
        world.lead(
            lambda: trackers.add(
                watching.start_trackers(
                    config,
                    folder,
                    model,
                    splits,
                    screen,
                    world,
                    run_id=run_id,
                    earlier=earlier,
                    metrics_filename=facts["metrics_filename"],
                    steps=steps,
                    after_step=checkpoint.step if checkpoint else None,
                )
            )
        )
        run = Run(
            model,
            make_optimizer(
                model,
                lr=train.lr,
                weight_decay=train.weight_decay,
                kind=config.fsdp_config.optimizer,
                kahan=config.fsdp_config.use_kahan_summation,
            ),
            schedule,
            loader,
            eval_loader,
            config=train,
            selection=selection,
            log=log,
            screen=screen,
            trackers=trackers,
            interruption=interruption,
        )
        if checkpoint is not None:
            restore(run, checkpoint)
            screen.line(f"Going on after step {run.progress.step}, from {checkpoint.path}")
        if root is not None:
            run.checkpoint = Checkpointer(
                run,
                root,
                itself,
                keep=train.keep_checkpoints,
                layout=config.fsdp_config.checkpoint_type,
                run_id=run_id,
                folder=folders.seen_from(root, folder),
                after=checkpoint.step if checkpoint else 0,
                made_of=made_of(train, source, tokenizer_folder, splits),
            )
        run.instrument = watching.make_instrument(run, screen)
        places = partial(
            places_of_documents,
            store=splits.train,
            section=config.dataset,
            name=train.dataset,
            tokenizer=tokenizer,
        )
        ending.train(run, written_by_me, screen, facts, places)
        if folder is not None and train.save_model and train.save_optimizer:
            save_optimizer(run, folder)
        ask_after(
            samples,
            model,
            tokenizer,
            written_by_me,
            step=run.progress.step,
            check=interruption.check,
            screen=screen,
        )

    results = ending.conclude(run, written_by_me, facts)
    announce.end(results, folder if train.save_model else None, screen)
    if folder is None and root is not None:
        announce.to_model(root, results["best_step"], screen)
    return results


def _begin(folder: Path | None, config: RunConfig, checkpoint: Checkpoint | None) -> None:
    if folder is not None:
        with writing(folder / CONFIG_FILE, "Make room, or give another --output_dir."):
            folders.take_over(folder, checkpoint)
            publish(folder / CONFIG_FILE, to_yaml(config).encode())
