"Imports go down: a module uses the floors below it and the `core` of its own room"
import ast, sys
from pathlib import Path
import pytest

pkg = Path(__file__).parents[1]/'mmbalance'
floors = [{'core', 'media', 'cache'}, {'ridge', 'running', 'inputs', 'shard_reader'}, {'data.spectrogram'}, {'layers', 'losses', 'data'}, {'models', 'fusion', 'metrics', 'compat', 'loaders', 'splits', 'shards', 'shard_loaders'}, {'datasets.files'}, {'callback', 'datasets'}, {'learner'}, {'ablation', 'recipes'}, {'interpret'}, {'diagnose'}, {'all'}, {'demo'}]
torch_alone = {'core', 'ridge', 'running', 'layers', 'losses', 'models', 'fusion', 'metrics', 'compat'}  # usable in any training loop
# `media` and `cache` read files, and `inputs` knows fastai's transforms; rooms of data stand on both
# of the room `data`, front ends of spectrograms are below the blocks that put them to use; of `datasets`, the lists and media are below the tables
modules = {'.'.join(f.relative_to(pkg).with_suffix('').parts): f for f in sorted(pkg.rglob('*.py')) if not f.stem.startswith('_')}

def room(name): return name.split('.')[0]
def floor(name): return next(i for i,o in enumerate(floors) if name in o or room(name) in o)

def imported(file, name):
    "The modules that `file` imports, with full names"
    here = ['mmbalance', *name.split('.')]
    for o in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(o, ast.Import): yield from (a.name for a in o.names)
        elif isinstance(o, ast.ImportFrom): yield '.'.join([*here[:-o.level], *(o.module or '').split('.')] if o.level else [o.module])

@pytest.mark.parametrize('name', modules)
def test_imports_go_down(name):
    for o in imported(modules[name], name):
        if not o.startswith('mmbalance.'): continue
        o = o.removeprefix('mmbalance.')
        assert floor(o)<floor(name) or o==f'{room(name)}.core', f'mmbalance.{name} (floor {floor(name)}) imports mmbalance.{o} (floor {floor(o)})'

@pytest.mark.parametrize('name', [o for o in modules if room(o) in torch_alone])
def test_torch_alone(name):
    others = {o.split('.')[0] for o in imported(modules[name], name)} - {'torch', 'mmbalance', *sys.stdlib_module_names}
    assert not others, f'mmbalance.{name} imports {", ".join(others)}; this floor needs torch alone'

def test_two_files_import_torchaudio():
    assert [n for n,f in modules.items() if any(o.split('.')[0]=='torchaudio' for o in imported(f, n))]==['data.audio', 'data.spectrogram']
