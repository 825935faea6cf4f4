"""All settings of one run."""

from __future__ import annotations

from pydantic import Field

from llama_recipes.configs.datasets import (
    AlpacaDataset,
    CustomDataset,
    FileDataset,
    GrammarDataset,
    SamsumDataset,
    StdlibDocstringsDataset,
)
from llama_recipes.configs.fsdp import FsdpConfig
from llama_recipes.configs.peft import LlamaAdapterConfig, LoraConfig, PrefixConfig
from llama_recipes.configs.quantization import QuantizationConfig
from llama_recipes.configs.section import Section
from llama_recipes.configs.training import TrainConfig
from llama_recipes.configs.wandb import WandbConfig


class RunConfig(Section):
    """One attribute a section, named as in flags and files.

    Types and ranges hold once it exists; what may stand together is for `rules` to say.
    """

    train_config: TrainConfig = Field(default_factory=TrainConfig)
    lora_config: LoraConfig = Field(default_factory=LoraConfig)
    llama_adapter_config: LlamaAdapterConfig = Field(default_factory=LlamaAdapterConfig)
    prefix_config: PrefixConfig = Field(default_factory=PrefixConfig)
    quantization_config: QuantizationConfig = Field(default_factory=QuantizationConfig)
    fsdp_config: FsdpConfig = Field(default_factory=FsdpConfig)
    wandb_config: WandbConfig = Field(default_factory=WandbConfig)
    samsum_dataset: SamsumDataset = Field(default_factory=SamsumDataset)
    grammar_dataset: GrammarDataset = Field(default_factory=GrammarDataset)
    alpaca_dataset: AlpacaDataset = Field(default_factory=AlpacaDataset)
    custom_dataset: CustomDataset = Field(default_factory=CustomDataset)
    file_dataset: FileDataset = Field(default_factory=FileDataset)
    stdlib_docstrings_dataset: StdlibDocstringsDataset = Field(
        default_factory=StdlibDocstringsDataset
    )

    @property
    def dataset(self) -> Section:
        """The section of the data set that is trained on."""
        return self.section(self.train_config.dataset)

    def section(self, name: str) -> Section:
        found = getattr(self, name)
        assert isinstance(found, Section)
        return found

    def value(self, key: str) -> object:
        """The value of a setting named as `train_config.lr`."""
        section, name = key.split(".")
        return getattr(self.section(section), name)

    def default(self, key: str) -> object:
        """The default of a setting named as `train_config.lr`."""
        section, name = key.split(".")
        return type(self.section(section)).model_fields[name].default

    def was_set(self, key: str) -> bool:
        """Whether a setting named as `train_config.lr` was given by a flag, a file or the caller.

        A file that gives the default counts as not giving it, except where the default depends on
        the run (section.OPEN_DEFAULT).
        """
        section, name = key.split(".")
        return name in self.section(section).model_fields_set

    def given(self) -> list[str]:
        """The settings for which `was_set` holds, in the order of their declaration."""
        return [
            f"{section}.{name}"
            for section in type(self).model_fields
            for name in type(self.section(section)).model_fields
            if name in self.section(section).model_fields_set
        ]
