"Every notebook runs, as `nbdev-test` runs it"
import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_nb

cfg = get_config()

@pytest.mark.parametrize('fn', sorted(nbglob(as_path=True)), ids=lambda o: str(o.relative_to(cfg.nbs_path)))
def test_notebook(fn): assert run_nb(fn.absolute(), skip_flags=cfg.tst_flags, basepath=cfg.config_path)[0]
