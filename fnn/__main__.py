"""``python -m fnn`` and ``fnn``: the command line."""

import sys
from pathlib import Path


def main() -> None:
    """Run the command line, or say in one line which extra of fnn it lacks."""
    try:
        from fnn.cli.main import app
    except ImportError as error:
        # Those of fnn say what to install; any other is a fault, and shows where it is.
        if not str(error).startswith("fnn."):
            raise
        sys.exit(f"Error: {error}")
    app(prog_name="fnn" if Path(sys.argv[0]).stem == "fnn" else "python -m fnn")


if __name__ == "__main__":
    main()
