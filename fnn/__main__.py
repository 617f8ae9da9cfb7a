"""``python -m fnn`` and ``fnn``: the command line."""

import atexit
import gc
import sys
from pathlib import Path

from fnn.cli import CALLED

# Modules and traced programs are many objects that live to the end. At the usual 700 new ones
# Python looks through all that there are so often that it takes a seventh of a short run.
_OBJECTS = 50_000


def main() -> None:
    """Run the command line, or say in one line which extra of fnn it lacks."""
    gc.set_threshold(_OBJECTS)
    # At the end nothing is looked through again, which takes as long: the memory is given back
    # with the process.
    atexit.register(gc.freeze)
    try:
        from fnn.cli.main import app
    except ImportError as error:
        # Those of fnn say what to install; any other is a fault, and shows where it is.
        if not str(error).startswith(("fnn.", CALLED)):
            raise
        sys.exit(f"Error: {error}")
    app(prog_name="fnn" if Path(sys.argv[0]).stem == "fnn" else CALLED)


if __name__ == "__main__":
    main()
