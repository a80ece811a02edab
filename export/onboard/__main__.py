"""`python BUNDLE/onboard --self-test`: see `self_test`.

Python puts a folder that it runs on its path, where a file of any name would be taken for a module: a `json.py` that no
contract lists would run before anything is checked. So nothing at all is imported before the path is clean.
"""

import sys


def own_package() -> str:
    """The name of the package that holds this file; run as a folder there is none yet, so it is loaded as `onboard`."""
    if __package__:
        return __package__
    folder = sys.path.pop(0)
    sys.dont_write_bytecode = True  # a bundle stays as it was written
    sys.pycache_prefix = "/dev/null"  # and only what has a hash runs: no bytecode that lies beside it
    import importlib.util
    import os

    source = os.path.join(os.path.abspath(folder), "__init__.py")
    spec = importlib.util.spec_from_file_location(
        "onboard", source, submodule_search_locations=[os.path.dirname(source)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["onboard"] = package
    spec.loader.exec_module(package)
    return "onboard"


if __name__ == "__main__":
    name = own_package()
    import importlib

    sys.exit(importlib.import_module(name + ".self_test").main())
