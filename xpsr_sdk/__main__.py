"""``python -m xpsr_sdk`` runs ``xpsr``, for launchers that start modules, such as ``accelerate launch -m``."""

from xpsr_sdk.cli.main import xpsr

xpsr(prog_name="xpsr")
