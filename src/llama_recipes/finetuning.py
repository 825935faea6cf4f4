"""`python -m llama_recipes.finetuning`: read the settings, then run.

Nothing heavy is imported before the settings are known to be right: `--help` and a mistyped flag
answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llama_recipes.configs.flags import parse
from llama_recipes.errors import ConfigError, FollowedError, guard
from llama_recipes.parallel.ranks import end, rank, share_processor

PROG = "python -m llama_recipes.finetuning"


def main(argv: Sequence[str], *, prog: str = PROG) -> int:
    """Fine-tune as the flags say; return the exit code."""

    def body() -> int:
        try:
            command = parse(argv, prog=prog)
        except ConfigError as error:
            if rank():  # every process reads the same flags: one says what is wrong with them
                raise FollowedError(error.exit_code) from error
            raise
        if command.print_config:
            from llama_recipes.configs.document import to_yaml

            print(to_yaml(command.config), end="")
            return 0
        share_processor()
        from llama_recipes.running.run import finetune

        finetune(command.config)
        return 0

    return guard(body, debug="--debug" in argv)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
