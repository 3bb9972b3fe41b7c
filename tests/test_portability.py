"""Windows and macOS: what Unix alone has is not needed to import the package."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import builtins, importlib, pkgutil
import xpsr_sdk

HIDDEN = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
real_import = builtins.__import__

def limited_import(name, namespace=None, *rest, **named):
    if name.partition(".")[0] in HIDDEN and (namespace or {}).get("__name__", "").startswith("xpsr_sdk"):
        raise ModuleNotFoundError(f"{namespace['__name__']} imports {name}", name=name)
    return real_import(name, namespace, *rest, **named)

builtins.__import__ = limited_import
names = [m.name for m in pkgutil.walk_packages(xpsr_sdk.__path__, "xpsr_sdk.")]
names = [name for name in names if not name.endswith("__main__") and ".templates" not in name]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_every_module_is_imported_without_what_unix_alone_has() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 100
