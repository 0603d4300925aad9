"""The command `metafunc`: what is worth doing without writing a program."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from metafunc.data.download import download_omniglot
from metafunc.data.report import check

CHECK = """Says which form the data has, how many classes and images there are, and whatever is wrong with it.
Ends with 0 if all is well, with 1 if there are problems, with 2 if the data is not recognised."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and gives its exit status.

    Args:
        arguments: those of the command line; default: of this process.
    """
    chosen = _parser().parse_args(arguments)
    return chosen.run(chosen)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="metafunc", description="Meta-learning in PyTorch.")
    topics = parser.add_subparsers(required=True, metavar="TOPIC")
    data = topics.add_parser("data", help="few-shot image data", description="Few-shot image data.")
    actions = data.add_subparsers(required=True, metavar="ACTION")

    checking = actions.add_parser(
        "check", help="say what is in a folder and what is wrong", description=CHECK
    )
    checking.add_argument("path", metavar="PATH", help="the folder or file that holds the data")
    checking.add_argument(
        "--size", type=int, metavar="N", help="images will be resized to N, so any size is fine"
    )
    checking.set_defaults(run=_check)

    download = actions.add_parser(
        "download",
        help="download a data set",
        description="Downloads a data set; interrupted, it goes on next time.",
    )
    download.add_argument(
        "name", metavar="NAME", choices=["omniglot"], help="omniglot: its two official zip files"
    )
    download.add_argument("folder", metavar="FOLDER", help="where to put the files")
    download.set_defaults(run=_download)
    return parser


def _check(chosen: Namespace) -> int:
    try:
        report = check(chosen.path, size=chosen.size)
    except (ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    print(report)
    return 1 if report.problems else 0


def _download(chosen: Namespace) -> int:
    try:
        folder = download_omniglot(chosen.folder)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{folder}: complete. Look at it with `metafunc data check {folder}`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
