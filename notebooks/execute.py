"""Run the notebooks from top to bottom and store what they print and plot.

What differs from run to run without meaning anything (times of execution, widgets' ids) is not stored.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

HERE = Path(__file__).parent
_WITHOUT_WIDGETS = "ignore:IProgress not found"
"""A progress bar of text is what can be stored; tqdm advises widgets then."""
_KEPT = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def execute(path: Path, timeout: float = 300.0) -> NotebookNode:
    """A notebook as it is after a run in a kernel of its own.

    Args:
        path: The notebook.
        timeout: The longest that a cell may take, in seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        # Over TCP a kernel warns that anybody on this machine could listen; its sockets are files then.
        sockets = {"transport": "ipc", "ip": str(Path(folder) / "kernel")} if os.name == "posix" else {}
        client = NotebookClient(
            notebook,
            timeout=timeout,
            resources={"metadata": {"path": str(path.parent)}},
            config=Config({"KernelManager": sockets}),
        )
        return client.execute(env={**os.environ, "PYTHONWARNINGS": _WITHOUT_WIDGETS})


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what the run left beside its outputs."""
    notebook.metadata = nbformat.from_dict(_KEPT)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    return notebook


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs as they look in the end: a stream in one piece, and a line that was written over in its last state."""
    joined: list[NotebookNode] = []
    for output in outputs:
        before = joined[-1] if joined else None
        if before is not None and output.output_type == "stream" and output.name == before.get("name"):
            before.text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = "\n".join(line.rsplit("\r", 1)[-1] for line in output.text.split("\n"))
    return joined


def main() -> None:
    there = {path.stem: path for path in sorted(HERE.glob("*.ipynb"))}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which; all without one: {', '.join(there)}")
    names = parser.parse_args().names or list(there)
    if unknown := set(names) - set(there):
        parser.error(f"there is no notebook {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    for name in names:
        print(there[name].name, flush=True)
        nbformat.write(cleaned(execute(there[name])), there[name])


if __name__ == "__main__":
    main()
