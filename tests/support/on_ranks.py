"""Settings whose effect is shown on several processes alone, in tests/distributed."""

from __future__ import annotations

SEEN_ON_RANKS = {
    "train_config.enable_fsdp",
    "train_config.low_cpu_fsdp",
    "train_config.dist_checkpoint_root_folder",
    "train_config.dist_checkpoint_folder",
    "fsdp_config.mixed_precision",
    "fsdp_config.use_fp16",
    "fsdp_config.sharding_strategy",
    "fsdp_config.hsdp",
    "fsdp_config.sharding_group_size",
    "fsdp_config.replica_group_size",
    "fsdp_config.checkpoint_type",
    "fsdp_config.fsdp_cpu_offload",
    "fsdp_config.timeout_seconds",  # tests/faults/test_ranks.py
}
