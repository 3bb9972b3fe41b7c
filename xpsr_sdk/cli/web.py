"""``xpsr web``: a page on which photos are restored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from xpsr_sdk.cli.interrupts import interrupts
from xpsr_sdk.cli.options import setting
from xpsr_sdk.cli.terminal import quiet_libraries, say
from xpsr_sdk.cli.upscale import upscale
from xpsr_sdk.config import ExecutionConfig, Offload, PipelineConfig, load_config, read_toml, with_settings
from xpsr_sdk.errors import ConfigError
from xpsr_sdk.plugin_system.registry import default_registry
from xpsr_sdk.web.limits import Limits


def limit_options(command: Any) -> Any:
    """An option for each limit."""
    for name in reversed(Limits.model_fields):
        command = setting(Limits, name)(command)
    return command


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at. 0.0.0.0: all of them.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one.")
@click.option(
    "--auth-file",
    type=click.Path(path_type=Path),
    help="File with name:password in each line, instead of the environment variable XPSR_WEB_AUTH.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A model that visitors may choose: a preset, a folder, or a model on the hub. The first is the default. "
    "[default: all presets]",
)
@click.option(
    "--models-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder whose subfolders are models and checkpoints that visitors may choose too.",
)
@click.option(
    "--prompt-provider",
    "providers",
    multiple=True,
    help="A prompt provider that visitors may choose; the first is the default.  [default: measured]",
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with settings, which visitors may override.")
@setting(PipelineConfig, "device")
@setting(PipelineConfig, "dtype")
@setting(ExecutionConfig, "offload")
@limit_options
def web(
    host: str,
    port: int,
    auth_file: Path | None,
    models: tuple[str, ...],
    models_dir: Path | None,
    providers: tuple[str, ...],
    config: Path | None,
    device: str | None,
    dtype: str | None,
    offload: Offload | None,
    **limits: Any,
) -> None:
    """Restore photos on a web page, and by its API.

    Only this machine reaches the page, unless --host says otherwise; then a password is required. It needs the extra
    xpsr-sdk[web].
    """
    allowed = load_config(Limits, {name: value for name, value in limits.items() if value is not None}, "xpsr web")
    base = _base(config, device, dtype, offload, providers)
    registry = default_registry()
    _check_installed()
    from xpsr_sdk.web.gate import AUTH_VARIABLE, LOOPBACK, read_users  # after the quick checks

    users = read_users(auth_file)
    if host not in LOOPBACK and not users:
        raise ConfigError(
            f"Others may reach {host}, so a password is required: set {AUTH_VARIABLE}=name:password, or give "
            "--auth-file FILE with such lines."
        )
    say("Starting; this takes some seconds.", err=True)
    quiet_libraries()
    from xpsr_sdk.web.catalogue import Catalogue
    from xpsr_sdk.web.dials import Dials
    from xpsr_sdk.web.models import Models
    from xpsr_sdk.web.recipe import Recipe
    from xpsr_sdk.web.serving import serve

    flags = options_of_upscale()
    catalogue = Catalogue(registry, base, models, models_dir, providers)
    dials = Dials(catalogue, base, allowed, flags)
    models_of_page, recipe = Models(registry, allowed.warm_models), Recipe(base, flags)
    with interrupts("", softly=lambda number: False):  # so that temporary files leave
        serve(
            dials,
            models_of_page,
            allowed,
            recipe,
            users,
            host,
            port,
            tell=lambda address: say(f"The page is at {address} (Ctrl-C ends it)."),
        )


def options_of_upscale() -> dict[str, str]:
    """The options of ``xpsr upscale`` that set something: of each setting, its option."""
    return {
        parameter.name: parameter.opts[0]
        for parameter in upscale.params
        if parameter.name in PipelineConfig.model_fields
    }


def _base(
    config: Path | None, device: str | None, dtype: str | None, offload: Offload | None, providers: Sequence[str]
) -> PipelineConfig:
    """The settings of the operator."""
    of_file = read_toml(PipelineConfig, config) if config else None
    settings: dict[str, Any] = {"device": device, "dtype": dtype}
    if offload:
        own = of_file.execution.model_dump(exclude_unset=True) if of_file else {}
        settings["execution"] = own | {"offload": offload}
    if providers and (of_file is None or of_file.prompt_provider is None):
        settings["prompt_provider"] = providers[0]
    return with_settings(of_file, settings, "xpsr web")


def _check_installed() -> None:
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise ConfigError("The page needs the extra xpsr-sdk[web]: pip install 'xpsr-sdk[web]'.") from None
