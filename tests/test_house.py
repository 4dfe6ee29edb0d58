"Facts that stand in two places agree"
import json, os, re, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).parents[1]
readme = root/'README.md'

def commands(): return re.findall(r'^python3 -m venv.*$', readme.read_text(encoding='utf-8'), re.M)

def test_ci_runs_the_readme():
    demo,tests = commands()
    assert 'mmbalance-demo' in demo and 'pytest' in tests
    assert tests in (root/'.ci/run').read_text(encoding='utf-8').splitlines()

def test_readme_is_the_index():
    "Each code cell that the index shows stands in README.md"
    text = readme.read_text(encoding='utf-8')
    for c in json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']:
        src = ''.join(c['source'])
        if c['cell_type']=='code' and not src.startswith('#|'): assert src in text, f'run `python docs/make.py`: {src[:60]!r} is not in README.md'

def test_public_names():
    "Adding a public name adds a line to public_names.json; removing one is a release note"
    code = 'import json, pkgutil, importlib, mmbalance\n' \
        'mods = [o.name for o in pkgutil.walk_packages(mmbalance.__path__, "mmbalance.") if not o.name.split(".")[-1].startswith("_") and o.name!="mmbalance.all"]\n' \
        'print(json.dumps({o: sorted(getattr(importlib.import_module(o), "__all__", [])) for o in sorted(mods)}))'
    have = json.loads(subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True, capture_output=True, text=True, cwd=root).stdout)
    want = json.loads((root/'tests/public_names.json').read_text(encoding='utf-8'))
    if os.environ.get('UPDATE_PUBLIC_NAMES'): (root/'tests/public_names.json').write_text(json.dumps(have, indent=1)+'\n', encoding='utf-8')
    else: assert have=={k: v for k,v in want.items()}, 'if this is meant, run UPDATE_PUBLIC_NAMES=1 pytest tests/test_house.py'

def test_all_brings_everything():
    import mmbalance.all as m
    want = json.loads((root/'tests/public_names.json').read_text(encoding='utf-8'))
    missing = [f'{mod}.{o}' for mod,names in want.items() for o in names if not hasattr(m, o) and mod not in ('mmbalance.demo', 'mmbalance.compat', 'mmbalance.ridge', 'mmbalance.running')]
    assert not missing, f'add to nbs/04_all.ipynb: {missing}'
