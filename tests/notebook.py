"""Execute docs/quickstart.ipynb: `python -m tests.notebook` writes the outputs into it, for the repository.

`python -m tests.notebook FOLDER` only executes a copy of it in that folder. Needs nbclient and ipykernel (extra `test`).
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def execute(folder: Path):
    """Return the notebook, executed with `folder` as its working directory."""
    import nbclient
    import nbformat

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute(env=os.environ)
    return notebook


def cleaned(notebook, folder: Path):
    """Return the notebook with only what a reader needs of its outputs: no redrawn bars, no paths of this machine."""
    for cell in notebook.cells:
        cell.metadata = {}
        joined = []
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
                joined[-1].text += output.text
            else:
                joined.append(output)
        for output in joined:
            if output.output_type == "stream":
                lines = [line.rpartition("\r")[2].rstrip() for line in output.text.replace("\r\n", "\n").split("\n")]
                output.text = "\n".join(line for line in lines if line or output.name == "stdout")
            text = output if output.output_type == "stream" else output.get("data", {})
            for name in ("text", "text/plain"):
                if name in text:
                    text[name] = re.sub(rf"{re.escape(str(folder))}/?", "", text[name])
        if "outputs" in cell:
            cell.outputs = [output for output in joined if output.output_type != "stream" or output.text.strip()]
    return notebook


def main() -> None:
    """Execute the notebook, and write it if no folder is given."""
    import nbformat

    start = time.monotonic()
    if len(sys.argv) > 1:
        execute(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(cleaned(execute(Path(folder).resolve()), Path(folder).resolve()), NOTEBOOK)
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
