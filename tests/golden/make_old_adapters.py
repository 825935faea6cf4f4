"""Adapters as peft of early 2024 wrote them, which is what the original llama-recipes left behind.

pip install --no-deps --target OLD peft==0.10.0, then python tests/golden/make_old_adapters.py OLD
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path[:0] = [sys.argv[1], str(Path(__file__).parents[1])]

import peft  # noqa: E402

from support.tiny import tiny_llama, transformers_twin  # noqa: E402

FOLDER = Path(__file__).parent / "peft_0_10"
# As llama_recipes/configs/peft.py had them, in smaller.
KINDS = {
    "lora": peft.LoraConfig(
        r=2,
        lora_alpha=32,
        lora_dropout=0.05,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    ),
    "llama_adapter": peft.AdaptionPromptConfig(
        adapter_len=3, adapter_layers=2, task_type="CAUSAL_LM"
    ),
    "prefix": peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
}


def main() -> None:
    assert peft.__version__ == "0.10.0"
    for kind, config in KINDS.items():
        # Llama 2 has a key head for every query head; for others this peft wrote prefixes that fit
        # no model.
        base = transformers_twin(tiny_llama(num_key_value_heads=4))
        for layer in base.model.layers:  # what attention had in transformers of that time
            layer.self_attn.hidden_size = base.config.hidden_size
        model = peft.get_peft_model(base, config)
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape)
        model.save_pretrained(FOLDER / kind, safe_serialization=True)
        (FOLDER / kind / "README.md").unlink()
        path = FOLDER / kind / "adapter_config.json"
        raw = json.loads(path.read_text()) | {"base_model_name_or_path": ""}
        path.write_text(json.dumps(raw, indent=2) + "\n")


if __name__ == "__main__":
    main()
