"""Arguments and options that several commands have."""

from typing import Annotated

import typer

PromptArgument = Annotated[str, typer.Argument(metavar="PROMPT", help="the prompt; - reads it from standard input")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="the generation's id")]
Model = Annotated[str, typer.Option(help="the model's name; may be left out if only one is served")]
MaxTokens = Annotated[int | None, typer.Option(help="generate at most so many tokens")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy; unset: the model's default")]
Seed = Annotated[int | None, typer.Option(help="seed of this generation's random numbers")]
Stop = Annotated[list[str] | None, typer.Option(help="a string that ends the answer; may be repeated")]
Timeout = Annotated[float | None, typer.Option(help="seconds until the generation expires")]
AsJson = Annotated[bool, typer.Option("--json", help="print the whole message as JSON")]
ShowTimings = Annotated[bool, typer.Option("--timings", help="print the hop table afterwards")]
