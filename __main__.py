"""``python -m groundzoo`` is the ``groundzoo`` command."""

from .cli import main

if __name__ == "__main__":
    main()
