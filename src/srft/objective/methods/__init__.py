"""The methods, by family: importing this registers those of every module in this folder, so a new file needs no edit
here."""

from importlib import import_module
from pkgutil import iter_modules

for _module in sorted(info.name for info in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")
