"""Run the notebooks from top to bottom and store what they print and plot.

    python notebooks/execute.py [NAME ...]

What differs from run to run without meaning anything (times of execution, widgets' ids) is not stored.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
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
    client = NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(path.parent)}})
    return client.execute()


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
    names = sys.argv[1:]
    for path in sorted(HERE.glob("*.ipynb")):
        if not names or path.stem in names:
            print(path.name, flush=True)
            nbformat.write(cleaned(execute(path)), path)


if __name__ == "__main__":
    main()
