"""`simserve models`: the model architectures that are known, and new ones from a Hugging Face config."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simserve.report.console import make_console

if TYPE_CHECKING:
    from rich.table import Table

    from simserve.arch.bidirectional import Rows
    from simserve.spec.audio import AudioSpec
    from simserve.spec.vision import VisionSpec

SHOWN_SIZES = ((280, 280), (560, 560), (652, 802), (720, 1280), (1080, 1920), (3024, 4032))
SHOWN_SECONDS = (1, 5, 10, 30, 60)
app = typer.Typer(help="Model architectures: list them, import one from config.json.", no_args_is_help=False)


@app.command("list")
def list_models() -> None:
    """One line per model: name, parameters, layers, heads."""
    from rich.table import Table

    from simserve.arch.memory import parameter_count
    from simserve.spec.model import load_model, model_names

    table = Table("model", "parameters", "layers", "heads / KV heads", "context")
    for name in model_names():
        m = load_model(name)
        heads = f"{m.num_attention_heads} / {m.num_key_value_heads}"
        table.add_row(m.name, f"{parameter_count(m) / 1e9:.2f} B", str(m.num_hidden_layers), heads,
                      str(m.max_position_embeddings))  # fmt: skip
    make_console().print(table)


@app.command("show")
def show_model(name: Annotated[str, typer.Argument(help="Model, as `--model` takes it.")]) -> None:
    """Sizes of a model; of one that reads images or sounds what becomes of a few sizes of them."""
    from simserve.arch.encoder import encoder_parameters
    from simserve.arch.memory import kv_bytes_per_token, parameter_count, weight_bytes
    from simserve.spec.model import load_model
    from simserve.units import format_bytes

    model, console = load_model(name), make_console()
    kv = kv_bytes_per_token(model, "auto", 1)
    console.print(f"{model.name}: {parameter_count(model) / 1e9:.2f} B parameters, {model.num_hidden_layers} layers, "
                  f"{format_bytes(weight_bytes(model, 'bf16', 1))} in bf16, {format_bytes(kv)} of KV a token, "
                  f"context {model.max_position_embeddings}")  # fmt: skip
    for kind, encoder in model.encoders.items():
        console.print(f"{kind} encoder: {encoder_parameters(encoder) / 1e9:.2f} B parameters beside them")
    if model.vision is not None:
        console.print(_images(model.vision))
    if model.audio is not None:
        console.print(_sounds(model.audio))
    for source in model.sources:
        console.print(f"source: {source}", markup=False)


def _images(vision: VisionSpec) -> Table:
    """Patches, tokens and bytes of features by size; patches of each group that attends to itself."""
    from rich.table import Table

    from simserve.arch.encoder import feature_bytes
    from simserve.arch.vision import image_rows, tokens_of

    table = Table("image (W x H)", "rows in the encoder", "tokens", "features")
    for height, width in SHOWN_SIZES:
        rows = image_rows(vision, height, width)
        tokens = tokens_of(vision, rows)
        table.add_row(f"{width} x {height}", _groups(rows), str(tokens),
                      f"{feature_bytes(vision, tokens) / 1e6:.2f} MB")  # fmt: skip
    return table


def _sounds(audio: AudioSpec) -> Table:
    """The same of sounds by duration; positions of each window."""
    from rich.table import Table

    from simserve.arch.audio import audio_rows, audio_tokens
    from simserve.arch.encoder import feature_bytes
    from simserve.units import MS_PER_S

    table = Table("sound", "rows in the encoder", "tokens", "features")
    for seconds in SHOWN_SECONDS:
        tokens = audio_tokens(audio, seconds * MS_PER_S)
        table.add_row(f"{seconds} s", _groups(audio_rows(audio, seconds * MS_PER_S)), str(tokens),
                      f"{feature_bytes(audio, tokens) / 1e6:.2f} MB")  # fmt: skip
    return table


def _groups(rows: Rows) -> str:
    """Equal ones counted, in order: "1032 and 9 x 1015"."""
    parts = [(length, len(list(equal))) for length, equal in groupby(rows)]
    return " and ".join(f"{count} x {length}" if count > 1 else str(length) for length, count in parts)


@app.command("import")
def import_model(
    config: Annotated[Path, typer.Argument(help="config.json of a dense Hugging Face model.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="YAML file, or folder, to write (default: print).")
    ] = None,
) -> None:
    """Turn a Hugging Face config.json into a model file; pass the file to --model or name it in a study."""
    from simserve.report.save import write_atomic
    from simserve.spec.model import import_hf_config, to_yaml, yaml_file_name

    model = import_hf_config(config)
    if out is None:
        typer.echo(to_yaml(model), nl=False)
    else:
        path = out / yaml_file_name(model) if out.is_dir() else out
        typer.echo(f"wrote {write_atomic(path, to_yaml(model))}")
