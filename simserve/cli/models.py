"""`simserve models`: the model architectures that are known, and new ones from a Hugging Face config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simserve.cli.console import make_console

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
