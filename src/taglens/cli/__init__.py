"""The command line: parse, call one public function, print.

Importing this package loads nothing; `main` is the installed ``taglens`` program.
"""

from __future__ import annotations


def main() -> None:
    """Run the program with the process's own arguments and exit with its status."""
    from taglens.cli.main import start

    start()
