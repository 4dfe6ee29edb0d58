"""Run notebooks in a Jupyter kernel and save their outputs: `python docs/refresh.py [notebook ...]`

Cells that `nbdev-test` leaves out are left out here too. Each kernel starts from one seed and computes on one thread,
so that a second run on the same machine changes only the times in progress tables."""
import os, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ |= dict(IN_TEST='1', PYTHONWARNINGS='ignore:IProgress not found', PYTHONHASHSEED='0', OMP_NUM_THREADS='1',
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

seed = '--IPKernelApp.exec_lines=import fastai.torch_core as _core; _core.set_seed(0); del _core'

def refresh(fn):
    "Run the notebook at `fn` and write its outputs into it"
    nb = nbformat.read(fn, as_version=4)
    client = Client(nb, timeout=900, kernel_name='python3', coalesce_streams=True, extra_arguments=[seed], resources={'metadata': {'path': str(fn.parent)}})
    client.keep = {c['id'] for c in nb_test_cells(fn, get_config().tst_flags)}
    client.execute()
    nbformat.write(nb, fn)
    nbdev_clean(str(fn))
    return fn

if __name__=='__main__':
    fns = [Path(o).absolute() for o in sys.argv[1:]] or sorted(nbglob(as_path=True))
    with ProcessPoolExecutor() as pool:
        for fn in pool.map(refresh, fns): print(fn.relative_to(Path.cwd()), flush=True)
