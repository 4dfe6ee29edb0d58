"Every notebook runs, as `nbdev-test` runs it"
import io, sys, warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context, set_start_method
import pytest, torch
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_nb

cfg = get_config()

def start(filters):
    "A warning that is an error in a test is one in a notebook"
    torch.set_num_threads(1)
    set_start_method(None, force=True)  # data loaders start their workers as anywhere else, not as this process was started
    for action,message,category,module,line in reversed(filters):
        warnings.filterwarnings(action, getattr(message, 'pattern', ''), category, getattr(module, 'pattern', ''), line)

def run(fn):
    "Whether the notebook at `fn` passes, and what it printed"
    sys.__stderr__ = out = io.StringIO()  # where nbdev writes the traceback
    with redirect_stdout(out), redirect_stderr(out): return run_nb(fn, skip_flags=cfg.tst_flags, basepath=cfg.config_path)[0],out.getvalue()

@pytest.fixture(scope='module')
def results(request):
    "The notebooks in two processes of their own: a notebook gives the library's classes its methods anew, which no other test is to see"
    fns = [o.callspec.params['fn'] for o in request.session.items if o.path==request.path]
    with ProcessPoolExecutor(2, get_context('spawn'), start, (list(warnings.filters),)) as pool:
        yield {fn: pool.submit(run, fn.absolute()) for fn in fns}
        pool.shutdown(cancel_futures=True)

@pytest.mark.parametrize('fn', sorted(nbglob(as_path=True)), ids=lambda o: str(o.relative_to(cfg.nbs_path)))
def test_notebook(fn, results):
    ok,printed = results[fn].result()
    assert ok, printed
