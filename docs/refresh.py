"""Run notebooks in a Jupyter kernel and save their outputs: `python docs/refresh.py [notebook ...]`

Cells that `nbdev-test` leaves out are left out here too. A second run changes only the times in progress tables."""
import os, sys
from pathlib import Path

os.environ |= dict(IN_TEST='1', PYTHONWARNINGS='ignore:IProgress not found',
    MPLBACKEND='module://matplotlib_inline.backend_inline')  # IN_TEST: no export from inside a notebook
os.chdir(Path(__file__).parents[1])

import nbformat
from nbclient import NotebookClient
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import nb_test_cells

class Client(NotebookClient):
    "Runs only the cells with an id in `keep`"
    keep = frozenset()
    async def async_execute_cell(self, cell, *args, **kwargs):
        return await super().async_execute_cell(cell, *args, **kwargs) if cell['id'] in self.keep else cell

def refresh(fn):
    nb = nbformat.read(fn, as_version=4)
    client = Client(nb, timeout=900, kernel_name='python3', resources={'metadata': {'path': str(fn.parent)}})
    client.keep = {c['id'] for c in nb_test_cells(fn, get_config().tst_flags)}
    client.execute()
    nbformat.write(nb, fn)
    nbdev_clean(str(fn))

if __name__=='__main__':
    for fn in [Path(o).absolute() for o in sys.argv[1:]] or sorted(nbglob(as_path=True)):
        print(fn.relative_to(Path.cwd()), flush=True)
        refresh(fn)
