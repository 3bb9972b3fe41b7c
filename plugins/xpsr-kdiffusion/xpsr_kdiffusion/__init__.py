"""Samplers for ``xpsr_sdk`` that work in noise levels: DPM++ 2M and 2M SDE, Restart, Heun and ancestral Euler."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_samplers() -> list[ComponentSpec]:
    dpmpp = f"{__name__}.dpmpp:DPMSolverPP2M"
    restart = f"{__name__}.restart:RestartSampler"
    return [
        ComponentSpec("dpmpp-2m-sde", dpmpp, "DPM-Solver++ 2M for the SDE: adds noise (arXiv 2211.01095)."),
        ComponentSpec("dpmpp-2m-karras", dpmpp, "DPM-Solver++ 2M at Karras' noise levels.", {"eta": 0.0}),
        ComponentSpec("restart", restart, "Heun's method that goes back up and down again (arXiv 2306.14878)."),
        ComponentSpec("heun", restart, "Heun's second-order method (arXiv 2206.00364).", {"restarts": []}),
        ComponentSpec(
            "euler-ancestral",
            f"{__name__}.euler_ancestral:EulerAncestral",
            "Euler's method with fresh noise at each step (arXiv 2010.02502).",
        ),
    ]
